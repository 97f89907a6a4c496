"""Are two models the same function? Both are run on the same inputs, and all outputs are compared.

An output passes when, on every sample, `|error| <= atol + rtol * scale`, with scale the largest absolute
value that the reference's output has on that sample. `rtol`, unless it is given, is that of the coarsest
floating-point type in the graph: 1e-12 for float64, 1e-5 for float32, 1e-3 for half precision. Integers,
booleans and text must be equal.

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

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc import frontend, sampling
from maskc.errors import InputError, NotComparableError, NotEquivalentError, RunError, UnavailableError
from maskc.frontend.masks import apply_masks, read_masks
from maskc.graphs import float_types, type_of
from maskc.noise import NOISE_FACTOR, Noise, Outputs, Sample, distance
from maskc.report.figures import Figures
from maskc.runtime import Provider, Session, choose_provider, import_onnxruntime
from maskc.sampling import Inputs
from maskc.sizes import Shapes, fixed

# By floating-point type; everything else that is a float has half precision or less.
RTOL: dict[int, float] = {TensorProto.DOUBLE: 1e-12, TensorProto.FLOAT: 1e-5}
RTOL_HALF = 1e-3
TENSORFLOW_FACTOR = 10.0

DEFAULT_SAMPLES = 10

Run = Callable[[Inputs], Outputs]


@dataclass(frozen=True)
class OutputError:
    """How far one output is from the reference, over all samples.

    `max_abs` is the largest absolute error, `max_rel` the largest one relative to its sample's scale, and
    `scale` the largest absolute value of the reference. For integers, booleans and text, `max_abs` counts
    the elements that differ and `max_rel` is their share. `noise` is set when the plain tolerance failed:
    the largest movement of the reference under rounding that was measured. `reason` says what failed, and
    where.
    """

    name: str
    against: str
    dtype: str
    max_abs: float
    max_rel: float
    scale: float
    rtol: float
    atol: float
    noise: float | None
    passed: bool
    reason: str | None


@dataclass(frozen=True)
class Verification:
    """The result of comparing a compiled model with its reference.

    `passed` holds when all outputs agree and the reduction asked for is reached. `before` and `after` are the
    figures of the two files; `reasons` has a sentence for everything that failed, and `notes` for everything
    that a reader should know about how the comparison was made.
    """

    passed: bool
    equivalent: bool
    outputs: tuple[OutputError, ...]
    before: Figures
    after: Figures
    min_reduction: float | None
    provider: str
    samples: int
    seed: int
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def reduction(self) -> float:
        """FLOPs before over FLOPs after; infinite when nothing is left to compute."""
        return self.before.reduction_to(self.after)

    def raise_if_failed(self) -> None:
        """Raise `NotEquivalentError`, saying what failed first, unless the check passed."""
        if not self.passed:
            raise NotEquivalentError(self.reasons[0])


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
) -> Verification:
    """Compare a compiled model with its reference, both run in ONNX Runtime on the same inputs.

    `reference` and `compiled` are paths (`.onnx`, `.keras`, SavedModel) or `ModelProto`s; the figures of a
    `ModelProto` are those of the file it would make. With `masks` (a file or a mapping, as for
    `maskc.compile`) the reference is the model with these masks applied, and with `shapes` (as there) the
    model at these input sizes. `inputs` adds real data, an `.npz`
    file or arrays by input name, to the `samples` random ones. `provider` is `cpu`, `cuda` or `auto`.

    Returns a result with `.passed` and per-output errors. Raises `InputError` for unusable models or data and
    `UnavailableError` when the comparison cannot be made here.
    """
    before = fixed(frontend.read(reference), shapes)
    after = frontend.read(compiled)
    target = before.model
    if masks is not None:
        target = apply_masks(target, masks if isinstance(masks, Mapping) else read_masks(Path(masks)))
    return compare(
        target,
        after.model,
        original=before if before.tensorflow is not None else None,
        # TensorFlow runs without the masks, so it can only be compared with the model as it was converted.
        masked=masks is not None,
        figures=(Figures.of(before), Figures.of(after)),
        provider=provider,
        inputs=inputs if inputs is None or isinstance(inputs, Mapping) else read_inputs(Path(inputs)),
        samples=samples,
        seed=seed,
        rtol=rtol,
        atol=atol,
        min_reduction=min_reduction,
    )


def compare(
    reference: ModelProto,
    compiled: ModelProto,
    *,
    figures: tuple[Figures, Figures],
    original: frontend.Source | None = None,
    masked: bool = False,
    provider: str = "cpu",
    inputs: Mapping[str, NDArray[Any]] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float = 0.0,
    min_reduction: float | None = None,
) -> Verification:
    """`verify` for models that are read already; `original` is the TensorFlow model behind the reference."""
    _validate(samples, rtol, atol, min_reduction)
    reasons = _interface_differences(reference, compiled)
    before, after = figures
    chosen: Provider = "cpu"
    errors: list[OutputError] = []
    notes: list[str] = []
    count = 0
    if not reasons:
        chosen = choose_provider(provider)
        import_onnxruntime()
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
            ports = sampling.ports(reference)
            data = list(_data(ports, inputs, expected, samples, seed))
            notes += _size_notes(data)
            if expected.widened or actual.widened:
                notes.append("ONNX Runtime cannot compute with bfloat16 here, so float32 took its place.")
            count = len(data)
            judge = _Judge(
                Noise(reference, compiled, expected, chosen, seed),
                max((RTOL.get(type_, RTOL_HALF) for type_ in float_types(reference)), default=0.0),
                rtol,
                atol,
            )
            errors, failures = _judge(_pairs(actual, original, masked, chosen), judge, data)
            reasons += failures
            if chosen == "cuda":
                notes.append(_placed_on_cuda(reference, compiled, data[0].inputs))
    equivalent = not reasons
    if any(error.noise is not None and error.passed for error in errors):
        notes.append(
            f"Some errors are above the plain tolerance, and within {NOISE_FACTOR:g} times what rounding the "
            "reference's weights, or ONNX Runtime's own optimizations, do to it."
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
    )


def read_inputs(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by input name from an `.npz` file. Raises `InputError` when it cannot be read."""
    if not path.is_file():
        raise InputError(f"The input file {path} does not exist.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:
        raise InputError(f"The input file {path} cannot be read; it must be an .npz file of arrays.") from error


def _validate(count: int, rtol: float | None, atol: float, min_reduction: float | None) -> None:
    if count < 0:
        raise InputError("The number of samples must not be negative.")
    for name, value in (("rtol", rtol), ("atol", atol), ("min-reduction", min_reduction)):
        if value is not None and not (value >= 0 and np.isfinite(value)):
            raise InputError(f"The value of {name} must be a number that is not negative.")


def _interface_differences(reference: ModelProto, compiled: ModelProto) -> list[str]:
    """Sentences about inputs and outputs that are not there in both, or not of the same type and sizes."""
    found: list[str] = []
    for what, ours, theirs in (
        ("input", reference.graph.input, compiled.graph.input),
        ("output", reference.graph.output, compiled.graph.output),
    ):
        before, after = ({value.name: type_of(value) for value in values} for values in (ours, theirs))
        if what == "input":
            defaults = {tensor.name for tensor in reference.graph.initializer}
            before = {name: type_ for name, type_ in before.items() if name not in defaults or name in after}
        if list(before) != list(after):
            found.append(
                f"The {what}s differ: the reference has {_listed(before)} and the compiled model has {_listed(after)}."
            )
            continue
        for name, type_ in before.items():
            other = after[name]
            if type_.elem_type != other.elem_type:
                found.append(
                    f"The type of {what} '{name}' differs: {_type_name(type_.elem_type)} in the reference "
                    f"and {_type_name(other.elem_type)} in the compiled model."
                )
            elif what == "input" and type_.shape is not None and other.shape is not None:
                sizes, sizes_now = _static(type_.shape), _static(other.shape)
                if sizes != sizes_now:
                    found.append(f"The shape of input '{name}' differs: {type_.shape} and {other.shape}.")
                    if len(sizes) == len(sizes_now) and all(
                        a in (None, b) for a, b in zip(sizes, sizes_now, strict=True)
                    ):
                        found[-1] += " If it was compiled with --shape, give the same --shape here."
    return found


def _static(shape: Sequence[int | str | None]) -> list[int | None]:
    """The sizes that are fixed, None for the others."""
    return [dim if isinstance(dim, int) else None for dim in shape]


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def _type_name(elem_type: int) -> str:
    return TensorProto.DataType.Name(elem_type).lower() if elem_type else "no tensor"


def _data(
    ports: Sequence[sampling.Port],
    given: Mapping[str, NDArray[Any]] | None,
    expected: Session,
    count: int,
    seed: int,
) -> Iterator[Sample]:
    """Real data first, then random samples, each with what the reference makes of it."""
    if given is not None:
        real = _fitted(ports, given)
        try:
            yield Sample("real data", real, expected.run(real))
        except RunError as error:
            raise InputError(f"The reference cannot be run on the given inputs: {error}") from error
    if count == 0:
        if given is None:
            raise InputError("There is nothing to compare on: give a number of samples above 0, or real data.")
        return
    planned = sampling.plan(ports, expected.run, seed)
    for label, inputs in sampling.generate(ports, planned, count, seed):
        try:
            yield Sample(label, inputs, expected.run(inputs))
        except RunError as error:
            raise NotComparableError(
                f"The reference fails on random data ({label}): {error} Give real data with --inputs."
            ) from error


def _fitted(ports: Sequence[sampling.Port], given: Mapping[str, NDArray[Any]]) -> Inputs:
    """The given arrays in the types that the model declares."""
    wanted = {port.name: port for port in ports}
    missing = [name for name in wanted if name not in given]
    if missing:
        raise InputError(f"The input data has no array '{missing[0]}'. The model's inputs are {_listed(wanted)}.")
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InputError(
            f"The input data has an array '{unknown[0]}', which is no input. The model's inputs are {_listed(wanted)}."
        )
    result: Inputs = {}
    for name, port in wanted.items():
        array = np.asarray(given[name])
        dtype = _numpy_type(port.type.elem_type)
        if dtype is None or array.dtype == dtype:
            result[name] = array
        elif np.can_cast(array.dtype, dtype, "same_kind"):
            result[name] = array.astype(dtype)
        else:
            raise InputError(f"Input '{name}' must be of type {dtype}, and the data is of type {array.dtype}.")
    return result


def _numpy_type(elem_type: int) -> np.dtype[Any] | None:
    from onnx import helper

    if elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    return helper.tensor_dtype_to_np_dtype(elem_type)


def _size_notes(data: Sequence[Sample]) -> list[str]:
    leading = {array.shape[0] for sample in data for array in sample.inputs.values() if array.ndim}
    return ["Only one batch size could be compared."] if len(data) > 1 and len(leading) == 1 else []


@dataclass
class _Tally:
    """What is known so far about one output."""

    dtype: str = ""
    rtol: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    scale: float = 0.0
    noise: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Pair:
    """Two sides to compare: what is expected of a sample, and the model that must agree.

    `factor` widens the tolerance; `actual_name` is what a sentence calls the model.
    """

    against: str
    expected: Callable[[Sample], Outputs]
    actual: Run
    actual_name: str
    factor: float = 1.0


@dataclass(frozen=True)
class _Judge:
    """Decides on errors, by the tolerances given and the noise of the reference.

    `coarsest` is the tolerance of the coarsest type in the graph: a double that was computed from singles is
    no more accurate than they are.
    """

    noise: Noise
    coarsest: float
    rtol: float | None
    atol: float

    def errors(self, pair: _Pair, data: Sequence[Sample]) -> tuple[list[OutputError], str | None]:
        """Errors per output over all samples, and a sentence if the model cannot be run on some of them."""
        tallies = {name: _Tally() for name in data[0].expected}
        failure = None
        for sample in data:
            try:
                got = pair.actual(sample.inputs)
            except RunError as error:
                failure = f"With {sample.label}, {pair.actual_name} cannot be run where the reference can: {error}"
                break
            for name, wanted in pair.expected(sample).items():
                tally = tallies.setdefault(name, _Tally())
                if name in got:
                    self._add(tally, name, wanted, got[name], sample, pair.factor)
                else:
                    tally.reason = "it is missing"
        found = [
            OutputError(
                name=name,
                against=pair.against,
                dtype=tally.dtype,
                max_abs=tally.max_abs,
                max_rel=tally.max_rel,
                scale=tally.scale,
                rtol=tally.rtol,
                atol=self.atol,
                noise=tally.noise,
                passed=tally.reason is None,
                reason=tally.reason,
            )
            for name, tally in tallies.items()
        ]
        return found, failure

    def _add(
        self,
        tally: _Tally,
        name: str,
        wanted: NDArray[Any],
        got: NDArray[Any],
        sample: Sample,
        factor: float,
    ) -> None:
        """Take one sample of one output into account."""
        tally.dtype = str(wanted.dtype)
        error = distance(wanted, got)
        if error is None:
            tally.reason = tally.reason or f"with {sample.label}, {_how_unlike(wanted, got)}"
            return
        tolerance = 0.0
        if not error.exact:
            tally.rtol = self.rtol if self.rtol is not None else max(_rtol(wanted.dtype), self.coarsest) * factor
            tolerance = self.atol + tally.rtol * error.scale
        tally.max_abs = max(tally.max_abs, error.max_abs)
        tally.scale = max(tally.scale, error.scale)
        if error.max_abs:
            tally.max_rel = max(tally.max_rel, error.max_abs / error.scale if error.scale else math.inf)
        if error.max_abs <= tolerance or tally.reason is not None:
            return
        explained, moved = self.noise.explains(error, tolerance, name, sample)
        tally.noise = max(tally.noise or 0.0, moved)
        if explained:
            return
        if error.exact:
            tally.reason = f"with {sample.label}, {error.max_abs:.0f} of {wanted.size} elements differ"
        else:
            tally.reason = (
                f"with {sample.label}, the error is {error.max_abs:.3g} where {tolerance:.3g} is allowed "
                f"(largest value {error.scale:.3g})"
            )


def _pairs(actual: Session, original: frontend.Source | None, masked: bool, provider: Provider) -> list[_Pair]:
    """What is compared with what: the compiled model with the reference, and with its original."""
    pairs = [_Pair("ONNX Runtime", lambda sample: sample.expected, actual.run, "the compiled model")]
    if original is not None and original.tensorflow is not None:
        run = original.tensorflow.run
        converted = Session(original.model, provider).run if masked else actual.run
        name = "the ONNX model that tf2onnx converted" if masked else "the compiled model"
        pairs.append(_Pair("TensorFlow", lambda sample: run(sample.inputs), converted, name, TENSORFLOW_FACTOR))
    return pairs


def _judge(pairs: Sequence[_Pair], judge: _Judge, data: Sequence[Sample]) -> tuple[list[OutputError], list[str]]:
    """All errors, and a sentence for everything that failed."""
    errors: list[OutputError] = []
    failures: list[str] = []
    for pair in pairs:
        # The compiled model is compared with the conversion first; if they agree, the conversion is at fault.
        blame = "; tf2onnx converted the model wrongly" if pair.against == "TensorFlow" and not failures else ""
        found, failure = judge.errors(pair, data)
        errors += found
        failures += [failure] if failure else []
        failures += [
            f"Output '{error.name}' is not what {pair.against} computes from the reference: {error.reason}{blame}."
            for error in found
            if not error.passed
        ]
    return errors, failures


def _rtol(dtype: np.dtype[Any]) -> float:
    """The tolerance for an output of this type."""
    bits = 8 * dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return {64: RTOL[TensorProto.DOUBLE], 32: RTOL[TensorProto.FLOAT]}.get(bits, RTOL_HALF)


def _how_unlike(wanted: NDArray[Any], got: NDArray[Any]) -> str:
    if wanted.shape != got.shape:
        return f"its shape is {got.shape} where {wanted.shape} is expected"
    if wanted.dtype != got.dtype:
        return f"its type is {got.dtype} where {wanted.dtype} is expected"
    return "its NaNs or infinities are in other places"


def _placed_on_cuda(reference: ModelProto, compiled: ModelProto, inputs: Inputs) -> str:
    """How many nodes really ran on the GPU. Raises `UnavailableError` when none of the reference's did."""
    counts = []
    for model in (reference, compiled):
        session = Session(model, "cuda", profiled=True)
        session.run(inputs)
        counts.append(session.nodes_on_cuda())
    if counts[0] == 0:
        raise UnavailableError(
            "ONNX Runtime ran none of the reference's operators on CUDA, so nothing was verified there. "
            "Use --provider cpu."
        )
    return f"Run on CUDA, with TF32 off: {counts[0]} nodes of the reference, {counts[1]} of the compiled model."
