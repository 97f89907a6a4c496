"""Are two models the same function? Both are run on the same inputs, and all outputs are compared.

An output passes when, on every sample, `|error| <= atol + rtol * scale`, with scale the largest absolute
value that the reference's output has on that sample. `rtol` is chosen by the output's type unless it is
given: 1e-5 for float32, 1e-12 for float64, 1e-3 for half precision or when the graph holds any. Integers,
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

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from maskc import frontend, sampling
from maskc.errors import InputError, NotEquivalentError, RunError, UnavailableError
from maskc.frontend.masks import apply_masks, read_masks
from maskc.graphs import HALF_TYPES, all_nodes, all_tensors, holds_half_precision, type_of
from maskc.report.figures import Figures
from maskc.runtime import Provider, Session, choose_provider, import_onnxruntime
from maskc.sampling import Inputs

RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12, np.dtype(np.float16): 1e-3}
RTOL_HALF = 1e-3
TENSORFLOW_FACTOR = 10.0

NOISE_FACTOR = 4.0
# How many copies of the reference with rounded weights there are, and how often each is run on rounded inputs
# before a movement counts as never seen.
_NOISE_SESSIONS = 3
_NOISE_ROUNDS = 10
# Weights are moved by at most this many units in the last place: one for being stored, one for being
# combined.
_NOISE_ULPS = 2.0

# Operators whose float operands are sizes, not weights: moved by a rounding they change the output's shape.
_SIZED_BY_FLOATS = frozenset({"Resize", "Upsample", "Range"})

DEFAULT_SAMPLES = 10

Run = Callable[[Inputs], dict[str, NDArray[Any]]]


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
    `maskc.compile`) the reference is the model with these masks applied. `inputs` adds real data, an `.npz`
    file or arrays by input name, to the `samples` random ones. `provider` is `cpu`, `cuda` or `auto`.

    Returns a result with `.passed` and per-output errors. Raises `InputError` for unusable models or data and
    `UnavailableError` when the comparison cannot be made here.
    """
    before = frontend.read(reference)
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
            raise InputError(f"The reference cannot be run: {error}") from error
        try:
            actual = Session(compiled, chosen)
        except RunError as error:
            actual = None
            reasons.append(f"The compiled model cannot be run: {error}")
        if actual is not None:
            ports = sampling.ports(reference)
            data = list(_data(ports, inputs, expected, samples, seed))
            notes += _size_notes(data)
            count = len(data)
            noise = _Noise(reference, expected, chosen, seed)
            errors, failures = _compare_all(
                reference,
                expected,
                actual,
                data,
                noise,
                _tensorflow(original, masked, chosen),
                rtol,
                atol,
            )
            reasons += failures
            if chosen == "cuda":
                notes.append(_placed_on_cuda(reference, compiled, data[0].inputs))
    equivalent = not reasons
    if any(error.noise is not None and error.passed for error in errors):
        notes.append(
            f"Some errors are above the plain tolerance, and within {NOISE_FACTOR:g} times what a rounding "
            "of the "
            "reference's own weights does to it."
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
        raise InputError(
            f"The input file {path} cannot be read; it must be an .npz file of arrays."
        ) from error


@dataclass(frozen=True)
class _Sample:
    label: str
    inputs: Inputs
    expected: dict[str, NDArray[Any]]


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
                f"The {what}s differ: the reference has {_listed(before)} and the compiled model has "
                f"{_listed(after)}."
            )
            continue
        for name, type_ in before.items():
            other = after[name]
            if type_.elem_type != other.elem_type:
                found.append(
                    f"The type of {what} '{name}' differs: {_type_name(type_.elem_type)} in the reference "
                    "and "
                    f"{_type_name(other.elem_type)} in the compiled model."
                )
            elif what == "input" and type_.shape is not None and other.shape is not None:
                fixed = [dim if isinstance(dim, int) else None for dim in type_.shape]
                if fixed != [dim if isinstance(dim, int) else None for dim in other.shape]:
                    found.append(f"The shape of input '{name}' differs: {type_.shape} and {other.shape}.")
    return found


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
) -> Iterator[_Sample]:
    """Real data first, then random samples, each with what the reference makes of it."""
    if given is not None:
        real = _fitted(ports, given)
        try:
            yield _Sample("real data", real, expected.run(real))
        except RunError as error:
            raise InputError(f"The reference cannot be run on the given inputs: {error}") from error
    if count == 0:
        if given is None:
            raise InputError(
                "There is nothing to compare on: give a number of samples above 0, or real data."
            )
        return
    planned = sampling.plan(ports, expected.run, seed)
    for label, inputs in sampling.generate(ports, planned, count, seed):
        try:
            yield _Sample(label, inputs, expected.run(inputs))
        except RunError as error:
            raise InputError(
                f"The reference fails on random data ({label}): {error} Give real data with --inputs."
            ) from error


