"""What is known of the sizes of a graph's tensors, read once, while names that inference made up are replaced."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx

from passes.graph.tensors import Dim
from passes.model.declarations import declare, dims_of, set_size

#: how the names begin that inference gives to sizes which it does not know
MADE_UP = "unk__"


def is_open(dim: Dim, given: Collection[str]) -> bool:
    """Whether inference knows nothing of a size. `given` are names that inputs have, which begin as they like."""
    return dim is None or (isinstance(dim, str) and dim.startswith(MADE_UP) and dim not in given)


class Sizes:
    """The sizes of the tensors of a graph, each read once, while names that inference made up are replaced in it."""

    def __init__(self, graph: onnx.GraphProto, given: Collection[str] | None = None) -> None:
        """`given` are the names that sizes of a model's inputs have, where the graph is an excerpt of it."""
        self.graph = graph
        #: what is declared of each tensor
        self.values = {v.name: v for v in [*graph.input, *graph.value_info, *graph.output]}
        #: tensors of which more was told
        self.changed: set[str] = set()
        self._initializers = {t.name: t for t in graph.initializer}
        self._renamed: dict[str, Dim] = {}
        self._read: dict[str, list[Dim] | None] = {}
        self._given = self._named() if given is None else given

    @functools.cached_property
    def writers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor which one writes."""
        return {name: node for node in self.graph.node for name in node.output if name}

    def known(self, name: str) -> list[Dim] | None:
        """The sizes of a tensor; None where the rank is not known."""
        if name not in self._read:
            value, stored = self.values.get(name), self._initializers.get(name)
            self._read[name] = dims_of(value) if value is not None else None if stored is None else list(stored.dims)
        dims = self._read[name]
        return [*map(self.now, dims)] if self._renamed and dims else dims

    def of(self, name: str) -> list[Dim]:
        """The sizes of a tensor; none where the rank is not known."""
        return self.known(name) or []

    def given(self) -> set[str]:
        """Names that sizes of inputs have."""
        return self._named().union(self._given)

    def has_open(self, name: str) -> bool:
        """Whether there is more to know of the shape of a tensor."""
        dims = self.known(name)
        return dims is None or any(map(self.is_open, dims))

    def _named(self) -> set[str]:
        return {d for v in self.graph.input for d in self.of(v.name) if isinstance(d, str)}

    def is_open(self, dim: Dim) -> bool:
        """`is_open` in the model that the graph is of, or is an excerpt of."""
        return is_open(dim, self._given)

    def excerpt(self, graph: onnx.GraphProto) -> Sizes:
        """The sizes of an excerpt of the graph."""
        part = Sizes(graph, self._given)
        part.changed |= self.changed
        return part

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """The initializer of this name."""
        return self._initializers.get(name)

    def vector(self, name: str) -> onnx.TensorProto | None:
        """The initializer of this name, if it is a vector."""
        stored = self.initializer(name)
        return stored if stored is not None and len(stored.dims) == 1 else None

    def declare(self, name: str, dims: Sequence[Dim]) -> None:
        """Write down the shape of a tensor that had none."""
        if name not in self.values:
            self.values[name] = self.graph.value_info.add(name=name)
        declare(self.values[name], dims)
        self.changed.add(name)
        self._read.pop(name, None)

    def learn(self, values: Iterable[onnx.ValueInfoProto]) -> None:
        """Write down what was found out of some tensors."""
        for value in values:
            if value.name not in self.values:
                self.values[value.name] = self.graph.value_info.add()
            self.values[value.name].CopyFrom(value)
            self._read.pop(value.name, None)

    def put(self, name: str, dims: Mapping[int, Dim]) -> None:
        """Give these axes of the tensor these sizes."""
        for axis, dim in dims.items():
            set_size(self.values[name].type.tensor_type.shape.dim[axis], dim)
        if dims:
            self.changed.add(name)
            self._read.pop(name, None)

    def settle(self, name: str, before: list[Dim], dims: Mapping[int, Dim]) -> None:
        """The same, and note what they were `before`: a name stands for another size wherever it is."""
        self._renamed |= {was: dim for axis, dim in dims.items() if isinstance(was := before[axis], str)}
        self.put(name, dims)

    def replace_names(self) -> None:
        """Write down what was noted, wherever the names stand."""
        if not self._renamed:
            return
        for value in self.values.values():
            for proto in value.type.tensor_type.shape.dim:
                if proto.dim_param in self._renamed:
                    set_size(proto, self.now(proto.dim_param))
                    self.changed.add(value.name)
        self._renamed.clear()
        self._read.clear()

    def now(self, dim: Dim) -> Dim:
        """What a size is called after all that was settled."""
        while isinstance(dim, str) and dim in self._renamed:
            dim = self._renamed[dim]
        return dim
