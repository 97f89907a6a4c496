"""Names of Keras and its TensorFlow backend that are not public: one function for each, with a test in the same order.

Everything else in `maskc.train` keeps to public names, so an update of either library breaks this file or nothing.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.export.export_utils import get_input_signature
from keras.src.models.functional import functional_like_constructor
from keras.src.saving.serialization_lib import ObjectSharingScope
from tensorflow.python.ops import control_flow_util, resource_variable_ops

from maskc.errors import InputError

# Layers and models


def all_layers(layer: Any) -> list[Any]:
    """Returns a layer or model and the layers in it at any depth, each once."""
    return list(layer._flatten_layers())


def functional(model: Any) -> Any:
    """Returns the functional model of a Sequential one; any other as it is."""
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes(graph: Any) -> list[Any]:
    """Returns the calls in a functional model, in the order in which Keras repeats them."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in graph._nodes_by_depth[depth] if not node.is_input]


def repeat_calls(graph: Any, inputs: Any, call: Callable[..., Any]) -> Any:
    """Repeats the calls of a functional model on other inputs, as `call(operation, *args, **kwargs)`.

    `keras.models.clone_model(call_function=...)` does the same for Keras tensors alone, and compiles its result with a
    second optimizer of the same masks.
    """
    # The middle argument has no default in older versions.
    return graph._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)


@contextlib.contextmanager
def in_place_of(copies: Mapping[int, Any]) -> Iterator[None]:
    """Within it what configurations make has these copies in the places of layers, which are known by their ids."""
    with ObjectSharingScope():
        global_state.set_global_attribute("shared_objects/id_to_config_map", {number: {} for number in copies})
        global_state.set_global_attribute("shared_objects/id_to_obj_map", dict(copies))
        yield


def producer(tensor: Any) -> Any:
    """Returns the layer or operation that a Keras tensor is an output of."""
    return tensor._keras_history.operation


def input_signature(model: Any) -> list[Any]:
    """Returns the structure of the positional arguments of a model, with a `keras.InputSpec` for each tensor.

    Raises ValueError if the model has not been called.
    """
    signature: list[Any] = get_input_signature(model)
    return signature


def made_as_functional(model: Any) -> bool:
    """Returns whether Keras, which loads it so, makes a functional model of this class of inputs and outputs."""
    return isinstance(model, keras.Function) and functional_like_constructor(type(model))


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns what a model was compiled with, by name, as it was given."""
    return dict(model._compile_config.config)


def forward_pass(layer: Any) -> tuple[Any, Any]:
    """Returns the outermost layer or model of the forward pass that a call is part of, and an identity of the pass."""
    context = layer._get_call_context()
    return context.entry_layer, context


def seen_from(inside: Any, outside: Any) -> bool:
    """Returns whether what the first tensor's graph computes can use the second tensor; all eager tensors can."""
    graph, wanted = getattr(inside, "graph", None), getattr(outside, "graph", None)
    while graph is not wanted and graph is not None and wanted is not None:
        graph = getattr(graph, "outer_graph", None)
    return graph is wanted or wanted is None


def raised_plainly(kind: Any) -> None:
    """Lets Keras raise errors of this class as they are: it prints a page of arguments around what a layer says."""
    kind._keras_call_info_injected = True


@contextlib.contextmanager
def intercepted(operations: Iterable[Any], around: Callable[..., Any]) -> Iterator[None]:
    """Within, calls of these return `around(operation, call, *args, **kwargs)`, where `call` is the operation's own."""
    unique = {id(operation): operation for operation in operations}.values()
    names = [
        (operation, "call" if getattr(operation, "quantization_mode", None) is None else "quantized_call")
        for operation in unique
    ]
    try:
        for operation, name in names:
            own = getattr(operation, name)
            replacement = functools.wraps(own)(functools.partial(around, operation, own))
            object.__setattr__(operation, name, replacement)  # which Keras would track as a layer's state
        yield
    finally:
        for operation, name in names:
            vars(operation).pop(name, None)


class JoinedHeads:
    """An attention layer of Keras whose heads' outputs pass through `on_heads` before they are joined."""

    def on_heads(self, outputs: Any) -> Any:
        """Returns what is joined, of the same shape: `(batch, ..., heads, size)`."""
        return outputs

    def _compute_attention(self, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        outputs, scores = super()._compute_attention(*arguments, **named)  # type: ignore[misc]
        return self.on_heads(outputs), scores


def output_projection(attention: Any) -> Any:
    """Returns the layer of an attention layer that joins the heads, with a kernel `(heads, size, channels)`."""
    return attention._output_dense


# Optimizers and training steps


def trained_variables(optimizer: Any) -> list[Any]:
    """Returns the variables that a built optimizer updates, in the order of its slots."""
    return list(optimizer._trainable_variables)


def check_trained(optimizer: Any, variables: Iterable[Any]) -> None:
    """Raises `InputError` for a variable that a built optimizer does not update."""
    try:
        optimizer._check_variables_are_known(variables)
    except ValueError as error:
        raise InputError(
            f"The optimizer {optimizer.name!r} was built for other variables: make a new one for each model, and in a "
            "custom loop build it with all of model.trainable_variables."
        ) from error


def strategy_of(optimizer: Any) -> Any:
    """Returns the distribution strategy that an optimizer was made under."""
    return optimizer._distribution_strategy


def in_xla() -> bool:
    """Returns whether a function is being traced that XLA is to compile."""
    return bool(tf.inside_function() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def on_all_replicas(action: Callable[[], None]) -> None:
    """Runs an action once for all replicas, from the context of each, where a strategy sets variables only so."""
    if tf.distribute.in_cross_replica_context():
        action()
        return
    strategy = tf.distribute.get_strategy()
    tf.__internal__.distribute.interim.maybe_merge_call(lambda strategy: action(), strategy)


@contextlib.contextmanager
def outside_of_tracing() -> Iterator[None]:
    """Within, variables have their values at once, and the step that is being traced knows nothing of them.

    Otherwise TensorFlow, once it has traced the first step, traces it again to be sure that it makes no more variables.
    Under a strategy, which makes a variable for each replica by a creator of its own, nothing is done.
    """

    def create(next_creator: Any, **arguments: Any) -> Any:
        return resource_variable_ops.default_variable_creator_v2(None, **arguments)

    if tf.distribute.has_strategy():
        yield
        return
    with tf.init_scope(), tf.variable_creator_scope(create):
        yield


def around_executions(
    model: Any, owner: Any, action: Callable[[Any, Any], None], interrupted: Callable[[Any, Any], None]
) -> bool:
    """Lets every later execution of training steps in `fit` begin and end with `action(owner, iterator of the data)`.

    One that Ctrl-C ends, ends with `interrupted` in its place. No callback is needed, nor an owner kept alive. Begin,
    because the first execution is under way when the first update calls this. Repeating the call changes nothing.

    Returns:
        False in a custom loop, where the model has no `train_function`.
    """
    function = getattr(model, "train_function", None)
    if function is None:
        return False
    wrapped_by, original = getattr(function, "maskc_wrapped", (None, function))
    if wrapped_by is not None and wrapped_by() is owner:
        return True
    reference = weakref.ref(owner)

    def act(what: Callable[[Any, Any], None], data: Any) -> None:
        if (alive := reference()) is not None:
            what(alive, data)

    def execute(data: Any) -> Any:
        act(action, data)
        try:
            logs = original(data)
        except KeyboardInterrupt:
            act(interrupted, data)
            raise
        act(action, data)
        return logs

    execute.maskc_wrapped = reference, original  # type: ignore[attr-defined]
    model.train_function = execute
    return True
