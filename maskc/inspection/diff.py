"""Comparison of two stored models, layer by layer, without running or compiling them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto, TensorProto, ValueInfoProto

from maskc import frontend
from maskc.frontend import Source
from maskc.frontend.graph_queries import all_nodes, type_of
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.inspection.arguments import public
from maskc.inspection.flops import count_both, for_each
from maskc.results.diff import Change, Diff, Kind
from maskc.results.layers import layers
from maskc.results.measurements import Figures
from passes.sizes.sizes_to_count_at import Sizes


@public
def diff(
    before: frontend.Model,
    after: frontend.Model,
    *,
    signature: str | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
) -> Diff:
    """Set two models side by side as they are stored, without running or compiling them.

    `shapes` fixes the sizes of inputs in both, as for `maskc.compile`, and `at` says at what others FLOPs are counted,
    as for `maskc.flops`; an input that only one of them has gets its sizes there. `signature` is that of a SavedModel.
    Raises `InputError` when a model cannot be used and `UnavailableError` when reading it needs what is not installed.

    Example:
        >>> diff("model.onnx", "model.onnx").changes
        ()
    """
    read = frontend.read_both(before, after, signature)
    wanted = for_each(read[0], read[1], shapes)
    sources = [fixed(source, sizes) for source, sizes in zip(read, wanted, strict=True)]
    costs = count_both(sources[0], sources[1], at)
    old, new = (Figures.from_cost(cost, source.bytes) for cost, source in zip(costs, sources, strict=True))
    return Diff((sources[0].name, sources[1].name), old, new, layers(*costs), _changes(*sources))


def _changes(before: Source, after: Source) -> tuple[Change, ...]:
    found: list[Change] = []
    for (kind, old), new in zip(_stated(before).items(), _stated(after).values(), strict=True):
        names = (name for name in {**old, **new} if old.get(name) != new.get(name))
        found += [Change(kind, name, old.get(name), new.get(name)) for name in names]
    return tuple(found)


def _stated(source: Source) -> dict[Kind, Mapping[str, str | int]]:
    model, graph = source.model, source.model.graph
    defaults = {tensor.name for tensor in graph.initializer}
    operators = Counter(f"{node.domain}.{node.op_type}".removeprefix(".") for node in all_nodes(model))
    return {
        "input": {v.name: _declared(v) + " with a default" * (v.name in defaults) for v in graph.input},
        "output": {value.name: _declared(value) for value in graph.output},
        "opset": {(entry.domain or "ai.onnx"): entry.version for entry in model.opset_import},
        "operator": dict(sorted(operators.items())),
        "metadata": _metadata(model),
    }


def _declared(value: ValueInfoProto) -> str:
    """A type as people write it: `float[n,3,224,224]`."""
    found = type_of(value)
    kind = TensorProto.DataType.Name(found.elem_type).lower()
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value") or "no type").removesuffix("_type")
    if found.shape is None:
        return f"{kind} of any rank"
    return f"{kind}[{','.join('?' if dim is None else str(dim) for dim in found.shape)}]"


def _metadata(model: ModelProto) -> dict[str, str | int]:
    """The descriptions in the file."""
    said: dict[str, str | int] = {
        "IR version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "domain": model.domain,
        "model version": model.model_version,
        "description": model.doc_string,
        "name of the graph": model.graph.name,
    }
    said |= {entry.key: entry.value for entry in model.metadata_props}
    return {key: value for key, value in said.items() if value not in ("", 0)}
