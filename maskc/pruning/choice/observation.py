"""Observation of a network on data: what layers read, how much outputs suffer from errors of each, and what can go."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc.compilation.compile import table
from maskc.errors import InputError, RunError
from maskc.progress import stage
from maskc.pruning.choice.removal import Removal
from maskc.pruning.choice.surgeon import Layer, Moments
from maskc.pruning.data import Batch, Data, first
from maskc.pruning.layers.contractions import joined
from maskc.pruning.layers.network import Holder, Mask, Network
from maskc.pruning.layers.places import network
from maskc.pruning.options import PruneOptions
from maskc.pruning.quality.comparison import compared, distance
from maskc.pruning.refit import refitted
from maskc.pruning.walk import Feeds, Walk
from maskc.runtime.given_inputs import declared
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.runtime.random_inputs import ports
from passes.errors import SizeError
from passes.sizes.cost_values import Cost, NodeCost
from passes.sizes.prepare import between_steps
from passes.sizes.sizes_to_count_at import Sizes

_SAMPLES = 1024  # that layers are observed on, of no more bytes
_BYTES = 2**25
_ROWS = 400  # of a layer, of each batch
_HURT = 0.05  # of a layer's energy: the error that its sensitivity is measured at
_LEAST = 1e-3  # of the median: what is measured of less is noise
# FLOPs, for all sensitivities: some 15 seconds on two cores. By a bound in seconds machines would prune differently.
_WORK = 5e11


@dataclass(frozen=True)
class Observed:
    """The network of a source, the order in which its groups go, and the batches that say so.

    cost: of the source, at the sizes of the network. seed: of what is drawn. notes: on layers that are not pruned.
    """

    source: ModelProto
    network: Network
    removal: Removal
    batches: Sequence[Batch]
    cost: Cost
    seed: int
    notes: tuple[str, ...] = ()

    def without(self, gone: Mask) -> ModelProto:
        """The masked network without groups, bool [groups], with weights that make up for them, or the source."""
        return self.source if not gone.any() else refitted(self.network, gone, self.batches, self.seed)


def observed(
    source: ModelProto,
    examples: Data,
    options: PruneOptions,
    holder: Holder | None = None,
) -> Observed:
    """Observe a model on data, at the sizes of the options or else of the data.

    Raises GraphError and SizeError as `passes.shrink` does, and InputError where nothing can be pruned.
    """
    batches = list(first(examples.used(), _SAMPLES, _BYTES))
    at: Sizes | None = options.at or _sizes(source, batches[0])
    with stage("Finding channels", slow=True):
        pruned = between_steps(source)
        try:
            shrunk = passes.shrink(pruned, at=at)
        except SizeError:
            if options.at is not None:
                raise
            at = None  # branches for other inputs may not take these sizes
            shrunk = passes.shrink(pruned)
        cost = shrunk.report.before if pruned is source else passes.count(source, at=at)
        net = network(shrunk.model, batches[0], at, options.seed, holder)
    whole = net.masked(np.zeros(len(net.fixed), bool))
    with stage("Observing layers", slow=True):
        found = layers(net, whole, batches, options.seed)
    notes = _left_out(net, cost)
    more = () if holder is None else ("A Keras model can lose less than an ONNX file: write .onnx.",)
    if all(net.fixed[layer.labels].all() for layer in found):
        why = "outputs show them, or no layer with constant weights reads them, apart from such as change nothing."
        raise InputError(" ".join([f"No channels can be pruned: {why}", *notes, *more]))
    with stage("Measuring sensitivity", slow=True):
        rates = table(options) if options.timed else None
        known = rates if rates is not None and rates.predicts else None
        flops = cost.flops * _repeated(batches[0], at or {})
        removal = Removal(net, found, sensitivities(net, whole, found, batches, flops), known)
    return Observed(source, net, removal, batches, cost, options.seed, notes)


def _left_out(net: Network, cost: Cost) -> tuple[str, ...]:
    """A sentence on layers that are not read as least squares, if there are any."""

    def told(count: int, what: str, names: Collection[str], nodes: Iterable[NodeCost]) -> str:
        share = sum(node.flops for node in nodes) / max(cost.flops, 1)
        which = ", ".join([repr(name) for name in names if name][:3])
        return f"{count} {what}{f' ({which})' if which else ''}, which have {share:.0%} of the FLOPs"

    parts, outside = list[str](), net.layers.outside
    if outside:
        nodes = (node for node in cost.nodes if node.name in outside)
        parts.append(told(len(outside), "with weights of another form", outside, nodes))
    if net.layers.inside:
        with_bodies = [node for node in net.model.graph.node if any(a.HasField("g") for a in node.attribute)]
        bodied = {node.op_type for node in with_bodies}
        nodes = (node for node in cost.nodes if node.op in bodied)
        parts.append(told(net.layers.inside, "in branches or loops", [node.name for node in with_bodies], nodes))
    return (f"Layers whose input channels are not pruned: {' and '.join(parts)}.",) if parts else ()


def _repeated(batch: Batch, at: Sizes) -> int:
    """How many times as many samples a batch has as FLOPs are counted at."""
    return max((len(batch[name]) // int(sizes[0] or 1) for name, sizes in at.items() if sizes), default=1) or 1


def _sizes(model: ModelProto, batch: Batch) -> Sizes:
    """Those of the data, for one sample where the model leaves their number open."""
    found = {}
    for port in ports(model):
        shape = list(batch[port.name].shape)
        if shape and declared(port)[0] is None:
            shape[0] = 1
        found[port.name] = shape
    return found


def layers(network: Network, model: ModelProto, batches: Sequence[Feeds], seed: int = 0) -> list[Layer]:
    """The layers that read channels which can go, with the moments of what they read in the model, unmasked.

    Those that have the same weights are one, whose moments are the sum of theirs.
    Depthwise convolutions, and others whose groups go as a whole, are none of them: what they read goes as what they
    write does.
    """
    found: dict[str, Moments] = {}
    reading = []
    for number, reader in enumerate(network.readers):
        contraction = reader.contraction
        label = reader.group_of[reader.group_of >= 0]
        whole = contraction.groups > 1 and (reader.group_of == reader.group_of[..., :1]).all()
        if label.size and not network.fixed[label].all() and not whole:
            if contraction.weights not in found:
                matrix = contraction.matrix(network.layers.constants.values[contraction.weights])
                found[contraction.weights] = Moments.of(reader, matrix, seed + number)
            reading.append(contraction)
    rng = np.random.default_rng(seed)
    walk = Walk(model, batches)
    with contextlib.suppress(RunError):  # where the model cannot be cut; what comes after is not observed
        for contraction in reading:
            read = (contraction.rows(values, _ROWS, rng) for values in walk.to(contraction.source))
            for rows in joined(chain.from_iterable(read)):
                found[contraction.weights].add(rows)
    # one after the other, as the moments of all take much room
    return [Layer(moments) for name in list(found) if (moments := found.pop(name)).count]


def sensitivities(
    network: Network, model: ModelProto, layers: Sequence[Layer], batches: Sequence[Feeds], flops: int
) -> NDArray[np.float64]:
    """What an error of each layer, of its energy, adds to the divergence of the outputs: float64 [layers].

    Each layer loses, alone, the channels that it needs least, about so many as hurt it by a twentieth. flops: of the
    model, on a batch.
    """
    constants, names = network.layers.constants, {layer.reader.contraction.weights for layer in layers}
    given = constants.stored({name: constants.values[name] for name in names})
    session = OnnxRuntimeSession(constants.as_inputs(model, names))
    some = batches[: max(1, int(_WORK / max(flops * len(layers), 1)))]
    expected = [session.run({**batch, **given}) for batch in some]
    found = np.zeros(len(layers))
    for number, layer in enumerate(layers):
        hurt = layer.copy()
        errors = layer.errors(len(network.fixed))
        order = sorted((label for label in layer.labels if not network.fixed[label]), key=errors.__getitem__)
        lost, gone = 0.0, 0
        for label in order[: max(1, len(order) // 2)]:
            lost += float(errors[label])
            gone += 1
            if lost > _HURT:
                break
        hurt.without(order[:gone])
        name = layer.reader.contraction.weights
        changed = given | constants.stored({name: hurt.stored()})
        outputs = (session.run({**batch, **changed}) for batch in some)
        found[number] = distance(compared(zip(expected, outputs, strict=True))) / max(lost, 1e-9)
    found = np.where(np.isfinite(found), found, 1.0)
    return np.maximum(found, _LEAST * np.median(found))
