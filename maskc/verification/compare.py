"""Are two models the same function? Region by region on random values, and whole, in a runtime, on the same inputs.

Regions decide. Whole outputs show that the file loads and runs where it is to, that it takes other sizes, and what it
gives on real data. Where the reference is a TensorFlow model, TensorFlow's own outputs are compared as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc import progress
from maskc.errors import CrashError, InputError, NotComparableError, RunError, UnavailableError
from maskc.frontend import Source
from maskc.frontend.graph_queries import all_nodes, all_tensors, array_of, copied
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.report.wording import sizes_in_brief
from maskc.results.measurements import Figures, FirstDifference, Latency, OutputError, Regions
from maskc.results.verification import Verification
from maskc.runtime import accepted_sizes, isolation, latency, random_inputs
from maskc.runtime.detect_cpu import clips_products
from maskc.runtime.fatal_models import why_endless
from maskc.runtime.onnxruntime_session import (
    FLOAT_BIASES,
    Gpu,
    OnnxRuntimeSession,
    rounds_biases,
    rounds_products,
)
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
from maskc.verification import input_output_signature, save_failing_case
from maskc.verification.certificate import Certificate
from maskc.verification.compare_regions import compare_regions, difference, summary
from maskc.verification.inputs import Arrays, Sample, drawn, notes_on, redrawn
from maskc.verification.odd_references import where_odd
from maskc.verification.options import VerifyOptions
from maskc.verification.output_errors import CONVERSION, Pair, compare_outputs
from maskc.verification.output_rounding import RoundedWeights, Rounding
from maskc.verification.output_tolerance import TENSORFLOW_FACTOR, Tolerance
from maskc.verification.random_operators import draws, load_repeatable
from maskc.verification.recheck import FLOATS, PRODUCTS, seed_apart
from maskc.verification.regions.conditions import uncovered
from maskc.verification.regions.hidden_differences import first_failure
from maskc.verification.regions.search import Failure, Proof
from passes.model.declarations import dims_of
from passes.model.inputs_with_defaults import overridable, without_defaults
from passes.rewriting.origins import Origins


@dataclass(frozen=True)
class Models:
    """What is compared, read already: the reference and the compiled model, with the figures of both.

    `original` is what the reference was made of, by masks if it is another model: then TensorFlow, if it is from there,
    is compared with the model as it was converted. `origins` say what tensors hold of the source, as far as the
    compiler knows; None where none says so.
    """

    reference: ModelProto
    compiled: ModelProto
    before: Figures
    after: Figures
    original: Source | None = None
    origins: Origins | None = None


@dataclass
class _Found:
    """What the comparison has found so far, as in `Verification`; `reasons` say why the models are not equivalent."""

    reasons: list[str]
    undecided: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    provider: Provider = "cpu"
    samples: int = 0
    outputs: tuple[OutputError, ...] = ()
    regions: Regions | None = None
    parting: FirstDifference | None = None
    latency: Latency | None = None
    certificate: Certificate | None = None


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
    models, defaults = _with_inputs_open(_seeded(models))
    found = _Found(input_output_signature.differences(models.reference, models.compiled))
    if not found.reasons:
        found.provider = choose_provider(options.provider)
        _compare_on(models, options, inputs or {}, sizes or {}, found, defaults)
    equivalent = not found.reasons
    if not equivalent or found.undecided:
        found.certificate = None
    found.notes += _on_rounding(models, found)
    reduction = models.before.reduction_to(models.after)
    if options.min_reduction is not None and reduction < options.min_reduction:
        found.reasons.append(
            f"FLOPs fell by a factor of {reduction:.4g}, and {options.min_reduction:g} is the least allowed "
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


def _seeded(models: Models) -> Models:
    """The models, with seeds for what draws random numbers."""
    both = models.reference, models.compiled
    if not any(map(draws, both)):
        return models
    reference, compiled = map(copied, both)
    seed_apart(reference, compiled)
    return dataclasses.replace(models, reference=reference, compiled=compiled)


def _with_inputs_open(models: Models) -> tuple[Models, Mapping[str, NDArray[Any]]]:
    """The models with inputs in place of real numbers that are defaults of both, for a caller to override; and these.

    Of defaults that are not the same, and of whole numbers, those are compared that there are.
    """
    both = models.reference, models.compiled
    own, others = map(_defaults, both)
    defaults = {name: array for name, array in own.items() if name in others and np.array_equal(array, others[name])}
    reference, compiled = (without_defaults(model, defaults) for model in both)
    return dataclasses.replace(models, reference=reference, compiled=compiled), defaults


def _defaults(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Real numbers that a caller may override, by name."""
    names = overridable(model)
    return {t.name: array_of(t) for t in model.graph.initializer if t.name in names and t.data_type in FLOATS}


