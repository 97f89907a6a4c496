"""Certificates: what a proof found, written so that it can be followed without believing it."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskc.frontend import write_model_files
from maskc.inspection.arguments import public
from maskc.runtime.random_inputs import Inputs
from maskc.verification import recheck as checking
from maskc.verification.recheck import Array, Boundary, Claim, Claims, Seen
from maskc.verification.regions.search import Proof, confirmed

# What is said where there is none.
NO_CERTIFICATE = "not all regions were compared and agree"
# Inputs of so many elements are written down; of larger ones of real numbers, what others like them are drawn by.
_FEW = 1 << 14


@dataclass(frozen=True)
class Certificate:
    """That a compiled model is the function of its source, with all that another needs to prove that again.

    inputs: those on which tensors were seen.
    """

    proof: Proof = field(repr=False)
    inputs: Sequence[Mapping[str, Seen]] = field(repr=False)

    @public
    def document(self, source: Sequence[Path], compiled: Sequence[Path]) -> dict[str, Any]:
        """The certificate as data, of the schema in the documentation, for models in these files."""
        proof = confirmed(self.proof)
        checker, regions = proof.checker, proof.regions
        sources = {region.boundary.source for region in regions.values()}
        claims = {name: checker.claims[name] for name in sorted(sources & checker.claims.keys())}
        return {
            "format": "maskc certificate",
            "version": checking.VERSION,
            "seed": checker.seed,
            "source": {"sha256": [checking.digest(path) for path in in_order(source)]},
            "compiled": {"sha256": [checking.digest(path) for path in in_order(compiled)]},
            "inputs": [{name: _tensor(seen) for name, seen in each.items()} for each in self.inputs],
            "claims": _by_axis(claims, lambda claim: claim.slices[claim.factors == 0]),
            "dependences": _by_axis(claims, lambda claim: np.stack([claim.slices, claim.of], 1)[claim.factors != 0]),
            "boundaries": {
                name: _boundary(name, region.boundary) | {"allowed": proof.judged[name].allowed}
                for name, region in regions.items()
            },
        }

    @public
    def save(self, path: Path, source: Sequence[Path], compiled: Sequence[Path]) -> None:
        """Write it as JSON, whole or not at all, for models in these files. Raises `InputError` when that fails."""
        text = json.dumps(self.document(source, compiled))
        write_model_files.write_text(path, f"{text}\n", "The certificate ")


def in_order(files: Sequence[Path]) -> list[Path]:
    """The file of a model before others that belong to it."""
    return [*files[:1], *sorted(files[1:])]


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


def _by_axis(claims: Mapping[str, Claims], what: Callable[[Claim], Array]) -> dict[str, dict[str, Any]]:
    """What claims say, by tensor and axis, where that is anything."""
    said = {name: {str(axis): what(claim).tolist() for axis, claim in axes.items()} for name, axes in claims.items()}
    return {name: left for name, axes in said.items() if (left := {axis: each for axis, each in axes.items() if each})}


def _boundary(name: str, boundary: Boundary) -> dict[str, Any]:
    said: dict[str, Any] = {} if boundary.source == name else {"source": boundary.source}
    if boundary.slices:
        said["slices"] = {str(axis): index.tolist() for axis, index in boundary.slices.items()}
    if boundary.factors:
        said["factors"] = {str(axis): each.tolist() for axis, each in boundary.factors.items()}
    return said if boundary.reads is None else said | {"reads": sorted(boundary.reads)}
