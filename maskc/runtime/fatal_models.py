"""Models that crash ONNX Runtime 1.31 or hardly end, recognised before they are run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import TensorType, all_nodes, name_of, tensor_types
from passes.graph.tensors import STANDARD_DOMAINS

# By operator: how many of its inputs may have an empty name.
_FULL = {"DFT": 2, "LayerNormalization": 1}
# Of a Loop; a round takes two microseconds at least, and a verification ten runs.
_MOST_ROUNDS = 2**20
# Elements that an n-gram may leave out.
_MOST_SKIPPED = 2**24
_RECURRENT = ("GRU", "LSTM", "RNN")


def why_fatal(model: ModelProto) -> str | None:
    """The reason why ONNX Runtime would end the process, in words; None where there is none known."""
    nodes = [node for node in all_nodes(model) if node.domain in STANDARD_DOMAINS]
    types = tensor_types(model) if any(node.op_type in _RECURRENT for node in nodes) else {}
    for node in nodes:
        if odd := _fatal(node, types):
            return f"it ends the process at {node.op_type} '{name_of(node)}', {odd}"
    return None


def _fatal(node: NodeProto, types: Mapping[str, TensorType]) -> str:
    if "" in node.input[_FULL.get(node.op_type, len(node.input)) :]:
        return "which has an empty name among its inputs"
    if node.op_type in _RECURRENT and node.input[0] in types and 0 in (types[node.input[0]].shape or ()):
        return "whose data have no elements"
    if node.op_type not in ("Attention", "TfIdfVectorizer"):
        return ""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    if node.op_type == "Attention":
        heads = [attributes[name] for name in ("q_num_heads", "kv_num_heads") if name in attributes]
        return next((f"which has {number} heads" for number in heads if not 0 < number < 2**31), "")
    skipped, places = attributes.get("max_skip_count", 0), len(attributes.get("ngram_indexes", ()))
    pool = len(attributes.get("pool_int64s", ()) or attributes.get("pool_strings", ()))
    ends = [*attributes.get("ngram_counts", ()), pool]
    listed = sum((end - start) // length for length, (start, end) in enumerate(itertools.pairwise(ends), 1))
    if skipped > _MOST_SKIPPED:
        return f"which has {skipped} elements to skip"
    return f"which has {listed} n-grams and {places} indices of them" if places < listed else ""


def must_be_positive(model: ModelProto) -> set[str]:
    """The inputs at whose values of zero and less ONNX Runtime ends the process: how long the frames of an STFT are."""
    given = {value.name for value in model.graph.input}
    return given & {n.input[3] for n in model.graph.node if n.op_type == "STFT" and len(n.input) > 3}


def why_endless(model: ModelProto) -> str | None:
    """The Loop of the main graph that takes any runtime hours, in words; None where there is none known."""
    numbers = {
        t.name: t for t in model.graph.initializer if t.data_type == TensorProto.INT64 and math.prod(t.dims) == 1
    }
    for node in model.graph.node:
        if node.op_type == "Loop" and node.input[0] in numbers:
            rounds = int(numpy_helper.to_array(numbers[node.input[0]]).reshape(-1)[0])
            if rounds > _MOST_ROUNDS:
                return f"Loop '{name_of(node)}' has {rounds:,} rounds, and up to {_MOST_ROUNDS:,} are run"
    return None
