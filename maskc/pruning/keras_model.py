"""The Keras model of a pruned network: its weights in the variables of the layers, which `shrink` makes smaller."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc.errors import InputError
from maskc.frontend.graph_queries import array_of
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.keras import from_model
from maskc.frontend.write_model_files import in_the_making
from maskc.progress import stage
from maskc.pruning.data import Batch
from maskc.pruning.layers.contractions import Contraction, Index
from maskc.pruning.layers.network import Mask, Network
from maskc.pruning.quality.comparison import Comparison
from passes.analysis import dataflow
from passes.sizes.cost_values import Cost
from passes.sizes.prepare import checked

Array = NDArray[Any]
Stored = Mapping[str, Array]
_CLOSE = 1e-4  # of the largest weight: what conversion may round
_ALIKE = 1e-3  # of an output's spread
_TRIED = 8  # one group of so many goes in a trial
_FEWEST = 0.1  # of the FLOPs that an ONNX file leaves out, for a Keras model to be worth writing


class KerasModel:
    """A Keras model whose graph is pruned: the names of nodes that sum begin with the paths of its layers.

    Raises InputError for one that `shrink` does not take, or of two precisions.
    """

    def __init__(self, traced: TensorFlowModel) -> None:
        self._outputs, self._untrained = traced.outputs, list[Array]()
        self.take(traced.owner)

    def take(self, model: Any) -> None:
        """Go on with another model, as with what became of this one."""
        from maskc.train.keras_internals import all_layers, functional, nodes, producer
        from maskc.train.models.calls import is_functional

        if not is_functional(model):
            raise InputError("A smaller .keras file comes from a functional or Sequential model: write .onnx.")
        self._model, layers = model, all_layers(model)
        mixed = next((each for each in layers if each.weights and each.compute_dtype != each.variable_dtype), None)
        if mixed is not None:
            raise InputError(
                f"The layer {mixed.name!r} computes in {mixed.compute_dtype} with weights in {mixed.variable_dtype}, "
                "and a smaller .keras file comes from a model of one precision: write .onnx."
            )
        calls = [node for layer in layers if is_functional(layer) for node in nodes(functional(layer))]
        self._layers = {layer.path: layer for layer in layers}
        norms = [node for node in calls if type(node.operation).__name__ == "BatchNormalization"]
        self._norms = {id(producer(n.input_tensors[0])): n.operation for n in norms if n.operation.center}

    def bias_of(self, layer: Contraction) -> Hashable | None:
        """The biases of the Keras layers that hold it; None if these add none."""
        biases = [self._bias(*part) for part in self._parts(layer)]
        return None if any(bias is None for bias in biases) else tuple(map(id, biases))

    def leaves_unread(self, layer: Contraction) -> bool:
        """Heads of attention alone: what is given to other layers has all of its channels."""
        return self._of_heads(layer.node)

    def division(self, node: str, classes: Sequence[Index]) -> int | None:
        """By the last axis, as a Keras tensor has channels along that one; by heads where a layer removes these."""
        if any(hasattr(each, "num_query_heads") for each in self._chain(node)):
            return None
        by_heads = self._of_heads(node)
        return next((n for n, each in enumerate(classes) if bool((each[:1] == each[1:2]).all()) == by_heads), None)

    def together(self, network: Network) -> Iterator[Index]:
        """Units of both directions of a recurrence, heads, and what one layer makes in several calls."""
        from maskc.train.shrinking.rules.recurrent import loses_units

        units = {place.tensor: network.groups[name] for name, place in network.units.items()}
        whole: dict[Hashable, list[Index]] = {}  # by layers around, or weights
        for reader in network.readers:
            layer, chain = reader.contraction, self._chain(reader.contraction.node)
            whole.setdefault(layer.weights, []).append(network.made_by(layer)[None])
            both = _both_directions(chain)
            attention = next((each for each in chain if type(each).__name__ == "MultiHeadAttention"), None)
            if both is not None and layer.output in units:
                labels = units[layer.output][None]
                whole.setdefault(id(both), []).append(labels if loses_units(both) else np.full_like(labels, -1))
            elif attention is not None:
                labels = reader.group_of if chain[-1].name == "attention_output" else network.made_by(layer)
                whole.setdefault(id(attention), []).append(labels.reshape(attention.num_heads, -1).T)
        yield from (np.concatenate(those) for those in whole.values())

    def _bias(self, layer: Contraction, owner: Any) -> Any:
        """What the Keras layer, or a normalisation after it, adds to each output; None if it adds nothing."""
        if hasattr(owner, "depthwise_kernel") and layer.node.endswith("/depthwise"):
            return None  # a separable convolution adds its bias to the second product
        if id(owner) in self._norms:
            return self._norms[id(owner)].beta
        biases = (v for v in getattr(owner, "weights", ()) if v.path.rpartition("/")[2] == "bias")
        return next((bias for bias in biases if math.prod(bias.shape) >= layer.outputs), None)

    def check(self, network: Network, batches: Sequence[Batch], flops: float) -> None:
        """Raise InputError, before channels are chosen, where the model cannot hold what pruning makes of it.

        flops: of the model.
        """
        from maskc.train.shrinking.shrink import shrink

        values = network.layers.constants.values
        gone = np.zeros(len(network.fixed), bool)
        gone[np.flatnonzero(~network.fixed)[::_TRIED]] = True
        for groups in network.groups.values():
            gone[groups] &= not gone[groups].all()  # no layer loses all, as one of a single channel would
        with stage("Trying Keras layers", slow=True):
            if any(self._held(reader.contraction, values) is None for reader in network.readers):
                self.take(shrink(self._model, verify=False))  # the graph lacks channels that are zero as it is
            restore = self.saved()
            self.smaller(network, gone, network.masked(gone), batches[:1], flops)
        restore()

    def saved(self) -> Callable[[], None]:
        """A function that makes the model again what it is now."""
        model, weights = self._model, self._model.get_weights()

        def restore() -> None:
            model.set_weights(weights)
            self._model = model

        return restore

    def smaller(
        self, network: Network, gone: Mask, masked: ModelProto, batches: Iterable[Batch], flops: float
    ) -> tuple[ModelProto, Cost]:
        """Give the layers the weights of the masked network, with zeros for what is gone, and make the model smaller.

        Returns its graph and the cost of that. Raises InputError where it does not compute what the masked network
        does on batches, as where weights are not those of layers, or where layers keep nearly all. flops: of the model
        before.
        """
        from maskc.train.shrinking.shrink import shrink

        if gone.any():
            self._assign(network, gone, masked)
        before = {layer.name: layer.count_params() for layer in self._model.layers}
        self._model = shrink(self._model, verify=False)
        graph = self._traced().to_onnx()
        for output in Comparison(masked, next(iter(batches)))(graph, batches):
            if output.error is not None and output.error > _ALIKE:
                raise InputError(
                    f"The Keras model cannot hold what is pruned of '{output.output}', as where a layer adds a "
                    "constant before another: write .onnx."
                )
        able, cost = network.flops(np.zeros_like(gone)) - network.flops(gone), passes.count(graph, at=network.at)
        if gone.any() and flops - cost.flops < _FEWEST * able:
            nodes = (reader.contraction.node for reader in network.readers if reader.lost(gone).any())
            pruned = {name for node in nodes for name in node.split("/")}
            whole = [x for x in self._model.layers if x.name in pruned and x.count_params() == before.get(x.name)]
            which = f"The {type(whole[0]).__name__} {whole[0].name!r}" if whole else "Layers of the Keras model"
            raise InputError(f"{which} cannot leave out what is pruned: write .onnx.")
        return graph, cost

    def needed_to_load(self) -> list[str]:
        """A sentence where Keras alone does not load the model."""
        from maskc.train.keras_internals import all_layers

        kinds = {type(layer) for layer in all_layers(self._model)}
        own = sorted(kind.__name__ for kind in kinds if kind.__module__.startswith("maskc."))
        return [f"The model has {' and '.join(own)} layers: import maskc.train before it is loaded."] if own else []

    def student(self) -> KerasStudent:
        """The model to train, which can be untrained again."""
        self._untrained = self._model.get_weights()
        return KerasStudent(self._model, self._traced)

    def undo(self) -> None:
        """Make it what it was before it was trained."""
        self._model.set_weights(self._untrained)

    def write_untrained(self, path: Path) -> None:
        """Save it as it was before it was trained, and go on."""
        trained = self._model.get_weights()
        self.undo()
        self.write(path)
        self._model.set_weights(trained)

    def write(self, path: Path) -> int:
        """Save the model, completely or not at all; the size of the file."""
        with stage("Writing"), in_the_making(path) as part:
            self._model.save(part)
        return path.stat().st_size

    def _traced(self) -> TensorFlowModel:
        """What it computes now: the smaller model of a Sequential is a functional one, which names its outputs."""
        return dataclasses.replace(from_model(self._model), outputs=self._outputs)

    def _chain(self, node: str) -> list[Any]:
        """The layers that a node is named for, each in the one before, where names of models around may be left out."""
        from maskc.train.keras_internals import all_layers

        parts, found, inside = node.split("/"), list[Any](), self._layers
        for begin, end in itertools.combinations(range(len(parts) + 1), 2):
            layer = inside.get("/".join(parts[begin:end]))
            if layer is not None:
                found.append(layer)
                inside = {each.path: each for each in all_layers(layer)[1:]}
        return found

    def _of_heads(self, node: str) -> bool:
        return any(hasattr(each, "num_heads") or hasattr(each, "num_query_heads") for each in self._chain(node))

    def _parts(self, layer: Contraction) -> list[tuple[Contraction, Any]]:
        """A contraction and the Keras layer that it is of, or that of each direction of a recurrence in both."""
        chain = self._chain(layer.node)
        both = _both_directions(chain)
        if both is None or layer.shape[0] == 1:
            return [(layer, chain[-1] if chain else None)]
        one = dataclasses.replace(layer, shape=(1, *layer.shape[1:]), along="ooc", groups=1)
        return [(one, both.forward_layer), (one, both.backward_layer)]

    def _held(self, layer: Contraction, values: Stored) -> list[_Held] | None:
        """Where Keras layers hold these weights, each an equal part of them; None if they do not."""
        parts = self._parts(layer)
        split = np.split(values[layer.weights], len(parts))
        held = [next(_places(one, each, w), None) for (one, each), w in zip(parts, split, strict=True)]
        return None if None in held else [each for each in held if each is not None]

    def _assign(self, network: Network, gone: Mask, masked: ModelProto) -> None:
        """Give the layers the weights of the masked network, and zeros for what nothing reads."""
        before, after = network.layers.constants.values, {t.name: array_of(t) for t in masked.graph.initializer}
        unread, places = _unread(network, gone, masked), {place.tensor for place in network.places.values()}
        sharing: dict[str, list[Contraction]] = {}
        for reader in network.readers:
            sharing.setdefault(reader.contraction.weights, []).append(reader.contraction)
        found, owned = dict[str, list[_Held]](), dict[int, Contraction]()
        for name, (layer, *_) in sharing.items():  # before any changes
            held = self._held(layer, before)
            if held is None:
                raise InputError(
                    f"The weights of {layer.node!r} are not those of a layer in the Keras model, since a layer beside "
                    "it, as a Rescaling or one of your own, is part of them: write .onnx."
                )
            for part in held:
                if (other := owned.setdefault(id(part.variable), layer)) is not layer:
                    raise InputError(self._in_two_ways(part.variable, other, layer))
            found[name] = held
        for name, layers in sharing.items():
            bias = next((layer.bias for layer in layers if layer.bias), "")
            idle = np.logical_and.reduce([unread[each.output] for each in layers])
            masked_first = all(each.output in places for each in layers)
            parts = len(found[name])
            given = zip(*(np.split(each, parts) for each in (after[name], idle)), strict=True)
            for n, (part, (weights, none)) in enumerate(zip(found[name], given, strict=True)):
                part.put(weights, none)
                if bias:
                    was, now = (np.split(each[bias], parts)[n].ravel()[: none.size] for each in (before, after))
                    self._shift(part, np.where(none, 0, now) - was, none, masked_first)

    def _shift(self, held: _Held, added: Array, unread: Mask, masked_first: bool) -> None:
        bias, norm = self._bias(held.layer, held.owner), self._norms.get(id(held.owner))
        changed = np.array(bias)
        changed.ravel()[held.outputs] += added / held.of_outputs if norm is None else added
        if not masked_first:  # else what the graph adds elsewhere, as behind a Reshape, is left of it
            changed.reshape(-1, unread.size)[:, held.outputs[unread]] = 0
        bias.assign(changed)
        if norm is not None:  # where nothing is normalised, the mean of a batch is as good as that of all
            norm.beta.assign(np.where(unread, 0, norm.beta))
            if norm.scale:
                norm.gamma.assign(np.where(unread, 0, norm.gamma))

    def _in_two_ways(self, variable: Any, *layers: Contraction) -> str:
        names = [self._chain(layer.node)[-1].name for layer in layers]
        which = f"The layers {names[0]!r} and {names[1]!r} share the weight {variable.path!r}, each in another way,"
        if names[0] == names[1]:
            which = f"The layer {names[0]!r} is called more than once, before different normalisations,"
        return f"{which} and cannot lose different channels: write .onnx, in which each has weights of its own."


class KerasStudent:
    """A Keras model in inference mode, whose trainable variables are trained."""

    def __init__(self, model: Any, trace: Callable[[], TensorFlowModel]) -> None:
        self._trace, self._traced = trace, trace()
        self.variables = {f"{i}/{v.path}": v.value for i, v in enumerate(model.trainable_variables)}

    def __call__(self, feeds: Mapping[str, Any], tensors: Sequence[str] = ()) -> dict[str, Any]:
        """The outputs by name."""
        made = self._traced.call(*(feeds[name] for name in self._traced.inputs))
        return dict(zip(self._traced.outputs, made, strict=True))

    def to_onnx(self) -> ModelProto:
        """The graph of the model at the present values."""
        return self._trace().to_onnx()  # anew: gradients add outputs to a function


@dataclass(frozen=True, eq=False)
class _Held:
    """Where a Keras layer holds the weights of a contraction, but for a factor of each output or input.

    order: the place in the variable of each weight. outputs: that in a bias of each output. scale: float64 [groups, 1,
    outputs], or of each input instead, [groups, inputs, 1].
    """

    layer: Contraction
    owner: Any
    variable: Any
    order: NDArray[np.int64]
    outputs: Index
    scale: NDArray[np.float64]

    @property
    def of_outputs(self) -> NDArray[np.float64]:
        """The factor of each output."""
        return self.scale.ravel() if self.scale.shape[1] == 1 else np.ones(self.outputs.size)

    def put(self, weights: Array, unread: Mask) -> None:
        """Give the variable these weights, and zeros where nothing reads an output."""
        matrix = self.layer.matrix(weights) / self.scale
        changed, none = np.array(self.variable), unread.reshape(len(matrix), 1, -1)
        changed.ravel()[self.order] = self.layer.stored(np.where(none, 0, matrix))
        self.variable.assign(changed)


def _both_directions(chain: Iterable[Any]) -> Any:
    """The Bidirectional among layers; None if there is none."""
    return next((each for each in chain if hasattr(each, "backward_layer")), None)


def _places(layer: Contraction, owner: Any, weights: Array) -> Iterator[_Held]:
    """Variables of a Keras layer that hold the trained weights."""
    trained, outputs = layer.matrix(weights), layer.outputs
    units = getattr(owner, "units", outputs) if len(layer.along) == 3 and "oo" in layer.along else outputs
    for variable in getattr(owner, "weights", ()):
        if math.prod(variable.shape) != math.prod(layer.shape):
            continue
        places = np.arange(math.prod(variable.shape)).reshape(variable.shape)
        for axes in itertools.permutations(range(places.ndim)):
            turned = places.transpose(axes)
            if turned.ndim == len(layer.shape) and not _merges(turned.shape, layer.shape):
                continue
            matrix = layer.matrix(turned.reshape(layer.shape))
            for gates in itertools.permutations(range(outputs // units)):  # of recurrent layers, in another order
                columns = np.arange(outputs).reshape(len(gates), -1)[list(gates)].ravel()
                order = np.rint(layer.stored(matrix[..., columns] if len(gates) > 1 else matrix)).astype(np.int64)
                own = layer.matrix(np.asarray(variable).ravel()[order])
                for axis in (1, 2) if trained.shape[2] > 1 else (1,):  # a normalisation after the layer, or before it
                    scale = (own * trained).sum(axis, keepdims=True)
                    scale /= np.maximum(np.square(own).sum(axis, keepdims=True), 1e-30)
                    if np.abs(trained - own * scale).max() <= _CLOSE * np.abs(trained).max():
                        yield _Held(layer, owner, variable, order, columns, np.where(scale == 0, 1, scale))


def _merges(shape: Sequence[int], into: Sequence[int]) -> bool:
    """Whether axes that lie side by side make up those of another shape, as the two of depthwise channels one."""
    return set(itertools.accumulate(into, operator.mul)) <= {1, *itertools.accumulate(shape, operator.mul)}


def _unread(network: Network, gone: Mask, masked: ModelProto) -> dict[str, Mask]:
    """By the output of a layer, the channels of it that nothing reads any more, or that are units without weights."""
    biases = {bias for reader in network.readers if (bias := reader.contraction.bias)}
    # as inputs, for constants are not read where they are known
    facts, found = dataflow.analyse(checked(network.layers.constants.as_inputs(masked, biases))), {}
    units = {units.tensor: gone[network.groups[name]] for name, units in network.units.items()}
    for layer in (reader.contraction for reader in network.readers):
        outputs = layer.outputs
        read = facts.read.get(layer.output, {})
        wanted = read.get(1 if layer.window else max(read, default=0), np.ones(outputs, bool))
        unit = units.get(layer.output)
        if unit is not None:
            found[layer.output] = np.resize(unit, outputs)
        else:
            found[layer.output] = ~wanted if wanted.size == outputs else np.zeros(outputs, bool)
    return found
