"""Are two models the same function? Both are run on the same inputs, and all outputs are compared.

`tolerance` says which errors are allowed. Where the reference is a TensorFlow model, TensorFlow's own outputs are
compared as well. In double precision, where the models have such a form, an error is one of logic and not of rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from onnx import ModelProto

from maskc import progress
from maskc.errors import InputError, NotComparableError, RunError, UnavailableError
from maskc.frontend import Source
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.report.wording import sizes_in_brief
from maskc.results.measurements import ExactError, FirstDifference, Latency, OutputError
from maskc.results.totals import Figures
from maskc.results.verification import Verification
from maskc.runtime import accepted_sizes, latency, random_inputs
from maskc.runtime.fatal_models import why_endless
from maskc.runtime.onnxruntime_session import Gpu, OnnxRuntimeSession, rounds_products
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import (
    Provider,
    Session,
    choose_provider,
    hardware_title,
    load,
    runtime_title,
    single_precision_option,
    strict,
)
from maskc.runtime.tensor_sizes import TensorSizes
from maskc.verification import input_output_signature
from maskc.verification.bisection import bisect
from maskc.verification.compare_in_double import BUDGET, Exact, affordable, outputs_in_double
from maskc.verification.error_statistics import farthest
from maskc.verification.flat_outputs.before_activations import paired
from maskc.verification.flat_outputs.compare_inside import look_inside, makers_of
from maskc.verification.flat_outputs.sensitivity import Allowed, hardly_moving, hidden_weights
from maskc.verification.inputs import Arrays, Sample, alike, drawn, elements, notes_on, one_of_each, redrawn
from maskc.verification.intermediate_tensors import where_odd
from maskc.verification.options import VerifyOptions
from maskc.verification.output_errors import Pair, compare_outputs
from maskc.verification.rounding_noise import Noise
from maskc.verification.save_failing_case import write as write_dump
from maskc.verification.tolerance import NOISE_FACTOR, TENSORFLOW_FACTOR, Tolerance

Value = TypeVar("Value")

# An error so many times as large as another is of another kind.
_APART = 100.0


@dataclass(frozen=True)
class Models:
    """What is compared, read already: the reference and the compiled model, with the figures of both.

    `original` is the TensorFlow model that the reference was converted from, None if there is none. `masked`: the
    reference has masks that the original lacks, so TensorFlow is compared with the model as it was converted.
    """

    reference: ModelProto
    compiled: ModelProto
    before: Figures
    after: Figures
    original: Source | None = None
    masked: bool = False


@dataclass
class _Found:
    """What the comparison has found so far, as in `Verification`; `reasons` say why the models are not equivalent."""

    reasons: list[str]
    undecided: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provider: Provider = "cpu"
    samples: int = 0
    outputs: tuple[OutputError, ...] = ()
    exact: tuple[ExactError, ...] | None = None
    parting: FirstDifference | None = None
    latency: Latency | None = None


def compare(
    models: Models,
    options: VerifyOptions,
    inputs: Mapping[str, Arrays] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Verification:
    """Compare two models that are read already.

    `inputs` are arrays by input name, under what to call them, to compare on beside random ones; `sizes` are values for
    symbolic sizes to try beside others. Raises as `maskc.verify` does.
    """
    found = _Found(input_output_signature.differences(models.reference, models.compiled))
    if not found.reasons:
        found.provider = choose_provider(options.provider)
        ports = random_inputs.ports(models.reference)
        if not inputs:
            accepted_sizes.check_size(ports)  # a runtime may take all memory for such a model
        expected, actual = _loaded(models, found)
        if actual is not None:
            count = options.samples + len(inputs or ())
            judge = strict(expected, models.reference, found.provider)
            inside = TensorSizes(models.reference, ports, models.compiled)
            samples = drawn(ports, inputs or {}, judge, options.samples, options.seed, sizes or {}, inside)
            _compare_on(_run(samples, count), ports, expected, actual, models, options, found)
    equivalent = not found.reasons
    if any(error.noise is not None and error.passed for error in found.outputs):
        found.notes.append(
            "Accepted: some errors are above the default tolerance, within the model's own rounding noise: "
            f"{NOISE_FACTOR:g} times what rounding or {runtime_title(found.provider)}'s own optimizations change, or "
            "its own distance from double precision."
        )
    if any(map(rounds_products, (models.reference, models.compiled))):
        found.notes.append(
            "Products with quantised weights were computed in single precision. By default "
            f"{runtime_title(found.provider)} also rounds their data to 8 bits where it recognizes them; "
            f"{single_precision_option(found.provider)} disables that."
        )
    reduction = models.before.reduction_to(models.after)
    if options.min_reduction is not None and reduction < options.min_reduction:
        found.reasons.append(
            f"FLOPs fell by a factor of {reduction:.4g} and {options.min_reduction:g} was asked for "
            f"({models.before.flops:,} before, {models.after.flops:,} after, at {sizes_in_brief(models.before.at)})."
        )
    lists = {name: tuple(getattr(found, name)) for name in ("reasons", "undecided", "notes")}
    return Verification(
        verdict="failed" if found.reasons else "cannot tell" if found.undecided else "verified",
        passed=not found.reasons and not found.undecided,
        equivalent=equivalent,
        before=models.before,
        after=models.after,
        min_reduction=options.min_reduction,
        seed=options.seed,
        **vars(found) | lists,
    )


def _loaded(models: Models, found: _Found) -> tuple[Session, Session | None]:
    """Both models; None for a compiled model that cannot be loaded, which is a reason."""
    import_onnxruntime()
    if endless := why_endless(models.reference) or why_endless(models.compiled):
        raise NotComparableError(f"The reference is not run: {endless}.")
    with progress.stage(f"Loading both models in {runtime_title(found.provider)}"):
        try:
            expected = load(models.reference, found.provider)
        except RunError as error:
            raise NotComparableError(f"The reference cannot be run: {error}") from error
        try:
            return expected, load(models.compiled, found.provider)
        except UnavailableError as error:
            if found.provider != "openvino":
                raise
            # It takes the one and not the other: then something was written that it must not be given.
            found.reasons.append(f"The compiled model cannot be run: {error}")
        except RunError as error:
            found.reasons.append(f"The compiled model cannot be run: {error}")
        return expected, None


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


def _compare_on(
    data: Sequence[Sample],
    ports: Sequence[random_inputs.Port],
    expected: Session,
    actual: Session,
    models: Models,
    options: VerifyOptions,
    found: _Found,
) -> None:
    """Compare the outputs on these data, then in double precision, look for the first difference, measure latency."""
    found.samples = len(data)
    found.notes += notes_on(data)
    found.notes += dict.fromkeys(filter(None, (expected.note, actual.note)))
    failed = _compare_outputs(data, expected, actual, models, options, found)
    if options.exact or (options.exact is None and options.rtol is None and not options.atol):
        failed = _compare_exactly(data, failed, models, options, found)
    elif options.exact is None:
        found.notes.append("Not compared in double precision, because a tolerance is given; --exact forces it.")
    if found.provider == "openvino" and any(error.noise is not None for error in found.outputs):
        found.notes += _wrong_in_openvino(failed or data[0], actual, models)
    if found.reasons and options.bisect:
        _locate(data, failed, models, options, found)
    if not found.reasons:
        _look_where_flat(data, ports, expected, models, options, found)
    # What cannot be run on these data has failed above.
    with contextlib.suppress(RunError) if found.reasons else contextlib.nullcontext():
        if found.provider == "cuda" or found.provider == "tensorrt":
            found.notes.append(_placement(models, data[0].inputs, found.provider))
        if options.bench:
            found.latency = latency.measure(expected, actual, data[0].inputs, found.provider)


def _compare_outputs(
    data: Sequence[Sample], expected: Session, actual: Session, models: Models, options: VerifyOptions, found: _Found
) -> Sample | None:
    """Compare in the runtime, and with the original; returns the first sample that failed."""
    pairs = [Pair(runtime_title(found.provider), lambda sample: sample.expected, actual.run, "the compiled model")]
    if models.original is not None and models.original.tensorflow is not None:
        original = models.original.tensorflow.run
        run, name = actual.run, "the compiled model"
        if models.masked:
            run, name = load(models.original.model, found.provider).run, "the ONNX model that tf2onnx converted"
        pairs.append(Pair("TensorFlow", lambda sample: original(sample.inputs), run, name, TENSORFLOW_FACTOR))
    tolerance = Tolerance.of(models.reference, data[0].expected, options.rtol, options.atol, expected.finest)
    exact = partial(outputs_in_double, models.reference, models.before)
    noise = Noise(models.reference, models.compiled, expected, found.provider, options.seed, exact)
    result = compare_outputs(pairs, data, tolerance, noise)
    found.outputs = result.errors
    if result.failures and result.sample is not None:
        first, *others = result.failures
        why = where_odd(models.reference, result.sample)
        found.reasons += [first if why is None else f"{first.removesuffix('.')}, where {why}.", *others]
    return result.sample


def _compare_exactly(
    data: Sequence[Sample], failed: Sample | None, models: Models, options: VerifyOptions, found: _Found
) -> Sample | None:
    """Compare in double precision; returns the first sample that failed, there or (`failed`) in the runtime.

    Unless that is asked for, on what can be computed in a few seconds, and not at all where it cannot be done.
    """
    again = redrawn(random_inputs.ports(models.reference), data, options.seed)
    chosen = [*data, *again] if options.exact else affordable([*one_of_each(data), *again], models.before)
    why = "It would take longer than a few seconds; --exact forces it."
    for samples in (chosen, [sample for sample in chosen if sample.expected]):  # not every model takes any batch
        try:
            exact = Exact(models.reference, models.compiled, options.seed)
            errors = exact.compare(samples)
        except UnavailableError as error:
            if options.exact and samples is not chosen:
                raise
            why = str(error)
            continue
        if not errors:
            break
        found.exact = errors
        found.reasons += [
            f"Output '{error.name}' is not what the reference computes in double precision: with {error.sample}, the "
            f"error is {error.error:.3g} of its scale; the tolerance, from rounding weights, is {error.allowed:.3g}."
            for error in errors
            if not error.passed
        ]
        if failed is not None and all(error.passed for error in errors):
            what = "OpenVINO" if found.provider == "openvino" else "rounding"
            found.notes.append(f"In double precision the models agree, so the difference comes from {what}.")
        return failed or exact.failed
    found.notes.append(f"Not compared in double precision. {why}")
    return failed


def _wrong_in_openvino(sample: Sample, actual: Session, models: Models) -> list[str]:
    """Which of the models OpenVINO gets wrong, if ONNX Runtime gives one answer for both and it does so for one."""
    try:
        right, other = (
            OnnxRuntimeSession(model, optimized=False).run(sample.inputs)
            for model in (models.reference, models.compiled)
        )
        given = {"reference": sample.expected, "compiled model": actual.run(sample.inputs)}
    except (RunError, UnavailableError):
        return []
    errors = {what: farthest(right, outputs) for what, outputs in given.items()}
    near, far = sorted(errors, key=lambda what: errors[what])
    if errors[far] <= _APART * max(errors[near], farthest(right, other)):
        return []
    return [
        f"ONNX Runtime gives the same outputs for both models, as does OpenVINO for the {near}. Its result for the "
        f"{far} is off by {errors[far]:.3g} of the scale, so OpenVINO computes that one wrongly."
    ]


def _locate(
    data: Sequence[Sample], failed: Sample | None, models: Models, options: VerifyOptions, found: _Found
) -> None:
    """Look for the first difference, on the sample that failed first, and write what shows it."""
    samples = [*([failed] if failed is not None else []), *(sample for sample in data if sample is not failed)]
    double = bool(affordable(samples[:1], models.before))
    bisection = bisect(models.reference, models.compiled, samples, options.seed, double=double)
    if bisection is None:
        found.notes.append("The first difference was not found.")
        return
    found.parting = bisection.difference
    if options.dump is not None:
        try:
            written = write_dump(options.dump, bisection, samples[0])
            found.notes.append(f"Written: {', '.join(map(str, written))}.")
        except InputError as error:  # must not hide the difference itself
            found.notes.append(str(error))


def _look_where_flat(
    data: Sequence[Sample],
    ports: Sequence[random_inputs.Port],
    expected: Session,
    models: Models,
    options: VerifyOptions,
    found: _Found,
) -> None:
    """Where outputs agree and hardly move, compare what is inside."""
    errors = {error.name: error.allowed for error in found.exact or ()}

    def allowed_in(reference: ModelProto) -> Allowed:
        outputs = [value.name for value in reference.graph.output]
        tolerance = Tolerance.of(reference, outputs, None, 0.0, expected.finest)
        return lambda name, dtype: min(tolerance.relative(name, dtype, 1.0), errors.get(name, math.inf))

    costly = max(models.before.flops, *map(elements, data)) > BUDGET / 10
    small = alike(ports, data, 3 if costly else 12, options.seed)
    reference, compiled = models.reference, models.compiled
    flat = hardly_moving([sample.expected for sample in data], allowed_in(reference))
    if flat:  # there may be too few data, or all alike
        with contextlib.suppress(RunError):
            flat &= hardly_moving([expected.run(sample.inputs) for sample in small], allowed_in(reference))
    many = redrawn(ports, data, options.seed) if flat else []
    if flat and (given := _before_activations(flat, small, many, models, options, found)) is not None:
        reference, compiled = given
        why = f"Output '{min(flat)}' hardly moves with the inputs"
        found.notes.append(f"{why}, so what its last operators read was compared as well; it agrees.")
        flat = set()
    hidden = hidden_weights(compiled, models.after.flops, small, allowed_in(reference), options.seed)
    if not flat and not hidden:
        return
    double = bool(affordable(small[-1:], models.before))
    wanted = makers_of(models.compiled, {name.partition("[")[0] for name in flat} | flat) | hidden
    look = look_inside(models.reference, models.compiled, small, wanted, options.seed, double=double)
    why = f"Output '{min(flat)}' hardly moves with the inputs" if flat else "Some weights hardly move any output"
    if look.difference is not None:
        found.parting = look.difference
        found.reasons.append(f"{why}, and tensor '{look.difference.tensor}' inside differs from the reference.")
    elif look.unseen:
        more = f" (and {len(look.unseen) - 1} more)" if len(look.unseen) > 1 else ""
        found.undecided.append(f"{why}, and no tensor inside shows whether '{look.unseen[0]}'{more} is right.")
        if look.differing:
            found.notes.append(
                f"The output of '{look.differing[0]}' differs from the reference, or has another name there."
            )
    else:
        found.notes.append(f"{why}, so the tensors inside were compared; they agree.")


def _before_activations(
    flat: set[str],
    samples: Sequence[Sample],
    many: Sequence[Sample],
    models: Models,
    options: VerifyOptions,
    found: _Found,
) -> tuple[ModelProto, ModelProto] | None:
    """Both models with what the last operators before these outputs read as outputs, if it agrees and moves; or None.

    Of several tensors, those that do so have to be all that each output is made of. many: samples to compare on in
    double precision as well.
    """
    pairs = paired(models.reference, models.compiled, flat)
    if not pairs.tensors:
        return None
    reference, compiled = pairs.given(models.reference, models.compiled)
    try:
        expected, actual = load(reference, found.provider), load(compiled, found.provider)
        given = [replace(sample, expected=_part(expected.run(sample.inputs), pairs.tensors)) for sample in samples]
    except (RunError, UnavailableError):
        return None
    tolerance = Tolerance.of(reference, pairs.tensors, None, 0.0, expected.finest)
    exact = partial(outputs_in_double, reference, models.before)
    noise = Noise(reference, compiled, expected, found.provider, options.seed, exact)
    pair = Pair(runtime_title(found.provider), lambda sample: sample.expected, actual.run, "the compiled model")
    agree = {error.name for error in compare_outputs([pair], given, tolerance, noise).errors if error.passed}
    computed = affordable([*given, *many], models.before)
    if computed and options.exact is not False:
        with contextlib.suppress(UnavailableError):
            errors = Exact(reference, compiled, options.seed).compare(computed)
            agree -= {error.name for error in errors if not error.passed}
    still = hardly_moving(
        [sample.expected for sample in given], lambda name, dtype: tolerance.relative(name, dtype, 1.0)
    )
    if not flat <= pairs.shown(agree - still, given[0].expected, options.seed):
        return None
    return replace(pairs, tensors=_part(pairs.tensors, agree)).given(models.reference, models.compiled)


def _part(values: Mapping[str, Value], names: Collection[str]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name in names}


def _placement(models: Models, inputs: Inputs, provider: Gpu) -> str:
    """How many nodes really ran on the GPU. Raises `UnavailableError` when none of the reference's did."""
    counts = []
    for model in (models.reference, models.compiled):
        session = OnnxRuntimeSession(model, provider, profiled=True)
        session.run(inputs)
        counts.append(session.nodes_on(provider))
    where = hardware_title(provider)
    if counts[0] == 0:
        raise UnavailableError(
            f"ONNX Runtime ran none of the reference's operators on {where}, so nothing was verified there. "
            "Use --provider cpu."
        )
    what = "compiled parts" if provider == "tensorrt" else "nodes"
    return f"Run on {where}, with TF32 off: {counts[0]} {what} of the reference, {counts[1]} of the compiled model."
