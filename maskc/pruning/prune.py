"""Pruning of a trained model by data: from a file to a smaller one that computes nearly the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

import passes
from maskc import frontend
from maskc.compilation.compile import Compiled, compiled_source
from maskc.errors import InputError, telling
from maskc.frontend import write_model_files
from maskc.frontend.mask_files import apply_masks
from maskc.frontend.part_folders import part_folder
from maskc.progress import Listener, listening, stage
from maskc.pruning.choice.observation import layers, sensitivities
from maskc.pruning.choice.removal import Removal
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import Batch, Data, Given, declared
from maskc.pruning.data import data as read_data
from maskc.pruning.layers.network import Mask
from maskc.pruning.layers.places import network
from maskc.pruning.options import PruneOptions
from maskc.pruning.quality.judge import Judge
from maskc.pruning.refit import refitted
from maskc.pruning.training.fine_tuning import fine_tuned
from maskc.report import files
from maskc.results.agreement import Agreement
from maskc.results.json_values import plain
from maskc.results.layers import layers as layers_of
from maskc.results.totals import Figures
from maskc.runtime.random_inputs import ports
from passes.errors import GraphError, SizeError
from passes.sizes.sizes_to_count_at import Sizes

_SAMPLES = 1024  # that layers are observed on, of no more bytes
_BYTES = 2**26


@dataclass(frozen=True)
class Pruned(Compiled):
    """A pruned model, the report on how it was compiled, and how it compares with its source.

    agreement: of each output, on data that were held out, or where `alone` on the data that it was pruned by.
    quality: of the source and of the result, where there is a measure.
    """

    agreement: tuple[Agreement, ...] = ()
    alone: bool = False
    quality: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """How it compares with the source, as values that `json` can write."""
        return {
            "agreement": [plain(output) for output in self.agreement],
            "held_out": not self.alone,
            "quality": self.quality,
        }


@telling()
def prune(model: frontend.Model, data: Given, *, progress: Listener | None = None, **options: Any) -> Pruned:
    """Prune a trained model to a smaller, faster one that computes nearly the same.

    `model` is what `maskc.compile` takes. `data` are inputs, without labels: a path of an `.npz` or `.npy` file with
    samples along the first axis, or of a directory of them; `loader.py:function`, or a function, that gives batches as
    dictionaries of arrays; or the arrays themselves by input name. A fifth is held out, to measure on.

    One target says how far to go: `flops`, `params` or `size`, a share of the model's to leave; `speedup` or `ms`,
    measured in the runtime of `target`; or `max_drop` with `quality`, for which the smallest that holds is sought.
    Without one, half the FLOPs are left. `epochs` and `minutes` say how long to train, which is not done otherwise, and
    the rest is as for `maskc.compile`.

    Channels go that the others can best make up for, by second moments of what layers read; the weights that are left
    are refitted, and, if asked for, trained towards the outputs of the model. Raises `InputError` when the model, the
    data or the options cannot be used, or the target is out of reach.

    Example:
        >>> inputs = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
        >>> pruned = prune("model.onnx", {"x": inputs}, flops=0.5, epochs=0)
        >>> pruned.report.after.flops <= 0.5 * pruned.report.before.flops
        True
        >>> pruned.save("small.onnx")
    """
    chosen = PruneOptions(**options)
    with nullcontext() if progress is None else listening(progress):
        return pruned(chosen.read(model), data, chosen)


def pruned(
    source: frontend.Source,
    given: Given,
    options: PruneOptions,
    on_trained: Callable[[], object] = lambda: None,
) -> Pruned:
    """`prune` of a model that was read, with the options as one value.

    on_trained: called when training has ended, by an interruption or not.
    """
    target = source.model if options.masks is None else apply_masks(source.model, options.masks)
    examples = read_data(given, target)
    batches = _calibration(examples)
    at = options.at or _sizes(target, batches[0])
    options = dataclasses.replace(options, at=at)
    try:
        with stage("Finding channels", slow=True):
            shrunk = passes.shrink(target, at=at)
            net = network(shrunk.model, batches[0], at, options.seed)
        whole = net.masked(np.zeros(len(net.fixed), bool))
        with stage("Observing layers", slow=True):
            found = layers(net, whole, batches, options.seed)
        if all(net.fixed[layer.labels].all() for layer in found):
            raise InputError(f"{source.name} has no channels that can be pruned: outputs show all of them.")
        with stage("Measuring sensitivity", slow=True):
            removal = Removal(net, found, sensitivities(net, whole, found, batches))
        cost = shrunk.report.before
        before = {"flops": cost.flops, "params": cost.params, "size": source.bytes}
        search = Search(target, net, removal, options, before, batches[0])
        judge = Judge(target, examples, options)

        def made(gone: Mask, verify: bool = True) -> Compiled:
            masked = refitted(net, gone, batches, options.seed)
            how = dataclasses.replace(options, masks=None, verify=options.verify if verify else None)
            # TensorFlow computes the source, and not the refitted network that the result is compared with
            return compiled_source(dataclasses.replace(source, model=masked, tensorflow=None), how)

        def drop(gone: Mask) -> float:
            return judge.drop(judge(made(gone, verify=False).model))

        if options.max_drop is None:
            gone, options = search.found()
        else:
            gone = search.smallest(drop)
        compiled = made(gone)
    except (GraphError, SizeError) as error:
        raise InputError(f"{source.name}: {error}") from error
    model, verdict, warnings = compiled.model, judge(compiled.model), list(source.notes)
    if options.trains:
        trained = fine_tuned(model, target, net, gone, examples, options)
        on_trained()
        after = judge(trained)
        if judge.better(verdict, after) is after:
            model, verdict = trained, after
        else:
            warnings.append("Training made the result no better on what was held out, so the untrained one is kept.")
    report = dataclasses.replace(
        compiled.report,
        before=Figures.from_cost(cost, source.bytes),
        masked=(),
        held=(),
        layers=layers_of(cost, passes.count(model, at=at)),
        warnings=tuple(warnings),
    )
    quality = None if judge.quality is None or verdict.quality is None else (judge.quality, verdict.quality)
    return Pruned(model, report, source.files, verdict.agreement, examples.alone, quality)


@telling()
def pruned_file(model: Path, given: str, output: Path, options: PruneOptions) -> Pruned:
    """`prune` from path to path; where anything fails, nothing is written. Raises as `prune` does."""
    frontend.locate(model)
    files.check_target(output)
    source = options.read(model)
    read = (*source.files, *((options.mask_file,) if options.mask_file else ()))
    files.check_not_read(output, read)
    if output.suffix not in ("", ".onnx"):
        raise InputError(f"{output} must end with .onnx: that is what is written.")
    # From when training ends, a supervisor lets an interrupted process write what it has.
    with ExitStack() as stack:
        result = pruned(source, given, options, lambda: stack.enter_context(part_folder(output)))
        size = write_model_files.write_model(result.model, output, keep=read)
    after = dataclasses.replace(result.report.after, bytes=size)
    return dataclasses.replace(result, report=dataclasses.replace(result.report, after=after, output=str(output)))


def _sizes(model: ModelProto, batch: Batch) -> Sizes:
    """Those of the data, for one sample where the model leaves their number open."""
    found = {}
    for port in ports(model):
        shape = list(batch[port.name].shape)
        if shape and declared(port)[0] is None:
            shape[0] = 1
        found[port.name] = shape
    return found


def _calibration(examples: Data) -> list[Batch]:
    """Batches to observe layers on, of so many samples."""
    batches, seen, size = [], 0, 0
    for batch in examples.used():
        batches.append(batch)
        seen += max((len(array) for array in batch.values() if array.ndim), default=1)
        size += sum(array.nbytes for array in batch.values())
        if seen >= _SAMPLES or size >= _BYTES:
            break
    return batches
