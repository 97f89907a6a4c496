"""Pruning of a trained model by data: from a file to a smaller one that computes nearly the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

import passes
from maskc import frontend
from maskc.compilation.compile import Compiled, compiled_source
from maskc.compilation.options import SECONDS, VERIFY, Align, parse_align
from maskc.errors import InputError, MaskcError, Terminated, telling, warn
from maskc.frontend import write_model_files
from maskc.frontend.custom_rules import function_of
from maskc.frontend.input_sizes import Shapes
from maskc.frontend.mask_files import Masks, apply_masks
from maskc.frontend.tensorflow.importing import import_tensorflow
from maskc.frontend.tensorflow.keras import load
from maskc.inspection.arguments import public
from maskc.inspection.flops import telling_of
from maskc.inspection.options import from_arguments
from maskc.progress import Listener, listening, take_time
from maskc.pruning.checkpoint import Checkpoint, State
from maskc.pruning.choice.observation import observed
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import Batch, Given, counted, path_and_name
from maskc.pruning.data import data as read_data
from maskc.pruning.keras_model import KerasModel
from maskc.pruning.layers.network import Mask
from maskc.pruning.measure import Quality
from maskc.pruning.options import PruneOptions
from maskc.pruning.quality.judge import Judge
from maskc.report import files
from maskc.results.json_values import plain
from maskc.results.layers import layers as layers_of
from maskc.results.measurements import Agreement, Figures
from passes.adapters.price import Policy
from passes.sizes.cost_values import Cost
from passes.sizes.prepare import between_steps
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets import registry

if TYPE_CHECKING:
    from maskc.pruning.training.loop import Batches, Loss

# How much nearer to its target more pruning has to bring a Keras model: this share of the way, in logarithms.
_OF_THE_WAY = 0.25


@dataclass(frozen=True)
class Pruned(Compiled):
    """A pruned model, the report on how it was compiled, and how it compares with its source.

    agreement: of each output, on data that were held out, or where `alone` on the data that it was pruned by, as of a
    single batch.
    quality: of the source and of the result, where there is a measure. drop: where there is none and `max_drop` was
    asked for, the largest share that is lost, and in words of what. interrupted: whether training was, and this is what
    it came to. loss: of both on what was held out, where the user gave one.
    """

    agreement: tuple[Agreement, ...] = ()
    alone: bool = False
    quality: tuple[float, float] | None = None
    drop: tuple[float, str] | None = None
    interrupted: bool = False
    loss: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """How it compares with the source, as values that `json` can write. No channels were masked before."""
        return {
            "command": "prune",
            "channels": None,
            "agreement": plain(self.agreement),
            "held_out": not self.alone,
            "quality": self.quality,
            "loss": plain(self.loss),
            "drop": plain(self.drop),
            "interrupted": self.interrupted,
        }


@public
def prune(
    model: frontend.Model,
    data: Given,
    *,
    flops: float | None = None,
    params: float | None = None,
    size: float | None = None,
    speedup: float | None = None,
    ms: float | None = None,
    max_drop: float | None = None,
    quality: Quality | None = None,
    lower_is_better: bool = False,
    epochs: float | None = None,
    minutes: float | None = None,
    loss: str | Callable[..., Any] | None = None,
    masks: Masks | None = None,
    signature: str | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
    adapters: Policy = "auto",
    align: Align = "auto",
    align_for: str | None = None,
    align_seconds: float = SECONDS,
    target: str = registry.DEFAULT,
    verify: bool = True,
    seed: int = 0,
    progress: Listener | None = None,
) -> Pruned:
    """Prune a trained model to a smaller, faster one that computes nearly the same.

    `model` is what `maskc.compile` takes. `data` are inputs, without labels: a path of an `.npz` or `.npy` file with
    samples along the first axis, or of a directory of them; `loader.py:function`, or a function, that gives batches as
    dictionaries of arrays; or the arrays themselves by input name, of one input the array. A fifth is held out, to
    measure on.

    One target says how far to go: `flops`, `params` or `size`, a share of the model's to leave; `speedup` or `ms`,
    measured in the runtime of `target`; or `max_drop` with `quality`, for which the smallest that holds is sought.
    Without one, half the FLOPs are left. `epochs` and `minutes` say how long to train, which is not done otherwise, and
    `loss`, of outputs and batch by name, what becomes small then. The rest is as for `maskc.compile`.

    Channels go that the others can best make up for, by second moments of what layers read; the weights that are left
    are refitted, and, if asked for, trained towards the outputs of the model. Raises `InputError` when the model, the
    data or the options cannot be used, or the target is out of reach.

    Example:
        >>> import numpy as np
        >>> inputs = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
        >>> pruned = prune("model.onnx", {"x": inputs}, flops=0.5, epochs=0)
        >>> pruned.report.after.flops <= 0.5 * pruned.report.before.flops
        True
        >>> pruned.save("small.onnx")
    """
    chosen = from_arguments(PruneOptions, locals(), verify=VERIFY if verify else None)
    with nullcontext() if progress is None else listening(progress):
        return pruned(chosen.read(model), data, chosen)


def pruned(
    source: frontend.Source,
    given: Given,
    options: PruneOptions,
    saved: State | None = None,
    keep: Callable[[ModelProto, State], object] = lambda model, state: None,
    layers: KerasModel | None = None,
) -> Pruned:
    """`prune` of a model that was read, with the options as one value.

    keep: called while training goes on, at once and then each minute, with the result without training, and a state to
    go on from. saved: such a state, of the same model, data and options. layers: the Keras model that the source is the
    graph of, if a smaller one is to come of it.
    """
    target = source.model if options.masks is None else apply_masks(source.model, options.masks)
    examples = read_data(given, target)
    loss = None if options.loss is None else loss_of(options.loss)
    with telling_of(source.name):
        samples = counted(examples.used()) if options.trains and options.epochs else None
        judge = Judge(target, examples, options, loss)
        if options.trains and layers is None:
            check_training(target, next(examples.used()))
        seen = observed(target, examples, options, layers)
        net, cost = seen.network, seen.cost
        options = dataclasses.replace(options, at=net.at)
        before = {"flops": cost.flops, "params": cost.params, "size": source.bytes}
        search = Search(seen, options, before)
        if layers is not None and saved is None:
            layers.check(net, seen.batches, cost.flops)

        def made(masked: ModelProto, verify: bool = True) -> Compiled:
            how = dataclasses.replace(options, masks=None, verify=options.verify if verify else None)
            # TensorFlow computes the source, and not the refitted network that the result is compared with
            return compiled_source(dataclasses.replace(source, model=masked, tensorflow=None), how)

        def drop(gone: Mask) -> tuple[float, str]:
            return judge.drop(judge(made(seen.without(gone), verify=False).model))

        if saved is not None:
            masked = ModelProto.FromString(saved["masked"].tobytes())
            options = dataclasses.replace(options, align=parse_align(str(saved["align"])))
        else:
            gone, options = search.found() if options.max_drop is None else (search.smallest(drop), options)
            masked = seen.without(gone) if layers is None else in_layers(layers, search, gone)
        compiled = made(masked)
    model, verdict, warnings, interrupted = compiled.model, judge(compiled.model), [*source.notes, *seen.notes], False
    if options.trains:
        network = np.frombuffer(masked.SerializeToString(deterministic=True), np.uint8)
        chosen = {"masked": network, "align": np.array(str(options.align))}
        take_time()
        trained, interrupted = fine_tuned(
            model if layers is None else masked,
            target,
            examples.used if loss is None else examples.with_labels,
            options,
            layers,
            count=samples,
            loss=loss,
            saved=saved,
            keep=lambda state: keep(compiled.model, {**chosen, **state}),
        )
        after = judge(trained)
        if judge.better(verdict, after) is after:
            model, verdict = trained, after
        else:
            if layers is not None:
                layers.undo()
            warnings.append("Training made the result no better on what was held out, so the untrained one is kept.")
    if saved is None and not gone.any():
        warnings.append("The target is met by what `maskc compile` does, so nothing was pruned: ask for less.")
    warnings += [*judge.collapse(verdict), *judge.constant(verdict)]
    latency = search.latency(model) if options.timed else None
    if latency is not None:
        warnings += search.missed({"speedup": latency.speedup, "ms": latency.after[1]})
    count = passes.count(model if layers is None else masked, at=net.at)
    if layers is not None:
        missed = search.missed(shares(count, cost))
        warnings += [
            f"{told} Layers of a Keras model may keep what an ONNX file loses: write .onnx." for told in missed
        ]
        warnings += layers.needed_to_load()
    report = dataclasses.replace(
        compiled.report,
        after=Figures.from_cost(count, compiled.report.after.bytes),
        latency=latency,
        before=Figures.from_cost(cost, source.bytes),
        masked=(),
        held=(),
        layers=layers_of(cost, count),
        warnings=tuple(warnings),
    )
    quality = None if judge.quality is None or verdict.quality is None else (judge.quality, verdict.quality)
    losses = None if judge.loss is None or verdict.loss is None else (judge.loss, verdict.loss)
    lost = judge.drop(verdict) if quality is None and options.max_drop is not None else None
    alone = examples.hold_out_none_of(seen.batches)
    return Pruned(model, report, source.files, verdict.agreement, alone, quality, lost, interrupted, losses)


def in_layers(layers: KerasModel, search: Search, gone: Mask) -> ModelProto:
    """The graph of a Keras model without these groups, which becomes smaller.

    What a file leaves out beyond these, such as channels that are constant, stays in layers, so more groups go where
    that takes the model above its target, unless that hardly brings it nearer.
    """
    seen, (name, value) = search.seen, search.options.target_of
    asked, restore = value, layers.saved()
    last: tuple[ModelProto, float, Callable[[], None]] | None = None
    while True:
        graph, cost = layers.smaller(seen.network, gone, seen.without(gone), seen.batches, seen.cost.flops)
        left = shares(cost, seen.cost).get(name, value)
        if last is not None:
            before, more_left, undo = last
            if left > more_left * (value / more_left) ** _OF_THE_WAY:  # what went since stays in layers
                undo()
                return before
        if not search.missed({name: left}):
            return graph
        last, more = (graph, left, layers.saved()), gone
        while (more == gone).all():
            asked *= value / left
            lower: dict[str, Any] = {name: asked}
            try:
                more, _ = dataclasses.replace(search, options=dataclasses.replace(search.options, **lower)).found()
            except InputError:  # there are no more
                return graph
        restore()
        gone = more


def shares(count: Cost, whole: Cost) -> dict[str, float]:
    """What is left of a model's FLOPs and weights."""
    return {"flops": count.flops / whole.flops, "params": count.params / whole.params}


