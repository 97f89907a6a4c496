"""The Keras model of a pruned network: its weights in the variables of the layers, which `shrink` makes smaller."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from maskc.pruning.layers.contractions import Contraction
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
        called = Counter(node.operation for node in calls)
        self._repeated = {each.name: each.name for each, count in called.items() if count > 1}
        self._repeated |= {each.name: each.layer.name for each in layers if type(each).__name__ == "TimeDistributed"}
        norms = [node for node in calls if type(node.operation).__name__ == "BatchNormalization"]
        self._norms = {id(producer(n.input_tensors[0])): n.operation for n in norms if n.operation.center}

    def bias(self, layer: Contraction) -> Any:
        """What the Keras layer, or a normalisation after it, adds to each output; None if it adds nothing."""
        owner = self._layer(layer.node)
        if hasattr(owner, "depthwise_kernel") and layer.node.endswith("/depthwise"):
            return None  # a separable convolution adds its bias to the second product
        if id(owner) in self._norms:
            return self._norms[id(owner)].beta
        biases = (v for v in getattr(owner, "weights", ()) if v.path.rpartition("/")[2] == "bias")
        return next((bias for bias in biases if math.prod(bias.shape) >= _outputs(layer)), None)

    def check(self, network: Network, batches: Sequence[Batch], flops: float) -> None:
        """Raise InputError, before channels are chosen, where the model cannot hold what pruning makes of it.

        flops: of the model.
        """
        from maskc.train.shrinking.shrink import shrink

        values = network.layers.constants.values
        gone = np.zeros(len(network.fixed), bool)
        gone[np.flatnonzero(~network.fixed)[::_TRIED]] = True
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

        stored = {tensor.name: array_of(tensor) for tensor in masked.graph.initializer}
        unread = _unread(network, gone, masked) if gone.any() else {}
        places = {place.tensor for place in network.places.values()}
        for reader in network.readers if unread else ():
            layer = reader.contraction
            masked_first = layer.output in places
            self._assign(layer, network.layers.constants.values, stored, unread[layer.output], masked_first)
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

    def _layer(self, node: str) -> Any:
        """The innermost layer that a node is named for, where names of models around it may be left out."""
        from maskc.train.keras_internals import all_layers

        parts, found, inside = node.split("/"), None, self._layers
        for begin, end in itertools.combinations(range(len(parts) + 1), 2):
            layer = inside.get("/".join(parts[begin:end]))
            if layer is not None:
                found, inside = layer, {each.path: each for each in all_layers(layer)[1:]}
        return found

    def _held(self, layer: Contraction, values: Stored) -> tuple[Any, Array, Array, Array] | None:
        """Where the Keras layer holds these weights, as `_places` says; None if it does not."""
        trained = layer.matrix(values[layer.weights])
        return next(_places(layer, self._layer(layer.node), trained, _outputs(layer)), None)

    def _assign(self, layer: Contraction, before: Stored, after: Stored, unread: Mask, masked_first: bool) -> None:
        owner, found = self._layer(layer.node), self._held(layer, before)
        if found is None:
            names = layer.node.split("/")
            again = [self._repeated[name] for name in names if name in self._repeated]
            why = "a layer beside it, as a Rescaling or one of your own, is part of them"
            if again:
                why = f"{again[0]!r} is called more than once"
            elif any(type(self._layers.get(name)).__name__ == "Bidirectional" for name in names):
                why = "a Bidirectional has both directions in one"
            raise InputError(
                f"The weights of {layer.node!r} are not those of a layer in the Keras model, since {why}: write .onnx."
            )
        variable, order, outputs, scale = found
        scale[scale == 0] = 1
        matrix = np.where(unread.reshape(scale.shape)[:, None], 0, layer.matrix(after[layer.weights]) / scale[:, None])
        changed = np.array(variable)
        changed.ravel()[order] = layer.stored(matrix)
        variable.assign(changed)
        if layer.bias:
            bias = self.bias(layer)
            was, now = (values[layer.bias].ravel()[: unread.size] for values in (before, after))
            added = np.where(unread, 0, now) - was
            changed, norm = np.array(bias), self._norms.get(id(owner))
            changed.ravel()[outputs] += added / scale.ravel() if norm is None else added
            if not masked_first:  # else what the graph adds elsewhere, as behind a Reshape, is left of it
                changed.reshape(-1, unread.size)[:, outputs[unread]] = 0
            bias.assign(changed)
            if norm is not None:  # where nothing is normalised, the mean of a batch is as good as that of all
                norm.beta.assign(np.where(unread, 0, norm.beta))
                if norm.scale:
                    norm.gamma.assign(np.where(unread, 0, norm.gamma))


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


def _places(layer: Contraction, owner: Any, trained: Array, outputs: int) -> Iterator[tuple[Any, Array, Array, Array]]:
    """Variables of a Keras layer that hold the trained weights, but for a factor of each output, which comes last.

    Before it come the places in the variable of all weights, and in a bias of all outputs.
    """
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
                scale = (own * trained).sum(axis=1) / np.maximum(np.square(own).sum(axis=1), 1e-30)
                if np.abs(trained - own * scale[:, None]).max() <= _CLOSE * np.abs(trained).max():
                    yield variable, order, columns, scale


def _merges(shape: Sequence[int], into: Sequence[int]) -> bool:
    """Whether axes that lie side by side make up those of another shape, as the two of depthwise channels one."""
    return set(itertools.accumulate(into, operator.mul)) <= {1, *itertools.accumulate(shape, operator.mul)}


def _outputs(layer: Contraction) -> int:
    return math.prod(layer.shape) // (layer.width * layer.taps)


def _unread(network: Network, gone: Mask, masked: ModelProto) -> dict[str, Mask]:
    """By the output of a layer, the channels of it that nothing reads any more, or that are units without weights."""
    biases = {bias for reader in network.readers if (bias := reader.contraction.bias)}
    # as inputs, for constants are not read where they are known
    facts, found = dataflow.analyse(checked(network.layers.constants.as_inputs(masked, biases))), {}
    units = {units.tensor: gone[network.groups[name]] for name, units in network.units.items()}
    for layer in (reader.contraction for reader in network.readers):
        outputs = _outputs(layer)
        read = facts.read.get(layer.output, {})
        wanted = read.get(1 if layer.window else max(read, default=0), np.ones(outputs, bool))
        unit = units.get(layer.output)
        if unit is not None:
            found[layer.output] = np.resize(unit, outputs)
        else:
            found[layer.output] = ~wanted if wanted.size == outputs else np.zeros(outputs, bool)
    return found
