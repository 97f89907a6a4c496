"""Compilation of one model: read, insert masks, run the passes, check, verify, write."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto

import passes
from maskc import frontend
from maskc.compilation.compile_report import CompileReport
from maskc.compilation.constant_outputs import constant_outputs
from maskc.compilation.kept_channels import kept_for_speed, with_advice
from maskc.compilation.layer_timing import fastest
from maskc.compilation.options import SECONDS, VERIFY_SAMPLES, Align, CompileOptions
from maskc.errors import (
    InputError,
    MaskcError,
    NotComparableError,
    NotEquivalentError,
    RunError,
    UnavailableError,
)
from maskc.frontend import Source, write_model_files
from maskc.frontend.file_size import model_bytes
from maskc.frontend.graph_queries import has_external
from maskc.frontend.import_onnxruntime import import_onnxruntime
from maskc.frontend.input_sizes import Shapes
from maskc.frontend.mask_files import Masks, all_alike, apply_masks, in_memory
from maskc.frontend.onnx_file import check
from maskc.inspection.arguments import public
from maskc.inspection.options import from_arguments
from maskc.progress import Listener, detail, listening, stage
from maskc.report import files
from maskc.results.environment import __version__
from maskc.results.layers import layers
from maskc.results.measurements import Figures, Latency
from maskc.runtime.detect_cpu import table_name
from maskc.runtime.random_inputs import Inputs
from maskc.verification.options import VerifyOptions
from passes.adapters.price import Policy
from passes.errors import GraphError, SizeError, in_brief
from passes.mask_savings.gated import PLACE
from passes.model.graph_to_onnx import exported
from passes.pipeline.options import ShrinkOptions
from passes.pipeline.order import Shrunk
from passes.pipeline.recorder import Watch
from passes.pipeline.report import Report
from passes.sizes.prepare import checked
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets import registry
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.rates import Rates
from passes.weights.external_file import Store

# How long latency is measured for a report, and how many runs of each model there are at least.
_TIMED_SECONDS = 1.5
_TIMED_RUNS = 3

_NO_RATES = (
    "There is no table of rates for this processor, so no channels are kept for speed. `maskc compile --align "
    "measure` times the layers here, and `--align-for` names another processor."
)


@dataclass(frozen=True)
class Compiled:
    """A compiled model, the report on how it was made, and the files that were read for it."""

    model: ModelProto = field(repr=False)
    report: CompileReport
    read: tuple[Path, ...] = field(default=(), repr=False)

    @public
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as an ONNX file, completely or not at all. Raises `InputError` when that fails."""
        if Path(path).suffix in (*frontend.KERAS_SUFFIXES, ".tflite", ".pb"):
            raise InputError(f"{path} would be an ONNX file, and its name says another. Give one that ends with .onnx.")
        write_model_files.write_model(self.model, Path(path), keep=self.read)


@public
def compile(
    model: frontend.Model,
    masks: Masks | None = None,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
    adapters: Policy = "auto",
    align: Align = "auto",
    align_for: str | None = None,
    align_seconds: float = SECONDS,
    target: str = registry.DEFAULT,
    verify: bool = True,
    provider: str = "cpu",
    samples: int = VERIFY_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float = 0.0,
    progress: Listener | None = None,
) -> Compiled:
    """Compile a model trained with channel masks into a smaller dense one that computes the same function.

    `model` is the path of an `.onnx`, `.keras` or `.h5` file or of a SavedModel directory, or a `ModelProto`, which is
    left untouched, a `keras.Model`, or what `frontend.read` gave. `signature` names the signature or function of a
    SavedModel to compile, by default the one to serve. `masks` are more masks for tensors of the ONNX graph: an `.npz`
    or `.safetensors` file, or a mapping from `tensor` or `tensor@axis` to 1-D arrays of 0 and 1. `shapes` fixes
    symbolic sizes by input name, one entry per dimension: a number, a name, or None for a size to leave as it is; the
    compiled model then takes these sizes only. `at` says at what others FLOPs are counted, as for `maskc.flops`, and
    fixes nothing. `adapters` says where adapters restore constant channels at the inputs of consumers that need all of
    them: `auto` where that costs less than computing them, `always` where it saves any FLOPs, `never` nowhere. `align`
    keeps a few of the channels that could go where a rounder width runs faster: `auto` by a table for the processor
    `align_for` (by default this one), `measure` by timing layers here for up to `align_seconds`, a number by rounding
    every width up to a multiple of it; `none` leaves the fewest FLOPs, which are those that training counts. `target`
    is the runtime to be fast in: `onnxruntime`, `openvino`, `cuda`, `tensorrt`, or `any`, which is good for all and the
    best of none at the cost of another. Both models are run on `samples` random inputs (from `seed`, on
    `provider`, with the tolerances of `maskc.verify`), unless `verify` is False. `progress` is called with each
    `maskc.progress.Stage` as it begins, advances and ends, and with details as text.

    Returns the compiled model and a report. Raises `InputError` when the model or the masks cannot be used,
    `UnavailableError` when something that is needed is not installed, and `NotEquivalentError` when the verification
    fails. A model that ONNX Runtime cannot run on the CPU is not verified there; the report has a warning
    that says so.

    Example:
        >>> compiled = compile("model.onnx")
        >>> compiled.report.channels_masked, compiled.report.channels_removed
        (8, 8)
        >>> compiled.save("small.onnx")
    """
    checks = from_arguments(VerifyOptions, locals())
    options = from_arguments(CompileOptions, locals(), verify=checks if verify else None)
    with nullcontext() if progress is None else listening(progress):
        frontend.warn_of_rest(model)
        return compiled_source(options.read(model), options, compares=verify)