def check_training(source: ModelProto, batch: Batch) -> None:
    """Raise what `fine_tuned` would where the model cannot be trained, before the search, which takes longer."""
    import_tensorflow()
    from maskc.pruning.training.from_onnx.imported import Imported

    imported = Imported(between_steps(source))
    if not imported.variables:
        raise InputError(
            "Nothing can be trained: no output depends on floating-point weights through operators with gradients, as "
            "in a quantised model, or one that gives names and numbers of classes alone. Leave out --epochs and "
            "--minutes."
        )
    imported(batch)


def loss_of(given: str | Callable[..., Any]) -> Loss:
    """The loss of a user, which is a function or says where that is. Raises UnavailableError without TensorFlow."""
    import_tensorflow()
    from maskc.pruning.training.loop import Loss

    return Loss(function_of(*path_and_name(given, "--loss")), given) if isinstance(given, str) else Loss(given)


def fine_tuned(
    model: ModelProto,
    source: ModelProto,
    batches: Batches,
    options: PruneOptions,
    layers: KerasModel | None,
    **more: Any,
) -> tuple[ModelProto, bool]:
    """The model after so many epochs or minutes as the options say; whether it was interrupted, and so after fewer.

    Raises InputError where an operator cannot be trained, and UnavailableError without TensorFlow.
    """
    try:
        import_tensorflow()
        from maskc.pruning.training.loop import finetune

        return finetune(
            model,
            batches,
            source,
            minutes=options.minutes,
            epochs=options.epochs,
            seed=options.seed,
            student=None if layers is None else layers.student(),
            **more,
        )
    except (KeyboardInterrupt, Terminated):  # before the first step
        return model, True