def _on_rounding(models: Models, found: _Found) -> list[str]:
    """Sentences on what the runtime rounds otherwise than models say."""
    both, title = (models.reference, models.compiled), runtime_title(found.provider)
    notes = []
    if any(map(rounds_products, both)):
        notes.append(
            "Products with quantised weights were computed in single precision. By default "
            f"{title} also rounds their data to 8 bits where it recognizes them; "
            f"{single_precision_option(found.provider)} disables that."
        )
    if found.provider != "openvino" and any(map(rounds_biases, both)):
        notes.append(
            "Biases of quantised layers were added as floats, as they are stored. By default ONNX Runtime rounds them "
            f"to steps of 8-bit products; {'='.join(FLOAT_BIASES)} disables that."
        )
    if found.provider == "cpu" and clips_products() and any(map(_multiplies_int8, both)):
        notes.append(
            "8-bit products were computed exactly. By default ONNX Runtime saturates them on this processor, which has "
            "no VNNI instructions; session.x64quantprecision=1 disables that."
        )
    return notes


def _multiplies_int8(model: ModelProto) -> bool:
    """Whether the model has products of 8-bit data by signed 8-bit weights, or the steps that become such."""
    products = any(node.op_type in PRODUCTS or node.op_type == "QuantizeLinear" for node in all_nodes(model))
    return products and any(tensor.data_type == TensorProto.INT8 for tensor in all_tensors(model))


def _compare_on(
    models: Models,
    options: VerifyOptions,
    inputs: Mapping[str, Arrays],
    sizes: Mapping[str, int],
    found: _Found,
    defaults: Arrays,
) -> None:
    """Compare regions, then whole outputs; measure latency. A tolerance that is given decides alone."""
    ports = [
        dataclasses.replace(port, default=defaults.get(port.name))
        for port in random_inputs.ports(models.reference, models.compiled)
    ]
    if not inputs:
        accepted_sizes.check_size(ports)  # a runtime may take all memory for such a model
    expected, actual = _loaded(models, found)
    if actual is None:
        return
    judge = strict(expected, models.reference, found.provider)
    inside = TensorSizes(models.reference, ports, models.compiled)
    data = []
    with progress.stage("Running the reference", options.samples + len(inputs)) as stage:
        for sample in drawn(ports, inputs, judge, options.samples, options.seed, sizes, inside):
            data.append(sample)
            stage.advance(note=sample.label)
            shapes = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in sample.inputs.items())
            progress.detail(f"  data: {sample.label}; {shapes}")
    feeds = redrawn(ports, data, judge, options.seed)
    found.samples = len(data)
    found.notes += notes_on(data)
    found.notes += dict.fromkeys(filter(None, (expected.note, actual.note)))
    given = options.rtol is not None or bool(options.atol)
    proof, failure = (None, None) if given else _compare_inside(feeds, models, options, found)
    failed = _compare_outputs(data, expected, actual, models, options, None if failure else proof, found)
    if given and found.reasons:
        proof, failure = _compare_inside(feeds, models, options, found)
    if found.reasons:
        first, *others = found.reasons
        why = where_odd(models.reference, failed or data[0])
        blamed = first.removesuffix(".").removesuffix(CONVERSION)
        found.reasons = [first if why is None else f"{blamed}, where {why}.", *others]
        if options.dump is not None:
            found.notes.append(_dumped(options.dump, proof, failure, failed or data[0]))
    # What cannot be run on these data has failed above.
    with contextlib.suppress(RunError) if found.reasons else contextlib.nullcontext():
        if found.provider == "cuda" or found.provider == "tensorrt":
            found.notes.append(_placement(models, data[0].inputs, found.provider))
        if options.bench:
            before, after = (load(model, found.provider, timed=True) for model in (models.reference, models.compiled))
            found.latency = latency.measure(before, after, data[0].inputs, found.provider)


