"""`maskc.recheck`: models of any kind that maskc reads, with their masks, checked by a certificate."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskc import frontend, progress
from maskc.errors import InputError, NotEquivalentError, telling
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.frontend.input_sizes import Shapes
from maskc.frontend.mask_files import apply_masks
from maskc.inspection.options import ReadOptions
from maskc.results.measurements import Regions
from maskc.verification import recheck as kernel
from maskc.verification.certificate import in_order
from maskc.verification.compare_regions import graph_of, summary_of


@telling()
def recheck(
    reference: str | os.PathLike[str],
    compiled: str | os.PathLike[str],
    certificate: str | os.PathLike[str],
    *,
    signature: str | None = None,
    masks: str | os.PathLike[str] | None = None,
    shapes: Shapes | None = None,
    seed: int | None = None,
) -> Regions:
    """Prove once more that two models are the same function, as the certificate of a compilation says.

    Nothing that the certificate says is believed: both sides of each region are run on random values, by `seed` on
    others than those of the certificate. `signature`, `masks` and `shapes` are as they were for `maskc.compile`.

    Returns how much was compared, in how many regions. Raises `NotEquivalentError` for models, slices, claims or bounds
    that are not as the certificate says, and `InputError` for what is no certificate or no model.

    Example:
        >>> small = verify("model.onnx", "model.onnx", certificate="proof.json")
        >>> recheck("model.onnx", "model.onnx", "proof.json").count > 0
        True
    """
    import_onnxruntime()
    document = _read(Path(certificate))
    reading = ReadOptions(masks=masks, shapes=shapes, signature=signature)
    before, after = reading.read(Path(reference), stay=True), frontend.read(Path(compiled), stay=True)
    model = before.model if masks is None else apply_masks(before.model, masks)
    read = (*before.files, *((Path(masks),) if masks is not None else ()))
    models = (graph_of(model), in_order(read)), (graph_of(after.model), in_order(after.files))
    try:
        with progress.stage("Comparing regions"):
            checker = kernel.recheck(*models, document, seed)
    except kernel.RefusedError as error:
        raise NotEquivalentError(f"The certificate is refused. {error}") from error
    return summary_of(checker, checker.boundaries.keys() - set(checker.compiled.inputs))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"The certificate {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no certificate: it is not JSON.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is no certificate: it is not an object of JSON.")
    return document