@public
def compile_file(
    model: Path,
    output: Path,
    options: CompileOptions | None = None,
    *,
    certificate: Path | None = None,
    reports: Sequence[Path] = (),
    bench: bool | None = None,
    advises: bool = False,
) -> CompileReport:
    """`compile` from path to path. When anything fails, the verification included, nothing is written.

    `certificate` is a file for the proof that both are the same function; where there is none, a warning says so.
    `reports` are files to write the report to, as a page (`.html`) or as data (`.json`). `bench` measures the latency
    of both models for a few seconds; by default where a page is asked for. `advises`: whether to find out what would
    remove channels that are kept, in up to three compilations more; a report does. Raises as `compile` does.
    """
    options = options or CompileOptions()
    frontend.locate(model)  # what is not there is told before what cannot be written
    files.check(reports)
    files.check_target(output)
    proof = [] if certificate is None else [("certificate", certificate)]
    for what, path in proof:
        files.check_target(path, what)
    source = options.read(model, stay=True)
    read = (*source.files, *((options.mask_file,) if options.mask_file else ()))
    files.check_places([("output", output), *(("report", path) for path in reports), *proof], read)
    if output.suffix not in ("", ".onnx"):
        raise InputError(f"{output} has no known output format: use .onnx, .keras or .tflite.")
    with write_model_files.store_beside(output) if has_external(source.model) else nullcontext() as store:
        try:
            compiled = compiled_source(source, options, store, compares=True, advises=advises or bool(reports))
        except NotEquivalentError as error:
            raise NotEquivalentError(f"{error} Nothing was written.") from error
        result = compiled.report
        cannot_run = options.verify is not None and result.verification is None  # which a warning has said
        if bench or (bench is None and any(map(files.is_page, reports)) and not cannot_run):
            result = _timed(result, source, compiled.model)
        size = write_model_files.write_model(compiled.model, output, store=store, keep=read)
    detail(f"Written: {output}, {size:,} bytes")
    result = dataclasses.replace(result, after=dataclasses.replace(result.after, bytes=size), output=str(output))
    try:
        if certificate is not None:
            result = _certified(result, certificate, read, output)
        for report in reports:
            result.save(report)
    except InputError as error:
        raise InputError(f"{error} The model was written.") from error
    return result


def _certified(report: CompileReport, path: Path, read: Sequence[Path], output: Path) -> CompileReport:
    """Write the certificate of a model that is written; the report has a warning where there is none."""
    from maskc.verification.certificate import NO_CERTIFICATE
    from maskc.verification.recheck import read as read_model

    proof = None if report.verification is None else report.verification.certificate
    if proof is None:
        return dataclasses.replace(report, warnings=(*report.warnings, f"{path} is not written: {NO_CERTIFICATE}."))
    proof.save(path, read, read_model(output)[1])
    return report


def default_output(model: Path) -> Path:
    """The default output of `maskc compile`: the input's name with `.compiled.onnx`, beside it."""
    resolved = model if model.name not in ("", "..") else model.resolve()
    name = resolved.stem if resolved.suffix in (".onnx", *frontend.KERAS_SUFFIXES) else resolved.name
    return resolved.parent / f"{name or 'model'}.compiled.onnx"  # the root of a file system has no name


