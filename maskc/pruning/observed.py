"""A network as it was observed on data: what can be pruned, in which order, and the refit of what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

import passes
from maskc.compilation.compile import table
from maskc.errors import InputError
from maskc.progress import stage
from maskc.pruning.choice.observation import layers, sensitivities
from maskc.pruning.choice.removal import Removal
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import Batch, Data, first
from maskc.pruning.layers.network import Mask, Network
from maskc.pruning.layers.places import network
from maskc.pruning.options import PruneOptions
from maskc.pruning.refit import refitted
from maskc.runtime.given_inputs import declared
from maskc.runtime.random_inputs import ports
from passes.errors import SizeError
from passes.sizes.cost_values import Cost
from passes.sizes.prepare import between_steps
from passes.sizes.sizes_to_count_at import Sizes

_SAMPLES = 1024  # that layers are observed on, of no more bytes
_BYTES = 2**25


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
    takes_bias: Callable[[str], bool] = lambda node: True,
) -> Observed:
    """Observe a model on data, at the sizes of the options or else of the data; `takes_bias` as for `network`.

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
        net = network(shrunk.model, batches[0], at, options.seed, takes_bias)
    whole = net.masked(np.zeros(len(net.fixed), bool))
    with stage("Observing layers", slow=True):
        found = layers(net, whole, batches, options.seed)
    notes = _left_out(net, cost)
    if all(net.fixed[layer.labels].all() for layer in found):
        why = "outputs show them, or no layer with constant weights reads them, apart from such as change nothing."
        raise InputError(" ".join([f"No channels can be pruned: {why}", *notes]))
    with stage("Measuring sensitivity", slow=True):
        rates = table(options) if options.timed else None
        known = rates if rates is not None and rates.predicts else None
        flops = cost.flops * _repeated(batches[0], at or {})
        removal = Removal(net, found, sensitivities(net, whole, found, batches, flops), known)
    return Observed(source, net, removal, batches, cost, options.seed, notes)


def levels(
    source: ModelProto, examples: Data, shares: Sequence[float]
) -> Iterator[tuple[float, ModelProto | InputError]]:
    """For shares of the FLOPs, the largest first, the masked network with refitted weights, or why there is none."""
    seen = observed(source, examples, PruneOptions(align="none", verify=None))
    before = {"flops": seen.cost.flops}
    for share in sorted(shares, reverse=True):
        options = PruneOptions(flops=share, align="none", verify=None, at=seen.network.at)
        try:
            gone, _ = Search(source, seen.network, seen.removal, options, before, seen.batches[0], seen.notes).found()
            yield share, seen.without(gone)
        except InputError as error:
            yield share, error


def _left_out(net: Network, cost: Cost) -> tuple[str, ...]:
    """A sentence on layers that are not read as least squares, if there are any."""
    parts = [f"{net.layers.outside} with weights of another form"] * bool(net.layers.outside)
    if net.layers.inside:
        bodied = {node.op_type for node in net.model.graph.node if any(a.HasField("g") for a in node.attribute)}
        share = sum(node.flops for node in cost.nodes if node.op in bodied) / max(cost.flops, 1)
        parts.append(f"{net.layers.inside} in branches or loops, which have {share:.0%} of the FLOPs")
    return (f"Layers whose input channels are not pruned: {' and '.join(parts)}.",) if parts else ()


def _repeated(batch: Batch, at: Sizes) -> int:
    """How many times as many samples a batch has as FLOPs are counted at."""
    return max((len(batch[name]) // (sizes[0] or 1) for name, sizes in at.items() if sizes), default=1) or 1


def _sizes(model: ModelProto, batch: Batch) -> Sizes:
    """Those of the data, for one sample where the model leaves their number open."""
    found = {}
    for port in ports(model):
        shape = list(batch[port.name].shape)
        if shape and declared(port)[0] is None:
            shape[0] = 1
        found[port.name] = shape
    return found
