"""Certificates: what a proof found, written so that `recheck`, here or alone, can follow it without believing it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from maskc.frontend import write_model_files
from maskc.runtime.random_inputs import Inputs
from maskc.verification import recheck
from maskc.verification.recheck import Boundary, Claims, Seen
from maskc.verification.regions.search import Proof

# Inputs of so many elements are written down; of larger ones of real numbers, what others like them are drawn by.
_FEW = 1 << 14


@dataclass(frozen=True)
class Certificate:
    """That a compiled model is the function of its source, with all that another needs to prove that again.

    inputs: those on which tensors were seen. models: both, before and after, as `digest` takes them.
    """

    proof: Proof = field(repr=False)
    inputs: Sequence[Mapping[str, Seen]] = field(repr=False)
    models: tuple[tuple[ModelProto, Path], tuple[ModelProto, Path]] = field(repr=False)

    def document(self) -> dict[str, Any]:
        """The certificate as data, of the schema in the documentation."""
        checker = self.proof.checker
        regions = {name: checker.region(name) for name in self.proof.proved & self.proof.judged.keys()}
        sources = {region.boundary.source for region in regions.values()}
        source, compiled = ({"sha256": recheck.digest(*model)} for model in self.models)
        return {
            "format": "maskc certificate",
            "version": recheck.VERSION,
            "seed": checker.seed,
            "source": source,
            "compiled": compiled,
            "inputs": [{name: _tensor(seen) for name, seen in each.items()} for each in self.inputs],
            "claims": {name: _claims(checker.claims[name]) for name in sorted(sources & checker.claims.keys())},
            "boundaries": {
                name: _boundary(name, regions[name].boundary) | {"allowed": self.proof.judged[name].allowed}
                for name in sorted(regions, key=lambda name: checker.compiled.maker.get(name, -1))
            },
        }

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all. Raises `InputError` when that fails."""
        write_model_files.write_text(path, json.dumps(self.document()) + "\n", "The certificate")


def seen_in(feeds: Sequence[Inputs]) -> list[dict[str, Seen]]:
    """Inputs as a certificate has them."""
    return [{name: Seen.of([np.asarray(array)], _FEW) for name, array in each.items()} for each in feeds]


def _tensor(seen: Seen) -> dict[str, Any]:
    said: dict[str, Any] = {"shape": list(seen.shapes[0]), "dtype": seen.dtype.name}
    if seen.values is None:
        return said | {key: getattr(seen, key) for key in ("mean", "spread", "low", "high")}
    (array,) = seen.values
    if array.dtype.kind == "O":
        return said | {"values": [str(word) for word in array.reshape(-1)]}
    return said | {"values": base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()}


def _boundary(name: str, boundary: Boundary) -> dict[str, Any]:
    said: dict[str, Any] = {} if boundary.source == name else {"source": boundary.source}
    if boundary.slices:
        said["slices"] = {str(axis): index.tolist() for axis, index in boundary.slices.items()}
    return said if boundary.reads is None else said | {"reads": sorted(boundary.reads)}


def _claims(claims: Claims) -> dict[str, Any]:
    return {
        str(axis): {"slices": slices.tolist(), "constants": np.asarray(constants, np.float64).tolist()}
        for axis, (slices, constants) in claims.items()
    }