@public
def explain(
    model: frontend.Model,
    masks: Masks | None = None,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
    adapters: Policy = "auto",
    align: Align = "auto",
    align_for: str | None = None,
    target: str = registry.DEFAULT,
) -> CompileReport:
    """Find what would keep masked channels alive, without writing or verifying anything.

    The arguments are those of `compile`. The report's `held` names, for every masked channel that would be kept, the
    operator that needs it, why, and what was found to remove it when it was tried. Raises as `compile` does.

    Example:
        >>> explain("model.onnx").held
        ()
    """
    return explain_with(model, from_arguments(CompileOptions, locals()))


def explain_with(model: frontend.Model, options: CompileOptions) -> CompileReport:
    """`explain` with the options as one value; nothing is verified."""
    options = dataclasses.replace(options, verify=None)
    return compiled_source(options.read(model), options, compares=True, advises=True).report


def compiled_source(
    source: Source,
    options: CompileOptions,
    store: Store | None = None,
    *,
    compares: bool = False,
    advises: bool = False,
) -> Compiled:
    """`compile` of a model that was read; `compares` as for `kept_for_speed`, `advises` as `compile_file`."""
    masks = in_memory(options.masks or {})
    target = apply_masks(source.model, masks) if masks else source.model
    # what is masked for this compilation alone, or by a sweep or pruning, the file runs without
    own = {node.name for node in source.model.graph.node if not node.name.startswith(PLACE)}
    given = frozenset(node.name for node in target.graph.node) - own
    try:
        with stage("Compiling") as compiling:
            keeps = (compares or advises) and not has_external(target)
            shrunk = shrink_with(target, options, lambda name: compiling.advance(note=name), store, keeps, given)
            _tell_passes(shrunk.report)
            _check(shrunk.model, source, target)
    except (GraphError, SizeError) as error:
        raise InputError(f"{source.name}: {error}") from error
    before = shrunk.report.before  # with the multiplications that `masks` puts in: that is the model that was trained
    held, kept, fewest = kept_for_speed(target, shrunk, compares=compares)
    if advises:
        held = with_advice(target, shrunk, fewest, held)
    # the converter calls tensors otherwise than the author does their layers
    nodes = () if source.tensorflow is None else target.graph.node
    written = {name: node.name for node in nodes for name in node.output}
    report = CompileReport(
        maskc=__version__,
        model=None if source.path is None else str(source.path),
        before=Figures.from_cost(before, source.bytes),
        after=Figures.from_cost(shrunk.report.after, model_bytes(shrunk.model)),
        masked=tuple(dataclasses.replace(axis, layer=written.get(axis.tensor, "")) for axis in shrunk.report.masked),
        held=tuple(dataclasses.replace(item, layer=written.get(item.tensor, "")) for item in held),
        seconds=dict(shrunk.report.seconds),
        notes=(*shrunk.report.notes, *([_NO_RATES] if options.align == "auto" and table(options) is None else [])),
        widths=shrunk.report.widths,
        kept_for_speed=kept,
        warnings=(*source.notes, *all_alike(masks), *constant_outputs(target, shrunk.model)),
        layers=layers(before, shrunk.report.after),
    )
    if options.verify is not None:
        report = _verified(report, source, target, shrunk, options)
    return Compiled(shrunk.model, report, source.files)


def shrink_with(
    model: ModelProto,
    options: CompileOptions,
    watch: Watch = lambda name: None,
    store: Store | None = None,
    keeps: bool = False,
    given: frozenset[str] = frozenset(),
) -> Shrunk:
    """Run the passes with the widths of the options."""
    how = ShrinkOptions(
        adapters=options.adapters, at=options.at, target=options.target, keeps_analysis=keeps, given=given
    )
    if options.align == "measure":
        return fastest(model, how, RATES.get(table_name()), options.align_seconds, watch, store)
    align = options.align if isinstance(options.align, int) else table(options) if options.align == "auto" else None
    return passes.shrink(model, how, align=align, watch=watch, store=store)


def table(options: CompileOptions) -> Rates | None:
    """The table of the target and the processor; None for processors without one."""
    return registry.table(options.target, options.align_for or table_name())


def _tell_passes(report: Report) -> None:
    """Each pass with its time and what it changed."""
    was = next(iter(report.sizes.values()))
    for name, seconds in report.seconds.items():
        now = report.sizes.get(name, was)
        changes = [
            f"{before:,} → {after:,} {what}"
            for before, after, what in zip(was, now, ("nodes", "values in initializers"), strict=True)
            if before != after
        ]
        detail(f"  pass {name}: {seconds:.3f} s{''.join(f', {change}' for change in changes)}")
        was = now