@telling()
def pruned_file(model: Path, given: str, output: Path, options: PruneOptions, resume: bool = False) -> Pruned:
    """`prune` from path to path. Where anything fails before training, nothing is written; raises as `prune` does.

    From then on the result without training lies at the output, and beside it a checkpoint, which goes when all is
    done. resume: whether to go on from one.
    """
    frontend.locate(model)
    files.check_target(output)
    source = options.read(model)
    read = (*source.files, *((options.mask_file,) if options.mask_file else ()))
    files.check_places([("output", output)], read)
    layers = None
    if output.suffix == ".keras" and source.tensorflow is not None and model.is_file():
        layers = KerasModel(source.tensorflow)
        if options.size is not None:
            raise InputError("--size is of an .onnx file. A .keras file holds more than weights: give --params.")
    elif output.suffix not in ("", ".onnx"):
        raise InputError(f"{output} must end with .onnx, or with .keras where that is a .keras file made smaller.")
    checkpoint = Checkpoint(output, source, given, options)
    saved = checkpoint.read() if resume else None
    if resume and not options.trains:
        raise InputError("--resume goes on with training: give the --epochs or --minutes of that run, or leave it out.")
    if resume and saved is None:
        warn(f"There is no {checkpoint.path} to go on from, so the run starts over.")
    if not resume and options.trains and checkpoint.path.exists():
        raise InputError(f"{checkpoint.path} is of a run that was interrupted. Go on with --resume, or remove it.")
    if saved is not None and layers is not None:
        layers.take(load(output))  # which is smaller by now
    begun = False

    def keep(refitted: ModelProto, state: State) -> None:
        nonlocal begun
        if not begun:
            if layers is None:
                write_model_files.write_model(refitted, output, keep=read)
            elif saved is None:
                layers.write_untrained(output)
        begun = True
        checkpoint.write(state)

    try:
        result = pruned(source, given, options, saved, keep, layers)
        if layers is None:
            size = write_model_files.write_model(result.model, output, keep=read)
        else:
            size = layers.write(output)
    except MaskcError as error:
        if begun:
            told = f"{output} is the result without training: --resume goes on, and with other options remove"
            raise type(error)(f"{error} {told} {checkpoint.path}.") from error
        raise
    if not result.interrupted:
        checkpoint.path.unlink(missing_ok=True)
    after = dataclasses.replace(result.report.after, bytes=size)
    return dataclasses.replace(result, report=dataclasses.replace(result.report, after=after, output=str(output)))
