"""A network as it was observed on data: what can be pruned, in which order, and the refit of what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

import passes
from maskc.compilation.compile import table
from maskc.errors import InputError
from maskc.frontend.graph_queries import all_nodes
from maskc.progress import stage
from maskc.pruning.choice.observation import layers, sensitivities
from maskc.pruning.choice.removal import Removal
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import Batch, Data, first
from maskc.pruning.layers.network import Mask, Network
from maskc.pruning.layers.places import network
from maskc.pruning.layers.stored_weights import stored
from maskc.pruning.options import PruneOptions
from maskc.pruning.refit import refitted
from maskc.runtime.given_inputs import declared
from maskc.runtime.random_inputs import ports
from passes.errors import SizeError
from passes.sizes.cost_values import Cost
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.rates import Rates

_SAMPLES = 1024  # that layers are observed on, of no more bytes
_BYTES = 2**25
_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "QLinearConv", "QLinearMatMul"}
_LAYERS |= {"ConvInteger", "MatMulInteger", "MatMulNBits", "DynamicQuantizeLSTM", "Einsum"}


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
        """The masked network without groups, bool [groups], with weights that make up for them."""
        return refitted(self.network, gone, self.batches, self.seed)


def observed(source: ModelProto, examples: Data, options: PruneOptions) -> Observed:
    """Observe a model on data, at the sizes of the options or else of the data.

    Raises GraphError and SizeError as `passes.shrink` does, and InputError where nothing can be pruned.
    """
    batches = list(first(examples.used(), _SAMPLES, _BYTES))
    at: Sizes | None = options.at or _sizes(source, batches[0])
    with stage("Finding channels", slow=True):
        try:
            shrunk = passes.shrink(source, at=at)
        except SizeError:
            if options.at is not None:
                raise
            at = None  # branches for other inputs may not take these sizes
            shrunk = passes.shrink(source)
        net = network(shrunk.model, batches[0], at, options.seed)
    whole = net.masked(np.zeros(len(net.fixed), bool))
    with stage("Observing layers", slow=True):
        found = layers(net, whole, batches, options.seed)
    notes = tuple(_left_out(net))
    if all(net.fixed[layer.labels].all() for layer in found):
        why = "outputs show them, or no layer with constant weights reads them."
        raise InputError(" ".join([f"No channels can be pruned: {why}", *notes]))
    with stage("Measuring sensitivity", slow=True):
        rates = table(options) if options.timed else None
        known = rates if isinstance(rates, Rates) else None
        flops = shrunk.report.before.flops * _repeated(batches[0], at or {})
        removal = Removal(net, found, sensitivities(net, whole, found, batches, flops), known)
    return Observed(source, net, removal, batches, shrunk.report.before, options.seed, notes)


def levels(
    source: ModelProto, examples: Data, shares: Sequence[float]
) -> Iterator[tuple[float, ModelProto | InputError]]:
    """For shares of the FLOPs, the largest first, the masked network with refitted weights, or why there is none."""
    seen = observed(source, examples, PruneOptions(align="none", verify=None))
    before = {"flops": seen.cost.flops}
    for share in sorted(shares, reverse=True):
        options = PruneOptions(flops=share, align="none", verify=None, at=seen.network.at)
        try:
            gone, _ = Search(source, seen.network, seen.removal, options, before, seen.batches[0]).found()
            yield share, seen.without(gone)
        except InputError as error:
            yield share, error


def _left_out(net: Network) -> Iterator[str]:
    """A sentence on layers that are not read as least squares, if there are any."""
    constants, read = stored(net.model), {reader.contraction.node.output[0] for reader in net.readers}
    outside = [node for node in net.model.graph.node if node.op_type in _LAYERS]
    inside = sum(node.op_type in _LAYERS for node in all_nodes(net.model)) - len(outside)
    weighted = [node for node in outside if any(constants[n].ndim > 1 for n in node.input if n in constants)]
    other = sum(node.output[0] not in read for node in weighted)
    parts = [f"{inside} in branches or loops"] * bool(inside)
    parts += [f"{other} with weights that are shared or of another form"] * bool(other)
    if parts:
        yield f"Layers whose input channels are not pruned: {' and '.join(parts)}."


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
