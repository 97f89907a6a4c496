"""`maskc.verify`: two models read, at the sizes asked for, compared and reported; and `maskc.recheck`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maskc import frontend, progress
from maskc.errors import InputError, NotEquivalentError
from maskc.frontend import Source
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.frontend.mask_files import Masks, apply_masks
from maskc.inspection.arguments import public
from maskc.inspection.flops import count_both
from maskc.inspection.options import ReadOptions, from_arguments
from maskc.report import files
from maskc.results.layers import layers
from maskc.results.measurements import Figures, Regions
from maskc.results.verification import Verification
from maskc.runtime import random_inputs
from maskc.verification import input_output_signature
from maskc.verification import recheck as checking
from maskc.verification.certificate import NO_CERTIFICATE, in_order
from maskc.verification.compare import Models, compare
from maskc.verification.compare_regions import graph_of, summary_of
from maskc.verification.inputs import read_inputs
from maskc.verification.options import DEFAULT_SAMPLES, VerifyOptions
from passes.model.inputs_with_defaults import without_defaults
from passes.sizes.sizes_to_count_at import Sizes


@public
def verify(
    reference: frontend.Model,
    compiled: frontend.Model,
    *,
    signature: str | None = None,
    masks: Masks | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
    provider: str = "cpu",
    inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float = 0.0,
    min_reduction: float | None = None,
    dump: str | os.PathLike[str] | None = None,
    bench: bool = False,
    certificate: str | os.PathLike[str] | None = None,
    reports: Sequence[str | os.PathLike[str]] = (),
) -> Verification:
    """Compare a compiled model with its reference, both run in one runtime on the same inputs.

    `reference` and `compiled` are paths (`.onnx`, `.keras`, `.h5`, SavedModel), `ModelProto`s or Keras models; the
    figures of a model in memory are those of the file it would make. Inputs and outputs that have other names, and fit
    in their order, are compared in it, with a note. `signature` names the signature or function of a SavedModel,
    by default the one to serve. With `masks` (a file or a mapping, as for `maskc.compile`) the reference is the model
    with these masks applied, and with `shapes` (as there) the model at these input sizes; if the compiled model takes
    any sizes, these are tried beside others. `at` says at what sizes FLOPs are counted, as for `maskc.flops`. `inputs`
    adds real data, an `.npz` file, a directory of them or arrays by input name, to the `samples` random ones.
    `provider` is `cpu`, `cuda`, `tensorrt` or `auto`, all in ONNX Runtime, or `openvino`. `dump` is a
    directory for the region in which the models differ, and `bench` measures both models' latency. `certificate` is a
    file for the proof that both are the same function, which `maskc.recheck` checks; where there is none, a note says
    so. `reports` are files for a report, whether the models differ or not: a page (`.html`) or data (`.json`).

    Returns a result with `.passed` and per-output errors. Raises `InputError` for unusable models or data and
    `UnavailableError` when the comparison cannot be made here.

    Example:
        >>> verify("model.onnx", "model.onnx", samples=2).reduction
        1.0
    """
    reading = from_arguments(ReadOptions, locals())
    options = from_arguments(VerifyOptions, locals(), dump=None if dump is None else Path(dump))
    return verify_with(reference, compiled, reading, options, inputs=inputs, certificate=certificate, reports=reports)


def verify_with(
    reference: frontend.Model,
    compiled: frontend.Model,
    reading: ReadOptions,
    options: VerifyOptions,
    *,
    inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    reports: Sequence[str | os.PathLike[str]] = (),
) -> Verification:
    """`verify` with its options as two values: how the models are read, and how they are compared."""
    masks, shapes, at = reading.masks, reading.shapes, reading.at
    targets = [Path(report) for report in reports]
    files.check(targets)
    proof = [] if certificate is None else [("certificate", Path(certificate))]
    for what, path in proof:
        files.check_target(path, what)
    sources = frontend.read_both(reference, compiled, reading.signature)
    given = _given(masks, inputs)
    read = (*sources[0].files, *sources[1].files, *given)
    files.check_places([*(("report", path) for path in targets), *proof], read)
    before, after = sources
    renamed, names = input_output_signature.as_in(before.model, after.model)
    before, after, sizes = _sized(before, dataclasses.replace(after, model=renamed), shapes)
    masked = before.model if masks is None else apply_masks(before.model, masks)
    costs = count_both(dataclasses.replace(before, model=masked), after, at)
    models = Models(
        masked,
        after.model,
        Figures.from_cost(costs[0], before.bytes),
        Figures.from_cost(costs[1], after.bytes),
        before,
    )
    real = {} if inputs is None else {"real data": inputs} if isinstance(inputs, Mapping) else read_inputs(Path(inputs))
    result = compare(models, options, real, sizes)
    model, output = (None if source.path is None else str(source.path) for source in sources)
    result = dataclasses.replace(
        result, model=model, output=output, layers=layers(*costs), notes=(*names, *result.notes)
    )
    for _, path in proof:
        if result.certificate is None or names or not all(source.files for source in sources):
            why = (
                NO_CERTIFICATE if result.certificate is None else "the models are not files with the same names inside"
            )
            result = dataclasses.replace(result, notes=(*result.notes, f"{path} is not written: {why}."))
        else:
            result.certificate.save(path, (*sources[0].files, *_given(masks)), sources[1].files)
    for path in targets:
        files.write(result.document(), path)
    return result


def _given(*items: object) -> list[Path]:
    """Those that are files."""
    return [Path(item) for item in items if isinstance(item, (str, os.PathLike))]


def _sized(reference: Source, compiled: Source, shapes: Shapes | None) -> tuple[Source, Source, dict[str, int]]:
    """The two models, with the reference at the sizes given, or sizes to try if the compiled model takes any."""
    at_sizes = fixed(reference, shapes)
    if at_sizes is reference or input_output_signature.differences(reference.model, compiled.model):
        return at_sizes, compiled, {}
    tried: dict[str, int] = {}
    for port in random_inputs.ports(reference.model):
        given = zip(port.type.shape or (), (shapes or {}).get(port.name, ()), strict=False)
        asked = (size for dim, size in given if not isinstance(dim, int))
        tried |= {symbol: size for symbol, size in zip(port.symbols(), asked, strict=False) if isinstance(size, int)}
    return reference, compiled, tried


@public
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
    if seed is not None and seed < 0:
        raise InputError(f"The seed must not be negative, and it is {seed}.")
    import_onnxruntime()
    document = _certificate(Path(certificate))
    reading = ReadOptions(masks=masks, shapes=shapes, signature=signature)
    before, after = reading.read(Path(reference), stay=True), frontend.read(Path(compiled), stay=True)
    model = before.model if masks is None else apply_masks(before.model, masks)
    read = (*before.files, *_given(masks))
    given = {name for each in document.get("inputs", ()) for name in each}
    graphs = [graph_of(without_defaults(each, given)) for each in (model, after.model)]
    models = (graphs[0], in_order(read)), (graphs[1], in_order(after.files))
    try:
        with progress.stage("Comparing regions"):
            checker = checking.recheck(*models, document, seed)
    except checking.RefusedError as error:
        raise NotEquivalentError(f"The certificate is refused. {error}") from error
    made = checker.boundaries.keys() - set(checker.compiled.inputs)
    return summary_of(checker.compiled, [checker.region(name) for name in made])


def _certificate(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"The certificate {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no certificate: it is not JSON.") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is no certificate: it is not an object of JSON.")
    return document