def _loaded(models: Models, found: _Found) -> tuple[Session, Session | None]:
    """Both models; None for a compiled model that cannot be loaded, which is a reason."""
    import_onnxruntime()
    if endless := why_endless(models.reference) or why_endless(models.compiled):
        raise NotComparableError(f"The reference is not run: {endless}.")
    with progress.stage(f"Loading both models in {runtime_title(found.provider)}"):
        try:
            expected = load_repeatable(models.reference, found.provider, exact=True)
        except RunError as error:
            raise NotComparableError(f"The reference cannot be run: {error}") from error
        try:
            return expected, load_repeatable(models.compiled, found.provider, exact=True)
        except (RunError, CrashError, UnavailableError) as error:
            # Where OpenVINO takes the one and not the other, something was written that it must not be given.
            if isinstance(error, UnavailableError) and found.provider != "openvino":
                raise
            found.reasons.append(f"The compiled model cannot be run: {error}")
        return expected, None


def _compare_inside(
    feeds: Sequence[Inputs], models: Models, options: VerifyOptions, found: _Found
) -> tuple[Proof | None, Failure | None]:
    """Compare region by region, as far as that can be, and say what fails first."""
    arguments = models.reference, models.compiled, feeds, models.origins, options.seed
    try:
        if isolation.suspected:
            isolation.isolated(lambda: bool(compare_regions(*arguments)))
        certificate = compare_regions(*arguments)
    except (UnavailableError, CrashError) as error:
        found.undecided.append(f"{str(error).rstrip('.')}.")
        return None, None
    proof = certificate.proof
    found.regions = summary(proof)
    failure = first_failure(proof)
    if failure is not None and failure.ran:
        found.parting = difference(proof, failure)
        found.reasons.insert(0, str(found.parting))
    elif not proof.complete:
        where = "some tensor" if failure is None else f"'{failure.region.target}'"
        why = "" if failure is None else f": {failure.judgement.why}"
        found.undecided.append(f"What computes {where} could not be compared{why}.")
    elif not uncovered(proof):
        found.certificate = certificate
    return proof, failure


def _compare_outputs(
    data: Sequence[Sample],
    expected: Session,
    actual: Session,
    models: Models,
    options: VerifyOptions,
    proof: Proof | None,
    found: _Found,
) -> Sample | None:
    """Compare whole outputs in the runtime, and with the original; returns the first sample that failed."""
    title = runtime_title(found.provider)
    rounding = Rounding((models.reference, models.compiled), actual.run, proof, title)
    pairs = [Pair(title, lambda sample: sample.expected, actual.run, "the compiled model", rounding.explains)]
    if models.original is not None and models.original.tensorflow is not None and draws(models.reference):
        found.notes.append("TensorFlow's outputs were not compared: the model draws random numbers.")
    elif models.original is not None and models.original.tensorflow is not None:
        original = models.original.tensorflow.run
        moving = RoundedWeights(models.reference, found.provider, options.seed)
        run, what = actual.run, "the compiled model"
        if models.original.model is not models.reference:
            run, what = load(models.original.model, found.provider).run, "the ONNX model that tf2onnx converted"
        pairs.append(
            Pair("TensorFlow", lambda sample: original(sample.inputs), run, what, moving.explains, TENSORFLOW_FACTOR)
        )
    tolerance = Tolerance.of(models.reference, options.rtol, options.atol, expected.finest)
    found.outputs, failures, failed = compare_outputs(pairs, data, tolerance)
    found.reasons += failures
    unseen = proof is None or not proof.complete or not all(judgement.compared for judgement in proof.judged.values())
    empty = {value.name for value in models.reference.graph.output if 0 in (dims_of(value) or ())}
    (found.undecided if unseen else found.notes).extend(
        f"Nothing of output '{name}' was compared: the reference makes no finite number of it on any sample. Compare "
        "on real data with `maskc verify --inputs`."
        for name in dict.fromkeys(error.name for error in found.outputs if error.passed and not error.compared)
        if name not in empty
    )
    if found.parting is None and rounding.difference is not None:
        found.parting = rounding.difference
        found.reasons.insert(0, str(found.parting))
    found.notes += rounding.notes(failed)
    return failed


def _dumped(directory: Path, proof: Proof | None, failure: Failure | None, sample: Sample) -> str:
    """Write the region that fails, or the inputs on which outputs differ, and say so."""
    failing = (proof.checker, failure.region) if proof is not None and failure is not None and failure.ran else None
    try:
        return f"Written: {', '.join(map(str, save_failing_case.write(directory, sample.inputs, failing)))}."
    except InputError as error:  # must not hide the difference itself
        return str(error)


def _placement(models: Models, inputs: random_inputs.Inputs, provider: Gpu) -> str:
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
