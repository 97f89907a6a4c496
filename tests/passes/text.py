"""Small models written in ONNX's textual syntax, with their weights beside them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
from numpy.typing import NDArray

from maskc.frontend.graph_queries import all_graphs
from passes import Policy, Shrunk, shrink
from passes.targets import registry
from passes.targets.widths.rates import Rates
from tests.generators.builder import Network
from tests.generators.check import adapters_cost, assert_same_function, check
from tests.generators.form import assert_well_formed

Array = NDArray[Any]
_VERSIONS = {"ai.onnx.ml": 4}  # of domains; 1 of all others
LEVEL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def model(
    signature: str,
    body: str | None,
    opset: int = 17,
    *,
    ir: int = 8,
    checked: bool = True,
    constants: Mapping[str, Any] | None = None,
    **weights: Array | tuple[int, ...],
) -> onnx.ModelProto:
    """A model in ONNX's textual syntax.

    `signature`: "(float[N,4] x) => (float[N,3] y)"; then between < and > the shapes that the model notes of inner
    tensors and, where no node writes them, weights of normal numbers that depend on name and shape alone. `body`: the
    nodes, with their names in brackets; their domains are imported. None: they are in braces after the signature.
    `weights`, by name: values, or shapes for such numbers; of `constants` those that nodes read and the text does not
    give. `checked`: the model is valid.
    """
    graph = signature if body is None else f"{signature} {{ {body} }}"
    domains = sorted(set(re.findall(r"\b([a-z][\w.]*)\.[A-Z]\w*\s*[<(]", graph)))
    imports = ", ".join(f'"{domain}": {_VERSIONS.get(domain, 1)}' for domain in domains)
    imports = f'"": {opset}, {imports}' if domains else f'"": {opset}'
    parsed = onnx.parser.parse_model(f"<ir_version: {ir}, opset_import: [{imports}]> g {graph}")
    nodes = [node for each in all_graphs(parsed.graph) for node in each.node]
    written = {name for node in nodes for name in node.output} | {value.name for value in parsed.graph.input}
    read = {name for node in nodes for name in node.input} - written - {t.name for t in parsed.graph.initializer}
    weights = {name: value for name, value in (constants or {}).items() if name in read} | weights
    noted = [value for value in parsed.graph.value_info if value.name in written]
    for value in parsed.graph.value_info:
        if value.name not in written:
            weights[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    del parsed.graph.value_info[:]
    parsed.graph.value_info.extend(noted)
    for name, values in weights.items():
        array = drawn(name, *values) if isinstance(values, tuple) else np.asarray(values)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    if checked:
        onnx.checker.check_model(parsed, full_check=True)
    return parsed


def drawn(name: str, *shape: int) -> Array:
    """Normal float32 numbers that depend on the name."""
    return np.random.default_rng([0, *name.encode()]).normal(size=shape).astype(np.float32)


def in_type(source: onnx.ModelProto, dtype: Any) -> onnx.ModelProto:
    """The model, of single precision, in this type."""
    for tensor in source.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for info in (*source.graph.input, *source.graph.output):
        info.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    onnx.checker.check_model(source, full_check=True)
    return source


def compiled(
    source: onnx.ModelProto,
    target: str = registry.DEFAULT,
    align: Rates | int | None = None,
    adapters: Policy = "auto",
    **symbols: tuple[int, ...],
) -> Shrunk:
    """The compiled model, after the checks that hold for every one."""
    shrunk = shrink(source, target=target, align=align, adapters=adapters)
    assert_same_function(source, shrunk.model, symbols=symbols)
    assert_well_formed(source, shrunk.model)
    return shrunk


def exact(network: onnx.ModelProto, **symbols: tuple[int, ...]) -> None:
    """All checks, with adapters at their price, where it is compiled twice, and with cheaper and prohibitive ones."""
    checked = set[bytes]()
    for price in (None, 0.01, 4.0, 1e9):
        with adapters_cost(price):
            check(Network(network, {}, symbols), twice=price is None, checked=checked)


def narrowed(network: onnx.ModelProto) -> Shrunk:
    """Compiled with hardly any cost for putting constants back."""
    with adapters_cost(0.01):
        return compiled(network)


def operators(result: Shrunk) -> list[str]:
    """Operators of the compiled model, in order."""
    return [node.op_type for node in result.model.graph.node]


def left_over(graph: gs.Graph) -> set[str]:
    """Nodes that read tensors of the graph and are not in it: they would count as readers."""
    nodes = {id(node) for node in graph.nodes}
    readers = (reader for node in graph.nodes for tensor in node.inputs for reader in tensor.outputs)
    return {str(reader.name) for reader in readers if id(reader) not in nodes}


def optimised(source: onnx.ModelProto, directory: Path, level: ort.GraphOptimizationLevel = LEVEL) -> onnx.ModelProto:
    """What ONNX Runtime makes of the model at this level, as it saves it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(directory / "optimised.onnx")
    ort.InferenceSession(source.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(directory / "optimised.onnx")


def loaded(source: onnx.ModelProto, directory: Path) -> list[str]:
    """Operators that ONNX Runtime makes of the model, in order."""
    return [node.op_type for node in optimised(source, directory).graph.node]


def weight(result: Shrunk, op: str, index: int = 1, which: int = 0) -> Array:
    """An initializer that the `which`-th node of this operator reads as input `index`."""
    node = [n for n in result.model.graph.node if n.op_type == op][which]
    tensors = {t.name: t for t in result.model.graph.initializer}
    return onnx.numpy_helper.to_array(tensors[node.input[index]])


def random(*shape: int, seed: int = 0) -> Array:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mask(*bits: int, rank: int = 4) -> Array:
    """A 0/1 mask for axis 1 of a tensor of this rank (for the last axis if it is a matrix)."""
    values = np.asarray(bits, np.float32)
    return values.reshape([1, -1, *[1] * (rank - 2)]) if rank > 2 else values
