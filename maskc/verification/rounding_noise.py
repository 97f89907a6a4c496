"""Rounding noise: the distance that a model's outputs move when nothing but rounding changes.

That is the yardstick for an error that is larger than the plain tolerance: no comparison can tell it from
rounding if rounding does as much to the reference itself.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from maskc.errors import RunError, UnavailableError
from maskc.frontend.graph_queries import all_graphs, all_nodes, copied, is_external, tensor_types
from maskc.runtime.random_inputs import Inputs
from maskc.runtime.session import Provider, Session, load
from maskc.verification.error_statistics import FOREIGN_FLOATS, Distance, distance, epsilon
from maskc.verification.inputs import Outputs, Sample
from maskc.verification.tolerance import NOISE_FACTOR
from passes.graph.tensors import STANDARD_DOMAINS

# How many copies of the reference with rounded weights there are, and how often each is run on rounded inputs
# before a movement counts as never seen.
_SESSIONS = 3
_ROUNDS = 10
# Values are moved by at most this many units in the last place: one for being stored, one for being combined.
_ULPS = 2.0

# Operators whose float operands are sizes, not weights: moved by a rounding they change the output's shape.
SIZED_BY_FLOATS = frozenset({"Resize", "Upsample", "Range"})


# Functions of one number that kernels approximate.
_APPROXIMATED = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log LogSoftmax Mish Selu Sigmoid Sin Sinh Softmax "
    "Softplus Tan Tanh".split()
)

# The opset from which on ReduceMean takes its axes as an operand.
_AXES_OPERAND = 18

# How large an error of a runtime's own fusions may be, relative to the scale: what single precision does.
_FUSED = 1e-5

_PERTURBED = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Noise:
    """How far the reference's outputs move on a sample when nothing but rounding changes.

    Where rounding decides between two values, as in a quantised network, a movement is rare and large, so
    the reference is run again and again until one is seen that explains the error, or it is clear that none
    will be. The sessions are made when they are first needed, which for most models is never.
    """

    def __init__(
        self,
        reference: ModelProto,
        compiled: ModelProto,
        session: Session,
        provider: Provider,
        seed: int,
        exact: Callable[[Sample], Mapping[str, NDArray[Any]] | None],
    ) -> None:
        """`exact` tells what the reference gives in double precision on a sample, None where that cannot be had."""
        self._reference = reference
        self._compiled = compiled
        self._provider = provider
        self._rng = np.random.default_rng(seed)
        self._session = session
        self._exact = exact
        self._quantised = any(node.op_type == "QuantizeLinear" for node in all_nodes(reference))
        self._rounded: list[Session] = []
        self._literal: list[Session] | None = None
        self._measured: dict[int, tuple[dict[str, float], Iterator[Outputs]]] = {}

    def explains(
        self, error: Distance, tolerance: float, name: str, sample: Sample, got: NDArray[Any] | None = None
    ) -> tuple[bool, float]:
        """Whether rounding moves an output about as far as the error, and the farthest it was seen to.

        For outputs that are not floats, the latter is a number of elements that change. `got` is what the compiled
        model gave, if it was compared with the reference.
        """
        if id(sample) not in self._measured:
            self._measured[id(sample)] = (dict.fromkeys(sample.expected, 0.0), self._runs(sample.inputs))
        noise, runs = self._measured[id(sample)]
        while error.max_abs > NOISE_FACTOR * noise.get(name, 0.0):
            moved = next(runs, None)
            if moved is None:
                nearer = got is not None and not error.exact and self._is_nearer(name, sample, got)
                if nearer or self._only_fused(error, tolerance, name, sample.inputs):
                    return True, error.max_abs
                return False, noise.get(name, 0.0)
            for output, expected in sample.expected.items():
                found = distance(expected, moved[output]) if output in moved else None
                if found is not None:
                    noise[output] = max(noise[output], found.max_abs)
        return True, noise[name]

    def _is_nearer(self, name: str, sample: Sample, got: NDArray[Any]) -> bool:
        """Whether the compiled model comes as near as the reference to what that gives in double precision.

        The reference is off itself where a sum of many numbers, or a difference of two that are nearly the same, is
        left to it alone.
        """
        exact = (self._exact(sample) or {}).get(name)
        if exact is None:
            return False
        errors = [distance(exact, array.astype(exact.dtype)) for array in (sample.expected[name], got)]
        before, after = (math.inf if error is None else error.max_abs for error in errors)
        return after <= before < math.inf

    def _only_fused(self, error: Distance, tolerance: float, name: str, inputs: Inputs) -> bool:
        """Whether a small error goes away when ONNX Runtime runs both graphs as they are written.

        A runtime's fusions keep some constants of double graphs in single precision, and compute in integers where it
        finds operators between quantised values, a step apart; in one graph and not in the other.
        """
        if error.exact or (error.max_abs > _FUSED * error.scale and not self._quantised):
            return False
        try:
            if self._literal is None:
                models = (self._reference, self._compiled)
                self._literal = [load(model, self._provider, optimized=False) for model in models]
            expected, actual = (session.run(inputs).get(name) for session in self._literal)
        except (RunError, UnavailableError):
            return False
        found = None if expected is None or actual is None else distance(expected, actual)
        return found is not None and found.max_abs <= tolerance

    def _runs(self, inputs: Inputs) -> Iterator[Outputs]:
        """Outputs of the reference under different roundings."""
        for session in itertools.chain(self._of_the_reference(), self._sessions()):
            with contextlib.suppress(RunError):
                yield session.run(inputs)
        with contextlib.suppress(RunError, UnavailableError):  # random numbers are asked for, which not all can make
            session = load(rounded_functions(self._reference), self._provider)
            for _ in range(_SESSIONS):
                yield session.run(inputs)
        for _ in range(_ROUNDS):
            for session in self._sessions():
                with contextlib.suppress(RunError):
                    yield session.run({name: _rounded(array, self._rng) for name, array in inputs.items()})

    def _of_the_reference(self) -> Iterator[Session]:
        """The same session again, which shows what is random in the model itself, and one without optimizations.

        Of OpenVINO there is no such session, and ONNX Runtime's would show as rounding whatever OpenVINO gets wrong.
        """
        yield self._session
        if self._provider != "openvino":
            yield load(self._reference, self._provider, optimized=False)

    def _sessions(self) -> Iterator[Session]:
        for i in range(_SESSIONS):
            if i == len(self._rounded):
                self._rounded.append(load(rounded_weights(self._reference, self._rng), self._provider))
            yield self._rounded[i]


def _rounded(array: NDArray[Any], rng: np.random.Generator, ulps: float = _ULPS, together: float = 0.0) -> NDArray[Any]:
    """The array with its floating-point values moved by random rounding errors.

    Whole numbers stay as they are: they are masks, indices and thresholds, which are exact, and an index
    that is moved past the next whole number picks another row instead of showing a rounding.
    """
    if array.dtype.kind != "f" and array.dtype not in FOREIGN_FLOATS:
        return array
    eps = epsilon(array.dtype)
    values = array.astype(np.float64)
    with np.errstate(all="ignore"):
        moved = values * (1 + ulps * eps * rng.uniform(-1, 1, array.shape) + together * eps * rng.uniform(-1, 1))
        whole = (np.rint(values) == values) & (np.abs(values) < 2**16)
        return np.where(whole, array, moved.astype(array.dtype))


def rounded_weights(
    model: ModelProto, rng: np.random.Generator, ulps: float = _ULPS, together: float = 0.0
) -> ModelProto:
    """A copy in which the floating-point weights are moved by random errors, of so many ulps at most.

    `together` is how many ulps all weights of a tensor are moved by at most in one direction, as by a rounded factor.
    """
    copy = copied(model)
    for tensor in _weights(copy):
        if tensor.data_type in _PERTURBED and not is_external(tensor):  # all of those would be written anew
            values = _rounded(numpy_helper.to_array(tensor), rng, ulps, together)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def rounded_functions(model: ModelProto) -> ModelProto:
    """A copy in which what approximated functions give in the main graph is moved by random errors, anew in each run.

    Kernels compute most of a tensor in vectors and its last elements one by one, and round these in another way: the
    same numbers give different ones. Where a network divides by their range, as of a silent spectrum, that decides.
    Means of images, sums of thousands of numbers in some order, are left to another kernel.
    """
    copy = copied(model)
    known = tensor_types(model)
    types = {name: found.elem_type for name, found in known.items()}
    opset = next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        shape = known[node.input[0]].shape if node.op_type == "GlobalAveragePool" and node.input[0] in known else None
        if shape is not None and not node.domain:
            axes = np.arange(2, len(shape))
            node.op_type = "ReduceMean"
            if opset < _AXES_OPERAND:
                node.attribute.append(helper.make_attribute("axes", axes))
            else:
                node.input.append(f"{node.output[0]}/axes")
                copy.graph.initializer.append(numpy_helper.from_array(axes, node.input[1]))
        copy.graph.node.append(node)
        dtype = types.get(node.output[0]) if node.op_type in _APPROXIMATED and not node.domain else None
        if dtype not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            continue
        name = node.output[0]
        exact, factor = f"{name}/exact", f"{name}/rounding"
        moved = _ULPS * float(np.finfo(helper.tensor_dtype_to_np_dtype(dtype)).eps)
        copy.graph.node[-1].output[0] = exact
        drawn = helper.make_node("RandomUniformLike", [exact], [factor], low=1 - moved, high=1 + moved)
        copy.graph.node.extend([drawn, helper.make_node("Mul", [exact, factor], [name])])
    return copy


def _weights(model: ModelProto) -> Iterator[TensorProto]:
    """Initializers and constants, without those that are sizes."""
    nodes = list(all_nodes(model))
    sizes = {name for node in nodes if node.op_type in SIZED_BY_FLOATS for name in node.input}
    for graph in all_graphs(model.graph):
        yield from (tensor for tensor in graph.initializer if tensor.name not in sizes)
    for node in nodes:
        if not sizes.intersection(node.output):
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