def _fitted(ports: Sequence[sampling.Port], given: Mapping[str, NDArray[Any]]) -> Inputs:
    """The given arrays in the types that the model declares."""
    wanted = {port.name: port for port in ports}
    missing = [name for name in wanted if name not in given]
    if missing:
        raise InputError(
            f"The input data has no array '{missing[0]}'. The model's inputs are {_listed(wanted)}."
        )
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InputError(
            f"The input data has an array '{unknown[0]}', which is no input. The model's inputs are "
            f"{_listed(wanted)}."
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
            raise InputError(
                f"Input '{name}' must be of type {dtype}, and the data is of type {array.dtype}."
            )
    return result


def _numpy_type(elem_type: int) -> np.dtype[Any] | None:
    from onnx import helper

    if elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    return helper.tensor_dtype_to_np_dtype(elem_type)


def _size_notes(data: Sequence[_Sample]) -> list[str]:
    leading = {array.shape[0] for sample in data for array in sample.inputs.values() if array.ndim}
    return ["Only one batch size could be compared."] if len(data) > 1 and len(leading) == 1 else []


class _Noise:
    """How far the reference's outputs move on a sample when nothing but rounding changes.

    Where rounding decides between two values, as in a quantised network, a movement is rare and large, so
    the reference is run again and again until one is seen that explains the error, or it is clear that none
    will be. The sessions are made when they are first needed, which for most models is never.
    """

    def __init__(self, model: ModelProto, session: Session, provider: Provider, seed: int) -> None:
        self._model = model
        self._provider = provider
        self._rng = np.random.default_rng(seed)
        self._plain = session
        self._rounded: list[Session] = []
        self._measured: dict[int, tuple[dict[str, float], Iterator[dict[str, NDArray[Any]]]]] = {}

    def explains(self, error: float, name: str, sample: _Sample) -> tuple[bool, float]:
        """Whether rounding moves an output about as far as the error, and the farthest it was seen to.

        For outputs that are not floats, both are numbers of elements that change.
        """
        if id(sample) not in self._measured:
            self._measured[id(sample)] = (dict.fromkeys(sample.expected, 0.0), self._runs(sample.inputs))
        noise, runs = self._measured[id(sample)]
        while error > NOISE_FACTOR * noise.get(name, 0.0):
            moved = next(runs, None)
            if moved is None:
                return False, noise.get(name, 0.0)
            for output, expected in sample.expected.items():
                found = _distance(expected, moved[output]) if output in moved else None
                if found is not None:
                    noise[output] = max(noise[output], found.max_abs)
        return True, noise[name]

    def _runs(self, inputs: Inputs) -> Iterator[dict[str, NDArray[Any]]]:
        """Outputs of the reference under different roundings."""
        sessions: Iterator[Session] = itertools.chain(
            # The same session again shows what is random in the model itself.
            (self._plain, Session(self._model, self._provider, optimized=False)),
            self._sessions(),
        )
        for session in sessions:
            with contextlib.suppress(RunError):
                yield session.run(inputs)
        for _ in range(_NOISE_ROUNDS):
            for session in self._sessions():
                with contextlib.suppress(RunError):
                    yield session.run({name: _rounded(array, self._rng) for name, array in inputs.items()})

    def _sessions(self) -> Iterator[Session]:
        for i in range(_NOISE_SESSIONS):
            if i == len(self._rounded):
                self._rounded.append(Session(_perturbed(self._model, self._rng), self._provider))
            yield self._rounded[i]


def _rounded(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """The array with its floating-point values moved by random rounding errors.

    Whole numbers stay as they are: they are masks, indices and thresholds, which are exact, and an index
    that is moved past the next whole number picks another row instead of showing a rounding.
    """
    if array.dtype.kind != "f" and array.dtype not in _ML_FLOATS:
        return array
    step = _NOISE_ULPS * _eps(array.dtype)
    values = array.astype(np.float64)
    with np.errstate(all="ignore"):
        moved = values * (1 + step * rng.uniform(-1, 1, array.shape))
        whole = (np.rint(values) == values) & (np.abs(values) < 2**16)
        return np.where(whole, array, moved.astype(array.dtype))


def _perturbed(model: ModelProto, rng: np.random.Generator) -> ModelProto:
    """A copy in which the floating-point weights are moved by random rounding errors."""
    copy = ModelProto()
    copy.CopyFrom(model)
    sizes = {
        name for node in all_nodes(copy) if node.op_type in _SIZED_BY_FLOATS for name in node.input if name
    }
    attributes = {
        id(attribute.t)
        for node in all_nodes(copy)
        if node.op_type == "Constant" and sizes.intersection(node.output)
        for attribute in node.attribute
        if attribute.HasField("t")
    }
    for tensor in all_tensors(copy):
        if tensor.name in sizes or id(tensor) in attributes:
            continue
        if (
            tensor.data_type not in (TensorProto.FLOAT, TensorProto.DOUBLE)
            and tensor.data_type not in HALF_TYPES
        ):
            continue
        values = _rounded(numpy_helper.to_array(tensor), rng)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def _eps(dtype: np.dtype[Any]) -> float:
    """The relative distance between neighbouring numbers, also for the types that numpy does not have."""
    return float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Distance:
    max_abs: float
    scale: float
    exact: bool


def _distance(expected: NDArray[Any], actual: NDArray[Any]) -> _Distance | None:
    """The error of an array, or None when shape, type, NaNs or infinities differ.

    For types that must be equal, `max_abs` is the number of elements that differ and `scale` their total.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return None
    if expected.dtype.kind not in "fc" and expected.dtype not in _ML_FLOATS:
        return _Distance(float(np.count_nonzero(expected != actual)), float(expected.size), True)
    complex_ = expected.dtype.kind == "c"
    wide = np.complex128 if complex_ else np.float64
    left, right = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(left)
    if (np.isnan(left) != np.isnan(right)).any() or (finite != np.isfinite(right)).any():
        return None
    infinite = np.isinf(left)
    if infinite.any() and (left[infinite] != right[infinite]).any():
        return None
    left, right = left[finite], right[finite]
    if not left.size:
        return _Distance(0.0, 0.0, False)
    return _Distance(float(np.abs(left - right).max()), float(np.abs(left).max()), False)


_ML_FLOATS = frozenset(np.dtype(type_) for type_ in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn))


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
    """Two sides to compare: what is expected of a sample, and the model that must agree."""

    against: str
    expected: Callable[[_Sample], dict[str, NDArray[Any]]]
    actual: Run
    factor: float
    fault: str


def _compare_all(
    reference: ModelProto,
    expected: Session,
    actual: Session,
    data: Sequence[_Sample],
    noise: _Noise,
    original: tuple[Run, Run | None] | None,
    rtol: float | None,
    atol: float,
) -> tuple[list[OutputError], list[str]]:
    """Errors per output, against ONNX Runtime and TensorFlow where it is asked, and sentences on failures."""
    half = holds_half_precision(reference)
    pairs = [_Pair("ONNX Runtime", lambda sample: sample.expected, actual.run, 1.0, "the compiled model")]
    if original is not None:
        tensorflow, converted = original
        pairs.append(
            _Pair(
                "TensorFlow",
                lambda sample: tensorflow(sample.inputs),
                converted or actual.run,
                TENSORFLOW_FACTOR,
                "the ONNX model that tf2onnx converted",
            )
        )
    errors: list[OutputError] = []
    failures: list[str] = []
    for pair in pairs:
        tallies: dict[str, _Tally] = {name: _Tally() for name in data[0].expected}
        for sample in data:
            try:
                got = pair.actual(sample.inputs)
            except RunError as error:
                failures.append(
                    f"With {sample.label}, {pair.fault} cannot be run where the reference can: {error}"
                )
                break
            for name, wanted in pair.expected(sample).items():
                tally = tallies.setdefault(name, _Tally())
                if name not in got:
                    tally.reason = "it is missing"
                    continue
                _add(tally, wanted, got[name], sample, noise, name, half, rtol, atol, pair.factor)
        for name, tally in tallies.items():
            errors.append(
                OutputError(
                    name,
                    pair.against,
                    tally.dtype,
                    tally.max_abs,
                    tally.max_rel,
                    tally.scale,
                    tally.rtol,
                    atol,
                    tally.noise,
                    tally.reason is None,
                    tally.reason,
                )
            )
            if tally.reason is not None:
                # The compiled model was compared with the conversion first; if it agreed, that is where it
                # went.
                blame = "; tf2onnx converted the model wrongly" if pair.factor != 1.0 and not failures else ""
                failures.append(
                    f"Output '{name}' is not what {pair.against} computes from the reference: "
                    f"{tally.reason}{blame}."
                )
    return errors, failures


def _add(
    tally: _Tally,
    wanted: NDArray[Any],
    got: NDArray[Any],
    sample: _Sample,
    noise: _Noise,
    name: str,
    half: bool,
    rtol: float | None,
    atol: float,
    factor: float,
) -> None:
    """Take one sample of one output into account."""
    tally.dtype = str(wanted.dtype)
    distance = _distance(wanted, got)
    if distance is None:
        tally.reason = tally.reason or f"with {sample.label}, {_how_unlike(wanted, got)}"
        return
    if distance.exact:
        tolerance = 0.0
    else:
        relative = rtol if rtol is not None else _rtol(wanted.dtype, half) * factor
        tally.rtol = relative
        tolerance = atol + relative * distance.scale
    tally.max_abs = max(tally.max_abs, distance.max_abs)
    tally.scale = max(tally.scale, distance.scale)
    if distance.max_abs:
        share = distance.max_abs / distance.scale if distance.scale else float("inf")
        tally.max_rel = max(tally.max_rel, share)
    if distance.max_abs <= tolerance:
        return
    if tally.reason is not None:
        return
    explained, moved = noise.explains(distance.max_abs, name, sample)
    tally.noise = max(tally.noise or 0.0, moved)
    if explained:
        return
    if distance.exact:
        tally.reason = f"with {sample.label}, {distance.max_abs:.0f} of {wanted.size} elements differ"
    else:
        tally.reason = (
            f"with {sample.label}, the error is {distance.max_abs:.3g} where {tolerance:.3g} is allowed "
            f"(largest value {distance.scale:.3g})"
        )


def _rtol(dtype: np.dtype[Any], half: bool) -> float:
    if half or dtype in _ML_FLOATS:
        return RTOL_HALF
    if dtype.kind == "c":
        return RTOL[np.dtype(np.float64 if dtype.itemsize == 16 else np.float32)]
    return RTOL.get(dtype, RTOL_HALF)


def _how_unlike(wanted: NDArray[Any], got: NDArray[Any]) -> str:
    if wanted.shape != got.shape:
        return f"its shape is {got.shape} where {wanted.shape} is expected"
    if wanted.dtype != got.dtype:
        return f"its type is {got.dtype} where {wanted.dtype} is expected"
    return "its NaNs or infinities are in other places"


def _tensorflow(
    original: frontend.Source | None, masked: bool, provider: Provider
) -> tuple[Run, Run | None] | None:
    """TensorFlow's own function, and what to compare with it if that is not the compiled model."""
    if original is None or original.tensorflow is None:
        return None
    return original.tensorflow.run, Session(original.model, provider).run if masked else None


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
    return (
        f"Run on CUDA, with TF32 off: {counts[0]} nodes of the reference, {counts[1]} of the compiled model."
    )
