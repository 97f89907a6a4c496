"""Exact savings of mask entries: the graph is compiled without one of each kind of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from passes.errors.arguments import typed
from passes.graph.tensors import Array, Index
from passes.mask_savings.compiled_cost import collect, compiled_cost
from passes.mask_savings.coupled_entries import Coupling, coupling
from passes.mask_savings.kinds import kinds_of_groups
from passes.model.inputs import bind, split

#: told how many evaluations are done, and of how many
Watch = Callable[[int, int], None]


@typed
def flops_by_mask(model: onnx.ModelProto, masks: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
    """FLOPs of the compiled graph at these masks, and what zeroing each further entry would save.

    masks: by the name of the graph input that it is bound to, 0/1 [channels]. The savings are exact differences,
    float64 [channels] by mask name, 0 for entries that are zero already. Entries of a mask that are alike in the
    graph share one evaluation, so the cost grows with the number of layers and not with that of channels.

    Raises LookupError if a name is not that of a graph input, GraphError if the graph is not valid.
    """
    sizes = {name: mask.size for name, mask in masks.items()}
    single = split(np.arange(sum(sizes.values())), sizes)
    total, saved = flops_by_group(model, masks, single, coupling(model, sizes))
    return total, {name: saved[index] for name, index in single.items()}


@typed
def flops_by_group(
    model: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, Index],
    coupling: Coupling,
    watch: Watch | None = None,
) -> tuple[int, Array]:
    """FLOPs of the compiled graph at these masks, and what zeroing each whole group would save.

    masks: as for `flops_by_mask`. groups: by mask name, int64 [channels], the group of each entry, -1 for entries that
    are kept. coupling: what `coupling` says of the masks. The savings are exact differences, float64 [groups], 0 for
    groups without an entry that is not zero. Groups that are alike in the graph share one evaluation. watch: told
    after each evaluation how many are done, and of how many.

    Where groups divide what is coupled (a residual sum, say), those of one kind may differ after all: where constants
    are restored is decided for many channels at once, and by their order. The FLOPs at the masks are exact in any case.

    Raises as `flops_by_mask` does.
    """
    flops = compiled_cost(bind(model, masks)).flops
    if not masks:
        return flops, np.zeros(0)
    kinds = kinds_of_groups(model, masks, groups, coupling)
    collect(model)
    saved = np.zeros(kinds.size)
    number = 1 + int(kinds.max(initial=-1))
    for kind in range(number):
        alike = np.flatnonzero(kinds == kind)
        without = {name: np.where(groups[name] == alike[0], 0, mask) for name, mask in masks.items()}
        saved[alike] = flops - compiled_cost(bind(model, without)).flops
        collect(model)
        if watch is not None:
            watch(kind + 1, number)
    return flops, saved