def _check(compiled: ModelProto, source: Source, target: ModelProto) -> None:
    """Nothing leaves the compiler that the ONNX checker would reject.

    It may be the source that is not valid: of operators that only ONNX Runtime has the checker knows no types, and some
    shapes only once constants are computed. `target` is the source with its masks.
    """
    try:
        _check_whole(compiled)
    except MaskcError:
        raise
    except Exception as error:
        _check_runs(source, in_brief(error))
        try:
            _check_whole(exported(checked(target), target))
        except Exception as same:
            why = f"with its constants computed, {in_brief(same)}"
            raise InputError(f"{source.name} is not a valid ONNX model: {why}.") from same
        raise NotEquivalentError(
            f"The compiled model is not valid ONNX, which is a fault of maskc: {in_brief(error)}."
        ) from error


def _check_whole(model: ModelProto) -> None:
    """Run the ONNX checker. Raises its own exceptions."""
    small = has_external(model) and write_model_files.embeds(model)
    check(write_model_files.inlined(model) if small else model)


def _check_runs(source: Source, why: str) -> None:
    """Raise `InputError` that says why, where ONNX Runtime refuses a model whose operators it knows."""
    from maskc.runtime.session import load

    try:
        load(source.model, "cpu")
    except RunError as error:
        raise InputError(f"{source.name} is not a valid ONNX model: {why}.") from error
    except UnavailableError:
        return


def _verified(
    report: CompileReport, source: Source, target: ModelProto, shrunk: Shrunk, options: CompileOptions
) -> CompileReport:
    from maskc.verification.compare import Models, compare

    assert options.verify is not None
    import_onnxruntime()  # a model that it cannot run is not verified; that it is not there is for the user to mend
    compiled = shrunk.model
    models = Models(target, compiled, report.before, report.after, source, origins=shrunk.origins)
    try:
        result = compare(models, options.verify)
    except (NotComparableError, UnavailableError) as error:
        if options.verify.provider != "cpu":
            raise
        return dataclasses.replace(report, warnings=(*report.warnings, f"Not verified: {error}"))
    inside = result.parting is not None and len(result.reasons) == 1 and all(each.passed for each in result.outputs)
    if not inside:  # a region differs, and no output does: it may be one that is known too little of
        result.raise_if_different()
    else:
        undecided = (*result.reasons, *result.undecided)
        result = dataclasses.replace(result, verdict="cannot tell", equivalent=True, reasons=(), undecided=undecided)
    unsure = (f"Not verified: {reason}" for reason in result.undecided)
    new = () if result.provider == "openvino" else _too_new(compiled)
    return dataclasses.replace(report, verification=result, warnings=(*report.warnings, *unsure, *new))


def timed(
    source: ModelProto,
    compiled: ModelProto,
    wanted: str,
    inputs: Inputs | None = None,
    *,
    seconds: float = _TIMED_SECONDS,
    least: int = _TIMED_RUNS,
) -> Latency:
    """The latency of both models, in turns, on these inputs or on one random sample.

    Raises MaskcError where a provider cannot run them.
    """
    from maskc.runtime.latency import measure
    from maskc.runtime.session import choose_provider, load, strict
    from maskc.verification.inputs import one_sample

    provider = choose_provider(wanted)
    before, after = load(source, provider, timed=True), load(compiled, provider, timed=True)
    sample = one_sample(source, strict(before, source, provider)) if inputs is None else inputs
    return measure(before, after, sample, provider, seconds=seconds, least=least)


def _timed(report: CompileReport, source: Source, compiled: ModelProto) -> CompileReport:
    """The report with the latency of both models on one random sample, or a warning that says why there is none."""
    try:
        latency = timed(source.model, compiled, report.verification.provider if report.verification else "cpu")
    except (NotComparableError, RunError, UnavailableError) as error:
        return dataclasses.replace(report, warnings=(*report.warnings, f"Latency was not measured: {error}"))
    return dataclasses.replace(report, latency=latency)


def _too_new(compiled: ModelProto) -> tuple[str, ...]:
    """A warning if the file keeps a version of the format from its source that is newer than ONNX Runtime here."""
    from maskc.runtime.onnxruntime_session import reads_ir_version

    version = compiled.ir_version
    if reads_ir_version(version):
        return ()
    return (
        f"The model has IR version {version}, like its source, and the ONNX Runtime here reads none as new: it was "
        "verified under an older one. Upgrade ONNX Runtime, or set ir_version to an older one.",
    )
