"""Cost model of mask entries: the saving of each group, for all at once and again whenever one is gone.

The FLOPs of a compiled graph are a sum over nodes of polynomials in how many slices are stored along the axes of their
tensors, and the coupling says which groups these slices belong to. So the savings of all groups follow from one
compiled graph with vector arithmetic. Three more compilations, with a part of the groups zeroed in each, show which
slices the compiler really removes, and where the polynomials are off: at adapters, padded constants and decompositions
that come and go with the masks. The groups that have to do with these are `uncertain`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.errors.arguments import typed
from passes.graph.subgraphs import captured, subgraphs
from passes.graph.tensors import Array, Dim, Index, Mask, describe, is_constant, present, shape_of
from passes.mask_savings.compiled_cost import CompiledCost, collect, compiled_cost
from passes.mask_savings.cost_polynomials import Place, Varying, evaluated, polynomial
from passes.mask_savings.coupled_entries import Coupling
from passes.model.inputs import bind
from passes.rewriting.storage_plan import Key
from passes.sizes.sizes_to_count_at import Sizes
from passes.targets.widths.convolution_shape import convolution_shape
from passes.targets.widths.estimated_time import of_nodes
from passes.targets.widths.rates import Rates

_NONE = np.zeros(0, np.int64)
_MOST = 3  # dimensions of a polynomial: others of a node count as fixed


@dataclass(frozen=True)
class _Dimension:
    """An axis whose size depends on the masks.

    size: the slices stored now. groups, counts: which groups take away how many of them, int64 [n] each. then: its
    sizes in the trials.
    """

    size: int
    groups: Index
    counts: Index
    then: tuple[int, ...]


@dataclass(frozen=True)
class _Terms:
    """Polynomials in equally many dimensions, and each group that lowers any of them, as rows.

    dimensions: int64 [terms, n]. coefficients: float64 [terms, 3, 3, ...]. term, group: int64 [rows]. counts: slices
    that the group takes away, float64 [rows, n].
    """

    dimensions: Index
    coefficients: Array
    term: Index
    group: Index
    counts: Array

    def of(self, groups: Mask) -> _Terms:
        """The same with the rows of these groups, bool [groups], only."""
        left = groups[self.group]
        return replace(self, term=self.term[left], group=self.group[left], counts=self.counts[left])


@dataclass(frozen=True)
class CostModel:
    """The FLOPs of a compiled graph, or nanoseconds where rates were given, and what each group saves.

    Attributes:
        groups: how many groups there are.
        channels: int64 [groups], how many channels of a convolution each group is; 0 where it is none.
        doubtful: bool [groups], those for which `savings` may be off, as the trials show.
        offset: FLOPs that depend on no mask.
    """

    groups: int
    channels: Index
    doubtful: Mask
    offset: float
    _sizes: Array
    _terms: tuple[_Terms, ...]
    _members: tuple[Index, ...] = field(repr=False)  # groups, dimensions and counts, one for each pair

    @property
    def flops(self) -> int:
        """FLOPs of the graph."""
        varying = (evaluated(terms.coefficients, self._sizes[terms.dimensions]).sum() for terms in self._terms)
        return round(self.offset + float(sum(varying)))

    def savings(self) -> Array:
        """What zeroing each group as well would save: float64 [groups], 0 for those that are gone."""
        saved = np.zeros(self.groups)
        for terms in self._terms:
            sizes = self._sizes[terms.dimensions]
            before = evaluated(terms.coefficients, sizes)
            after = evaluated(terms.coefficients[terms.term], sizes[terms.term] - terms.counts)
            saved += np.bincount(terms.group, before[terms.term] - after, minlength=self.groups)
        return saved

    @property
    def uncertain(self) -> Mask:
        """The groups for which `savings` may be off: bool [groups], those doubtful, and the last slices of an axis."""
        groups, dimensions, counts = self._members
        uncertain = self.doubtful.copy()
        uncertain[groups[self._sizes[dimensions] <= counts]] = True
        return uncertain

    @property
    def exact(self) -> bool:
        """Whether `flops` is, without a count: no group is doubtful, and no axis without slices."""
        return not self.doubtful.any() and bool((self._sizes > 0).all())

    def without(self, groups: Sequence[int]) -> CostModel:
        """The model of the graph without these groups as well."""
        stay = np.ones(self.groups, bool)
        stay[groups] = False
        left = stay[self._members[0]]
        _, dimensions, counts = (column[~left] for column in self._members)
        sizes = self._sizes - np.bincount(dimensions, counts, minlength=self._sizes.size)
        members = tuple(column[left] for column in self._members)
        return replace(self, _sizes=sizes, _terms=tuple(terms.of(stay) for terms in self._terms), _members=members)


@typed
def cost_model(
    model: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, Index],
    coupling: Coupling,
    at: Sizes | None = None,
    rates: Rates | None = None,
) -> CostModel:
    """The FLOPs of the compiled graph at these masks, as groups of entries go.

    masks: by the name of the graph input that it is bound to, 0/1 [channels]. groups: by mask name, int64 [channels],
    the group of each entry, numbered from 0, -1 for entries that are kept. coupling: what `coupling` says of the model.
    Groups that divide what is coupled are doubtful. at: the sizes to count at, as for `passes.count`. rates: what makes
    nanoseconds of the FLOPs of each node, as many of each FLOP as there are at these masks.

    Raises LookupError if a name is not that of a graph input, GraphError if the graph is not valid.
    """
    group = coupling.group_of_each(masks, groups)
    count = max((int(g.max(initial=-1)) for g in groups.values()), default=-1) + 1

    def counted(values: Mapping[str, Array]) -> CompiledCost:
        cost = compiled_cost(bind(model, values), at=at)
        collect(model)
        return cost

    now = counted(masks)
    chosen = _chosen(masks, groups, count)
    parts = [_spared(part, masks, groups) for part in (chosen, ~chosen, _one_of_each(masks, groups, count))]
    trials = []
    for zeroed in parts:
        of_entries = np.append(zeroed, False)  # so that -1 stands for no group
        with_zeros = {n: np.where(of_entries[groups[n]], 0, mask) for n, mask in masks.items()}
        trials.append(counted(with_zeros))
    alone = [live for name, mask in masks.items() if (live := _whole(mask, groups[name])).size == 1]
    prices = {} if rates is None else _prices(now, rates)
    return _Building(now, trials, parts, coupling, group, prices).built(np.unique(np.concatenate([_NONE, *alone])))


def _prices(counted: CompiledCost, rates: Rates) -> dict[str, float]:
    """Nanoseconds of a FLOP, by the name of its node."""
    times = of_nodes(counted.graph, rates)
    flops = {describe(node): (node, counted.nodes.get(describe(node), 0)) for node in counted.graph.nodes}
    return {name: times.get(node.outputs[0].name, 0.0) / count for name, (node, count) in flops.items() if count}


def _chosen(masks: Mapping[str, Array], groups: Mapping[str, Index], count: int) -> Mask:
    """The groups to zero in a trial, bool [groups]: another share of each mask, so that sizes tell axes apart."""
    generator, chosen = np.random.default_rng(0), np.zeros(count, bool)
    for index, (name, mask) in enumerate(masks.items()):
        live = _live(mask, groups[name])
        share = 0.3 + 0.4 * (index * 0.618 % 1)  # multiples of the golden ratio spread evenly over any interval
        chosen[live] = False
        chosen[generator.permutation(live)[: round(share * len(live))]] = True
    return chosen


def _one_of_each(masks: Mapping[str, Array], groups: Mapping[str, Index], count: int) -> Mask:
    """A group of each mask, bool [groups]: what is rare may be as it is for the first only."""
    chosen = np.zeros(count, bool)
    for name, mask in masks.items():
        live = _live(mask, groups[name])
        if live.size > 1 and not chosen[live].any():
            chosen[live[live.size // 2]] = True
    return chosen


def _spared(chosen: Mask, masks: Mapping[str, Array], groups: Mapping[str, Index]) -> Mask:
    """The groups to zero without one of each mask that would be empty: where it ends, much of a network is constant."""
    spared = chosen.copy()
    for name, mask in masks.items():
        live = _whole(mask, groups[name])
        if spared[live].all():
            spared[live[:1]] = False
    return spared


def _whole(mask: Array, groups: Index) -> Index:
    """The groups that have an entry which is not zero, if these are all such entries of the mask; else none."""
    return _NONE if np.any((np.asarray(mask) != 0) & (groups < 0)) else _live(mask, groups)


def _live(mask: Array, groups: Index) -> Index:
    """The groups that have an entry of the mask which is not zero."""
    return np.unique(groups[(np.asarray(mask) != 0) & (groups >= 0)])


class _Building:
    """A cost model in the making.

    Attributes:
        now: the graph compiled at the masks.
        trials: the same with some groups zeroed: for each, `zeroed`, bool [groups].
        prices: what a FLOP of a node counts, by its name; 1 for those that have none.
        group_of: by tensor name and axis the group of each slice of the source, -1 for none that is live.
    """

    def __init__(
        self,
        now: CompiledCost,
        trials: Sequence[CompiledCost],
        zeroed: Sequence[Mask],
        coupling: Coupling,
        group: Index,
        prices: Mapping[str, float],
    ) -> None:
        self.now = now
        self.prices = prices
        self.trials = trials
        self.zeroed = zeroed
        root = np.concatenate(list(coupling.groups.values()))
        first, last = np.full(root.size, zeroed[0].size), np.full(root.size, -1)  # of the groups that are coupled
        np.minimum.at(first, root[group >= 0], group[group >= 0])
        np.maximum.at(last, root, group)
        alone = np.where(first == last, last, -1)
        self.group_of = {k: np.where(entry >= 0, alone[root[entry]], -1) for k, entry in coupling.entries.items()}
        self.uncertain = np.zeros(zeroed[0].size, bool)
        self.uncertain[group[(group >= 0) & (alone[root] < 0)]] = True
        self.channels = np.zeros(zeroed[0].size, np.int64)
        self.dimensions: list[_Dimension] = []
        self._numbers: dict[tuple[int, bytes, bytes], int] = {}
        self._shapes = [{t.name: shape_of(t) for t in _computed(trial.graph)} for trial in trials]
        self._nodes = [{describe(node): node for node in trial.graph.nodes} for trial in trials]
        self._axes: dict[Key, Varying] = {}

    def built(self, alone: Index) -> CostModel:
        """The model; `alone` are the groups that are the last of a mask, int64 [n]."""
        self._follow([place for tensor in _computed(self.now.graph) for place in self._label(tensor)])
        polynomials: dict[tuple[int, ...], Array] = defaultdict(lambda: np.zeros(()))
        for node in self.now.graph.nodes:
            if any(describe(node) in counted.nodes for counted in (self.now, *self.trials)):
                dimensions, coefficients = self._polynomial(node)
                price = self.prices.get(describe(node), 1.0)
                polynomials[dimensions] = polynomials[dimensions] + price * coefficients
        for trial, nodes in zip(self.trials, self._nodes, strict=True):
            for name in trial.nodes.keys() - self.now.nodes.keys():
                self._doubt_around(nodes[name])
        # Nothing is said of what they save: each is all there is of a dimension of its own, which no polynomial has.
        one = np.ones(1, np.int64)
        self.dimensions += [_Dimension(1, np.array([group]), one, (1,) * len(self.trials)) for group in alone.tolist()]
        return self._model(polynomials)

    def _label(self, tensor: gs.Tensor) -> Iterator[tuple[gs.Tensor, int, int, tuple[Dim, ...]]]:
        """Note the dimensions of the axes of a tensor; those that vary otherwise than the coupling says are yielded."""
        shape = shape_of(tensor) or ()
        for axis, size in enumerate(shape):
            then = self._then(tensor.name, axis, len(shape))
            if not isinstance(size, int) or all(other == size for other in then):
                continue
            number = self._dimension(size, self.group_of.get((tensor.name, axis), _NONE))
            if number is not None and self.dimensions[number].then == then:
                self._axes[tensor.name, axis] = Varying(number, 1, 0)
            else:
                yield tensor, axis, size, then

    def _follow(self, places: Sequence[tuple[gs.Tensor, int, int, tuple[Dim, ...]]]) -> None:
        """Find the dimensions with which axes vary that the coupling does not reach, as of what an adapter makes.

        Of several that vary alike the one is believed that has the groups of an axis beside it, in an operand of its
        producer or in what reads it; where none is beside it, the only one.
        """
        alike = {(tensor.name, axis): self._alike(size, then) for tensor, axis, size, then in places}
        sizes = {(tensor.name, axis): size for tensor, axis, size, _ in places}
        waiting = {(tensor.name, axis): tensor for tensor, axis, _, _ in places}
        while waiting:
            beside = {key: self._with_groups_beside(tensor, alike[key]) for key, tensor in waiting.items()}
            found = {key: numbers for key, numbers in beside.items() if len(numbers) == 1}
            found = found or {key: alike[key] for key in waiting if not beside[key] and len(alike[key]) == 1}
            if not found:
                break
            for key, (number,) in found.items():
                del waiting[key]
                more = sizes[key] - self.dimensions[number].size
                if more >= 0:
                    self._axes[key] = Varying(number, 1, more)
                else:
                    self._doubt([key])
        for key in waiting:
            self._doubt([key])
            for number in alike[key]:
                self.uncertain[self.dimensions[number].groups] = True

    def _alike(self, size: int, then: tuple[Dim, ...]) -> list[int]:
        """The dimensions that become smaller by as much in all trials as an axis of this size."""
        changes = [size - other if isinstance(other, int) else None for other in then]
        return [n for n, d in enumerate(self.dimensions) if [d.size - other for other in d.then] == changes]

    def _with_groups_beside(self, tensor: gs.Tensor, dimensions: Sequence[int]) -> list[int]:
        """Those of the dimensions whose groups are those of an axis one node away from the tensor."""
        beside = [t for node in tensor.inputs for t in node.inputs]
        beside += [t for node in tensor.outputs for t in (*node.inputs, *node.outputs)]
        axes = [(t.name, axis) for t in beside for axis in range(len(t.shape or ()))]
        groups = {self.dimensions[self._axes[key].dimension].groups.tobytes() for key in axes if key in self._axes}
        return [number for number in dimensions if self.dimensions[number].groups.tobytes() in groups]

    def _then(self, name: str, axis: int, rank: int) -> tuple[Dim, ...]:
        """The sizes of an axis in the trials, None where there is no such axis."""
        shapes = [shapes.get(name) for shapes in self._shapes]
        return tuple(shape[axis] if shape is not None and len(shape) == rank else None for shape in shapes)

    def _dimension(self, size: int, group_of: Index) -> int | None:
        """The number of the dimension that these groups make smaller; None if none does."""
        groups, counts = np.unique(group_of[group_of >= 0], return_counts=True)
        if not groups.size or counts.sum() > size:
            return None
        key = size, groups.tobytes(), counts.tobytes()
        if key not in self._numbers:
            then = tuple(size - int(counts[zeroed[groups]].sum()) for zeroed in self.zeroed)
            self._numbers[key] = len(self.dimensions)
            self.dimensions.append(_Dimension(size, groups, counts, then))
        return self._numbers[key]

    def _polynomial(self, node: gs.Node) -> tuple[tuple[int, ...], Array]:
        """The dimensions that the FLOPs of a node depend on, and how."""
        name = describe(node)
        actual = [counted.nodes.get(name, 0) for counted in (self.now, *self.trials)]
        axes = self._axes_of(node)
        dimensions = tuple(dict.fromkeys(axis.dimension for axis in axes.values()))
        if convolution_shape(node) is not None:
            for tensor in (node.inputs[0], node.outputs[0]):
                groups, counts = np.unique(self.group_of.get((tensor.name, 1), _NONE), return_counts=True)
                self.channels[groups[groups >= 0]] = counts[groups >= 0]
        if subgraphs(node) or len(dimensions) > _MOST:
            axes, dimensions = {}, ()
        if axes:
            found = polynomial(node, axes, dimensions)
            sizes = np.array([[self.dimensions[d].size, *self.dimensions[d].then] for d in dimensions], float).T
            expected = evaluated(np.broadcast_to(found, (len(sizes), *found.shape)), sizes)
        if not axes or expected[0] != actual[0]:
            dimensions, found, expected = (), np.array(float(actual[0])), np.full(len(actual), actual[0])
        if not np.array_equal(expected, actual):
            self._doubt_around(node)
        return dimensions, found

    def _axes_of(self, node: gs.Node) -> dict[Place, Varying]:
        """The axes of a node's tensors that vary, and how."""
        axes = {
            (side, index, axis): self._axes[tensor.name, axis]
            for side, tensors in (("inputs", node.inputs), ("outputs", node.outputs))
            for index, tensor in present(tensors)
            for axis in range(len(shape_of(tensor) or ()))
            if (tensor.name, axis) in self._axes
        }
        return axes | self._axes_of_weights(node, [*dict.fromkeys(axes.values())])

    def _axes_of_weights(self, node: gs.Node, data: Sequence[Varying]) -> dict[Place, Varying]:
        """Weights vary with an axis of what the node reads, or else writes, that is always in proportion to theirs."""
        axes: dict[Place, Varying] = {}
        others = [nodes.get(describe(node)) for nodes in self._nodes]
        for index, tensor in present(node.inputs):
            if not is_constant(tensor):
                continue
            shapes = [None if n is None or index >= len(n.inputs) else shape_of(n.inputs[index]) for n in others]
            for axis, size in enumerate(tensor.shape):
                then = [None if shape is None or axis >= len(shape) else shape[axis] for shape in shapes]
                multiples = (self._multiple(varying, size, then) for varying in data)
                multiple = next(filter(None, multiples), None) if any(other != size for other in then) else None
                if multiple is not None:
                    axes["inputs", index, axis] = multiple
        return axes

    def _multiple(self, data: Varying, size: int, then: Sequence[Dim]) -> Varying | None:
        """How an axis varies that is a multiple of another one; None unless it is so in all trials."""
        dimension = self.dimensions[data.dimension]
        times, rest = divmod(size, dimension.size + data.more)
        proportional = not rest and [times * (other + data.more) for other in dimension.then] == [*then]
        return Varying(data.dimension, times, times * data.more) if proportional else None

    def _doubt(self, axes: Collection[Key]) -> None:
        """The savings of the groups that these axes have slices of may be off."""
        for key in axes:
            groups = self.group_of.get(key, _NONE)
            self.uncertain[groups[groups >= 0]] = True
            if key in self._axes:
                self.uncertain[self.dimensions[self._axes[key].dimension].groups] = True

    def _doubt_around(self, node: gs.Node) -> None:
        """The savings of groups may be off that have slices in what a node reads or writes, or what that comes from.

        Those of all groups where there are none.
        """
        waiting: list[gs.Tensor] = [*_read(node), *node.outputs]
        seen: set[int] = set()
        reached = False
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in seen or is_constant(tensor):
                continue
            seen.add(id(tensor))
            keys = [(tensor.name, axis) for axis in range(len(shape_of(tensor) or ()))]
            self._doubt(keys)
            if any(key in self.group_of or key in self._axes for key in keys):
                reached = True
            else:
                waiting += [operand for maker in tensor.inputs for operand in _read(maker)]
        if not reached:
            self.uncertain[:] = True

    def _model(self, polynomials: Mapping[tuple[int, ...], Array]) -> CostModel:
        by_degree: dict[int, list[tuple[tuple[int, ...], Array]]] = defaultdict(list)
        for key, coefficients in polynomials.items():
            by_degree[len(key)].append((key, coefficients))
        fixed = sum(float(coefficients) for _, coefficients in by_degree.pop(0, []))
        none = _NONE, _NONE, _NONE
        rows = [(d.groups, np.full(d.groups.size, number), d.counts) for number, d in enumerate(self.dimensions)]
        return CostModel(
            self.uncertain.size,
            self.channels,
            self.uncertain,
            fixed,
            np.array([dimension.size for dimension in self.dimensions], float),
            tuple(self._terms(found) for found in by_degree.values()),
            tuple(map(np.concatenate, zip(none, *rows, strict=True))),
        )

    def _terms(self, polynomials: Sequence[tuple[tuple[int, ...], Array]]) -> _Terms:
        rows: list[tuple[Index, Index, Array]] = []
        for number, (dimensions, _) in enumerate(polynomials):
            own = [self.dimensions[d] for d in dimensions]
            groups = np.unique(np.concatenate([d.groups for d in own]))
            counts = np.zeros((len(groups), len(own)))
            for position, dimension in enumerate(own):
                counts[np.searchsorted(groups, dimension.groups), position] = dimension.counts
            rows.append((np.full(len(groups), number), groups, counts))
        term, group, taken = (np.concatenate(column) for column in zip(*rows, strict=True))
        keys, coefficients = zip(*polynomials, strict=True)
        return _Terms(np.array(keys), np.stack(coefficients), term, group, taken)


def _read(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads, in its bodies as well."""
    return [*node.inputs, *captured(node)]


def _computed(graph: gs.Graph) -> list[gs.Tensor]:
    """The inputs of a graph and what its nodes write, each once."""
    tensors = [*graph.inputs, *(tensor for node in graph.nodes for tensor in node.outputs)]
    return [tensor for tensor in tensors if tensor.name and not is_constant(tensor)]
