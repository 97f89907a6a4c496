"""Are two models the same function? Both are run on the same inputs, and all outputs are compared.

An output passes when, on every sample, `|error| <= atol + rtol * scale`, with scale the largest absolute
value that the reference's output has on that sample. `rtol`, unless it is given, is that of the coarsest
floating-point type in the graph: 8 roundings times the square root of the depth of the output, and at most
1e-12 for float64, 1e-5 for float32, 1e-3 for half precision. Integers, booleans and text must be equal.

Two exact compilations of one function still round differently, and a network that is saturated, quantised,
or on the edge between two classes magnifies rounding. So when the plain tolerance fails, the reference's own
noise is measured on that sample: how far its output moves when its weights are changed by rounding errors,
or when it runs without ONNX Runtime's optimizations. An error of at most `NOISE_FACTOR` times that is no
evidence of a difference, and the result says that this was used.

Where the reference is a TensorFlow model, TensorFlow's own outputs are compared as well. Its kernels sum in
other orders than ONNX Runtime's, so the tolerance there is ten times as wide (1e-4 of the scale for
float32).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc import frontend, progress
from maskc.errors import InputError, NotComparableError, RunError, UnavailableError
from maskc.frontend import Source
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.frontend.mask_files import apply_masks
from maskc.inspection.flops import count
from maskc.report import files
from maskc.results.layers import layers
from maskc.results.measurements import ExactError, Latency, OutputError
from maskc.results.totals import Figures
from maskc.results.verification import Verification
from maskc.runtime import random_inputs
from maskc.runtime.latency import measure
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import (
    Provider,
    Session,
    choose_provider,
    import_onnxruntime,
    provider_title,
    rounds_products,
)
from maskc.verification import signature
from maskc.verification.bisection import Bisection, bisect
from maskc.verification.dump import write as write_dump
from maskc.verification.exact import Exact, affordable
from maskc.verification.inputs import Arrays, drawn, one_of_each, read_inputs, redrawn, size_notes
from maskc.verification.rounding_noise import NOISE_FACTOR, Noise, Sample
from maskc.verification.tolerance import Judge, Pair

TENSORFLOW_FACTOR = 10.0

DEFAULT_SAMPLES = 16


def verify(
    reference: str | os.PathLike[str] | ModelProto,
    compiled: str | os.PathLike[str] | ModelProto,
    *,
    masks: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    shapes: Shapes | None = None,
    provider: str = "cpu",
    inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float = 0.0,
    min_reduction: float | None = None,
    exact: bool | None = None,
    dump: str | os.PathLike[str] | None = None,
    bench: bool = False,
    reports: Sequence[str | os.PathLike[str]] = (),
) -> Verification:
    """Compare a compiled model with its reference, both run in ONNX Runtime on the same inputs.

    `reference` and `compiled` are paths (`.onnx`, `.keras`, SavedModel) or `ModelProto`s; the figures of a
    `ModelProto` are those of the file it would make. With `masks` (a file or a mapping, as for
    `maskc.compile`) the reference is the model with these masks applied, and with `shapes` (as there) the
    model at these input sizes; if the compiled model takes any sizes, these are tried beside others.
    `inputs` adds real data, an `.npz` file, a directory of them or arrays by input name, to the `samples`
    random ones. `provider` is `cpu`, `cuda`, `tensorrt` or `auto`. `exact` compares in double precision as well, in the
    reference evaluator of ONNX: True on all data, None on as much as takes a few seconds, where both models
    have such a form and no tolerance is given. `dump` is a directory for the smallest models that show a
    difference, and `bench` measures both models' latency. `reports` are files for a report, whether the models differ
    or not: a page (`.html`) or data (`.json`).

    Returns a result with `.passed` and per-output errors. Raises `InputError` for unusable models or data and
    `UnavailableError` when the comparison cannot be made here.
    """
    targets = [Path(report) for report in reports]
    files.check(targets)
    sources = frontend.read(reference), frontend.read(compiled)
    given = [Path(item) for item in (masks, inputs) if isinstance(item, (str, os.PathLike))]
    for path in targets:
        files.check_not_read(path, (*sources[0].files, *sources[1].files, *given), "report")
    before, after, tried = _sized(*sources, shapes)
    target = before.model
    if masks is not None:
        target = apply_masks(target, masks)
    costs = count(before), count(after)
    result = compare(
        target,
        after.model,
        original=before if before.tensorflow is not None else None,
        # TensorFlow runs without the masks, so it can only be compared with the model as it was converted.
        masked=masks is not None,
        figures=(Figures.from_cost(costs[0], before.bytes), Figures.from_cost(costs[1], after.bytes)),
        provider=provider,
        inputs=_real(inputs),
        tried=tried,
        samples=samples,
        seed=seed,
        rtol=rtol,
        atol=atol,
        min_reduction=min_reduction,
        exact=exact,
        dump=None if dump is None else Path(dump),
        bench=bench,
        bisect=True,
    )
    model, output = (None if source.path is None else str(source.path) for source in sources)
    result = dataclasses.replace(result, model=model, output=output, layers=layers(*costs))
    if targets:
        document = result.document()
        for path in targets:
            files.write(document, path)
    return result


def compare(
    reference: ModelProto,
    compiled: ModelProto,
    *,
    figures: tuple[Figures, Figures],
    original: frontend.Source | None = None,
    masked: bool = False,
    provider: str = "cpu",
    inputs: Mapping[str, Arrays] | None = None,
    tried: Mapping[str, int] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float = 0.0,
    min_reduction: float | None = None,
    exact: bool | None = False,
    dump: Path | None = None,
    bench: bool = False,
    bisect: bool = False,
) -> Verification:
    """`verify` for models that are read already; `original` is the TensorFlow model behind the reference.

    `inputs` are arrays by input name, under what to call them; `tried` are values for symbolic sizes. With
    `bisect`, the first difference inside models that are not equivalent is looked for.
    """
    _validate(samples, seed, rtol, atol, min_reduction)
    if dump is not None and dump.exists() and not dump.is_dir():
        raise InputError(f"{dump} is not a directory, and nothing can be dumped there.")
    reasons = signature.differences(reference, compiled)
    before, after = figures
    chosen: Provider = "cpu"
    errors: list[OutputError] = []
    notes: list[str] = []
    count = 0
    exact_errors: tuple[ExactError, ...] | None = None
    located: Bisection | None = None
    latency: Latency | None = None
    if not reasons:
        chosen = choose_provider(provider)
        import_onnxruntime()
        with progress.stage("Loading both models in ONNX Runtime"):
            try:
                expected = Session(reference, chosen)
            except RunError as error:
                raise NotComparableError(f"The reference cannot be run: {error}") from error
            try:
                actual = Session(compiled, chosen)
            except RunError as error:
                actual = None
                reasons.append(f"The compiled model cannot be run: {error}")
        if actual is not None:
            ports = random_inputs.ports(reference)
            data = _run(drawn(ports, inputs or {}, expected, samples, seed, tried or {}), samples + len(inputs or ()))
            notes += size_notes(data)
            if expected.widened or actual.widened:
                notes.append("ONNX Runtime cannot compute with bfloat16 here, so float32 took its place.")
            count = len(data)
            judge = Judge(Noise(reference, compiled, expected, chosen, seed), reference, rtol, atol)
            pairs = _pairs(actual, original, masked, chosen)
            with progress.stage("Comparing", len(pairs) * len(data)) as stage:
                verdicts = judge.verdicts([_counted(pair, stage) for pair in pairs], data)
            errors = list(verdicts.errors)
            reasons += verdicts.failures
            failed = verdicts.sample
            if exact or (exact is None and rtol is None and not atol):
                exact_errors, shown = _exactly(reference, compiled, ports, data, before.flops, seed, bool(exact))
                failed = failed or shown
            if exact_errors is not None:
                reasons += _failures(exact_errors)
                if verdicts.sample is not None and all(error.passed for error in exact_errors):
                    notes.append("In double precision the models agree, so it is rounding that differs.")
            if reasons and bisect:
                located = _located(reference, compiled, data, failed, before.flops, seed)
                if located is None:
                    notes.append("Where the models part was not found.")
                elif dump is not None:
                    notes.append(_dumped(dump, located, failed or data[0]))
            # What cannot be run on these data has failed above.
            with contextlib.suppress(RunError) if reasons else contextlib.nullcontext():
                if chosen != "cpu":
                    notes.append(_placed(reference, compiled, data[0].inputs, chosen))
                if bench:
                    latency = measure(expected, actual, data[0].inputs, chosen)
    equivalent = not reasons
    if any(error.noise is not None and error.passed for error in errors):
        notes.append(
            f"Some errors are above the plain tolerance, and within {NOISE_FACTOR:g} times what rounding the "
            "reference's weights, or ONNX Runtime's own optimizations, do to it."
        )
    if any(map(rounds_products, (reference, compiled))):
        notes.append(
            "Products with quantised weights were computed in single precision. By default ONNX Runtime rounds their "
            "data to 8 bits as well, where it sees them; session.qdq_matmulnbits_accuracy_level=1 tells it not to."
        )
    reduction = before.reduction_to(after)
    if min_reduction is not None and reduction < min_reduction:
        reasons.append(
            f"FLOPs fell by a factor of {reduction:.4g} and {min_reduction:g} was asked for "
            f"({before.flops:,} before, {after.flops:,} after)."
        )
    return Verification(
        passed=not reasons,
        equivalent=equivalent,
        outputs=tuple(errors),
        before=before,
        after=after,
        min_reduction=min_reduction,
        provider=chosen,
        samples=count,
        seed=seed,
        reasons=tuple(reasons),
        notes=tuple(notes),
        exact=exact_errors,
        parting=None if located is None else located.difference,
        latency=latency,
    )


def _run(samples: Iterable[Sample], count: int) -> list[Sample]:
    """All samples, each of which the reference has run on when it comes."""
    found: list[Sample] = []
    with progress.stage("Running the reference", count) as stage:
        for sample in samples:
            found.append(sample)
            stage.advance(note=sample.label)
            shapes = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in sample.inputs.items())
            progress.detail(f"  data: {sample.label}; {shapes}")
    return found


def _counted(pair: Pair, stage: progress.Stage) -> Pair:
    """The pair, with each run of its model a step of the stage."""

    def run(inputs: Inputs) -> dict[str, NDArray[Any]]:
        stage.advance(note=f"with {pair.against}")
        return pair.actual(inputs)

    return dataclasses.replace(pair, actual=run)


def _exactly(
    reference: ModelProto,
    compiled: ModelProto,
    ports: Sequence[random_inputs.Port],
    data: Sequence[Sample],
    flops: int,
    seed: int,
    demanded: bool,
) -> tuple[tuple[ExactError, ...] | None, Sample | None]:
    """Errors in double precision, and the first sample that shows one.

    If that is not `demanded`, on what can be computed in a few seconds, and None where it cannot be done.
    """
    again = redrawn(ports, data, seed)
    chosen = [*data, *again] if demanded else affordable([*one_of_each(data), *again], flops)
    for samples in (chosen, [sample for sample in chosen if sample.expected]):  # not every model takes any batch
        try:
            compared = Exact(reference, compiled, seed)
            errors = compared.compare(samples)
        except UnavailableError:
            if demanded and samples is not chosen:
                raise
            continue
        return errors or None, compared.failed
    return None, None


def _failures(errors: Sequence[ExactError]) -> list[str]:
    return [
        f"Output '{error.name}' is not what the reference computes in double precision: with {error.sample}, the error "
        f"is {error.error:.3g} of its scale where rounding weights allows {error.allowed:.3g}."
        for error in errors
        if not error.passed
    ]


def _located(
    reference: ModelProto,
    compiled: ModelProto,
    data: Sequence[Sample],
    failed: Sample | None,
    flops: int,
    seed: int,
) -> Bisection | None:
    """Where the models part; the sample that failed is looked at first."""
    samples = [*([failed] if failed is not None else []), *(sample for sample in data if sample is not failed)]
    return bisect(reference, compiled, samples, seed, double=bool(affordable(samples[:1], flops)))


def _dumped(directory: Path, located: Bisection, sample: Sample) -> str:
    """Write what shows the difference; a sentence on how that went, which must not hide the difference itself."""
    try:
        return f"Written: {', '.join(map(str, write_dump(directory, located, sample)))}."
    except InputError as error:
        return str(error)


def _sized(reference: Source, compiled: Source, shapes: Shapes | None) -> tuple[Source, Source, dict[str, int]]:
    """The two models, with the reference at the sizes given, or sizes to try if the compiled model takes any."""
    at_sizes = fixed(reference, shapes)
    if at_sizes is reference or signature.differences(reference.model, compiled.model):
        return at_sizes, compiled, {}
    tried = {
        symbol: size
        for port in random_inputs.ports(reference.model)
        for symbol, size in zip(port.symbols(), _asked(port, (shapes or {}).get(port.name, ())), strict=False)
        if isinstance(size, int)
    }
    return reference, compiled, tried


def _asked(port: random_inputs.Port, sizes: Sequence[int | str | None]) -> list[int | str | None]:
    """Of the sizes given for an input, those of its symbolic dimensions."""
    return [size for dim, size in zip(port.type.shape or (), sizes, strict=False) if not isinstance(dim, int)]


def _real(inputs: str | os.PathLike[str] | Mapping[str, NDArray[Any]] | None) -> Mapping[str, Arrays]:
    if inputs is None:
        return {}
    return {"real data": inputs} if isinstance(inputs, Mapping) else read_inputs(Path(inputs))


def _validate(count: int, seed: int, rtol: float | None, atol: float, min_reduction: float | None) -> None:
    if count < 0:
        raise InputError("The number of samples must not be negative.")
    if seed < 0:
        raise InputError("The seed must not be negative.")
    for name, value in (("rtol", rtol), ("atol", atol), ("min-reduction", min_reduction)):
        if value is not None and not (value >= 0 and np.isfinite(value)):
            raise InputError(f"The value of {name} must be a number that is not negative.")


def _pairs(actual: Session, original: frontend.Source | None, masked: bool, provider: Provider) -> list[Pair]:
    """What is compared with what: the compiled model with the reference, and with its original."""
    pairs = [Pair("ONNX Runtime", lambda sample: sample.expected, actual.run, "the compiled model")]
    if original is not None and original.tensorflow is not None:
        run = original.tensorflow.run
        converted = Session(original.model, provider).run if masked else actual.run
        name = "the ONNX model that tf2onnx converted" if masked else "the compiled model"
        pairs.append(Pair("TensorFlow", lambda sample: run(sample.inputs), converted, name, TENSORFLOW_FACTOR))
    return pairs


def _placed(reference: ModelProto, compiled: ModelProto, inputs: Inputs, provider: Provider) -> str:
    """How many nodes really ran on the GPU. Raises `UnavailableError` when none of the reference's did."""
    counts = []
    for model in (reference, compiled):
        session = Session(model, provider, profiled=True)
        session.run(inputs)
        counts.append(session.nodes_on(provider))
    where = provider_title(provider)
    if counts[0] == 0:
        raise UnavailableError(
            f"ONNX Runtime ran none of the reference's operators on {where}, so nothing was verified there. "
            "Use --provider cpu."
        )
    what = "compiled parts" if provider == "tensorrt" else "nodes"
    return f"Run on {where}, with TF32 off: {counts[0]} {what} of the reference, {counts[1]} of the compiled model."
