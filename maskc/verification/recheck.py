"""Recheck a certificate: that a compiled ONNX model is the same function as its source. It runs alone:

    python recheck.py model.onnx small.onnx certificate.json [SEED]

It needs numpy, onnx and onnxruntime and nothing of the compiler, which itself searches what this file then checks.

A *boundary* pairs a tensor c of the compiled model with slices of a tensor x of the source: c = x[slices]. A *claim*
says that a slice of x is what it is in a run, or a multiple of another one and a constant, whatever the values of the
inputs are. What lies between boundaries is a *region*. Both of its sides are run on the same random values at the
boundaries that it reads, in which the claims hold.

Nothing is believed. A claim holds if the claims that its region reads hold and the source makes that slice of random
values; c is x[slices] if both sides of its region agree and all that it reads is proved. Regions read what comes before
them, so by induction the outputs agree for all inputs: as far as random values show that a region agrees for all, and
with each operator as ONNX Runtime has it. What an error of rounding may be follows from the operators, `allowed`.
"""

from __future__ import annotations

import base64
import contextlib
import graphlib
import hashlib
import itertools
import json
import math
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Types = Mapping[str, np.dtype[Any]]  # by tensor
Slices = Mapping[int, Array]  # by axis, those that are held
Read = tuple["Graph", Sequence[Path]]  # a model and its files
Pairs = Sequence[tuple[int, int]]  # slices, and that which each of them depends on

VERSION = 5
UNIT = {np.dtype(np.float16): 2.0**-11, np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
NUMPY = {t: helper.np_dtype_to_tensor_dtype(t) for t in map(np.dtype, "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ? O".split())}
#: narrow types, which are computed in single precision, and the unit roundoff of what is stored in them
NARROW: dict[int, float] = {TensorProto.FLOAT16: 2.0**-11, TensorProto.BFLOAT16: 2.0**-8}
SUBNORMAL = 2.0**-24  # the least number of half precision
LOGISTIC = 2.0**-22  # what ONNX Runtime's Sigmoid, 1/2 and a quotient, or an exponential less 1 may be off by near 0
SHUT = 18.0  # below minus this ONNX Runtime's Sigmoid is that of it
TYPED = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
RECURRENT = frozenset("GRU LSTM RNN".split())
GATED = RECURRENT - {"RNN"}  # by Sigmoids of what they multiply with
EXPONENTIAL = frozenset("Celu Elu Selu".split())
# Products of 8 bits: the places of data, their zero points, weights and theirs; without data, these are unsigned.
PRODUCTS: dict[str, list[tuple[int | None, int | None, int, int]]] = {
    "ConvInteger": [(0, 2, 1, 3)],
    "DynamicQuantizeLSTM": [(None, None, 1, 9), (None, None, 2, 11)],
    "DynamicQuantizeMatMul": [(None, None, 1, 3)],
    "MatMulInteger": [(0, 2, 1, 3)],
    "MatMulIntegerToFloat": [(0, 4, 1, 5)],
    "QAttention": [(0, 6, 1, 7)],
    "QGemm": [(0, 2, 3, 5)],
    "QLinearConv": [(0, 2, 3, 5)],
    "QLinearMatMul": [(0, 2, 3, 5)],
}
# Operators that round nothing.
EXACT = frozenset(
    "Concat Constant Expand Flatten Gather GatherElements GatherND Identity Pad Reshape Shape Slice Split Squeeze Tile "
    "Transpose Unsqueeze".split()
)
QUANTIZING = ("DynamicQuantizeLinear", "QLinear", "QuantizeLinear")  # how these operators begin
COMPARISONS = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual".split())
COMPARING = EXACT | COMPARISONS | frozenset("And Cast Not Or Xor".split())  # of inputs
# Operators whose results may be others at single numbers or words, as those that they store.
ASKING = COMPARISONS | frozenset(
    "BitwiseAnd BitwiseOr BitwiseXor Ceil Floor IsInf IsNaN Mod OneHot RegexFullMatch Round Shrink Sign "
    "StringNormalizer StringSplit TfIdfVectorizer ThresholdedRelu".split()
)
NUMBERS = COMPARISONS | {"IsInf", "IsNaN"}  # that tell what is no number from others
LIMITING = frozenset("Clip Max Min".split())
# Operators that hand on values of what they read first.
PASSING = EXACT | frozenset("ArrayFeatureExtractor Cast Ceil Floor Round".split())
# Operators that round nothing, but to whole numbers.
WHOLE = COMPARING | ASKING | frozenset("Abs Clip Max Min Neg Relu StringConcat Where".split())
COUNTING = WHOLE - {"Cast", "Constant"} | frozenset("Add Div Mul Range Sub".split())  # of whole numbers
SIZED = frozenset("Range Resize Upsample".split())  # by numbers that are no data
# Operators that may follow the look-up of entries in a table, at each of them alike.
LOOKUP = frozenset(
    "Abs Add Cast Clip Constant Cos Div Elu Erf Exp Gather GatherBlockQuantized Gelu HardSigmoid HardSwish Identity "
    "LeakyRelu Log Mul Neg Relu Selu Sigmoid Sin Softplus Softsign Sqrt Sub Tanh".split()
)
LOOKING = LOOKUP | {"ArrayFeatureExtractor", "LayerNormalization", "MatMul", "OneHot"}  # and these, of the last axis
# Operators that pick entries: which inputs are the table and the index, and the axis, if no attribute says another.
TABLED: dict[str, list[tuple[int, int, int]]] = {
    "ArrayFeatureExtractor": [(0, 1, -1)],
    "EmbedLayerNormalization": [(2, 0, 0), (4, 1, 0)],
    "Gather": [(0, 1, 0)],
    "GatherBlockQuantized": [(0, 1, 0)],
    "GatherND": [(0, 1, 0)],
    "RotaryEmbedding": [(1, 3, 0), (2, 1, 0), (2, 3, 0), (3, 1, 0)],
}
# Operators that take any numbers: none is a size, and where one is no index they fail.
BOUNDLESS = (
    LOOKUP
    | WHOLE - EXACT
    | frozenset(
        "ArgMax ArgMin BitShift BitwiseNot CastLike Celu Compress Concat CumSum Flatten GatherElements GatherND Mean "
        "Mish Pow PRelu Reciprocal ReduceMax ReduceMin ReduceSum ReverseSequence ScatterElements ScatterND Slice Sum "
        "TopK Transpose Trilu Unique".split()
    )
)
# Others that do, and sum with weights or over places.
DENSE = frozenset(
    "AveragePool BatchNormalization Conv ConvTranspose Einsum Gemm GlobalAveragePool GlobalMaxPool GroupNormalization "
    "InstanceNormalization LayerNormalization LogSoftmax LpNormalization MatMul MaxPool ReduceL1 ReduceL2 ReduceMean "
    "ReduceSumSquare RMSNormalization Softmax".split()
)
TAKING = BOUNDLESS | DENSE
# Operators with weights of channels, which are on the second axis.
CHANNELED = frozenset("BatchNormalization Conv ConvTranspose GroupNormalization InstanceNormalization".split())
# Operators with steps, at which a rounding before them is no rounding after them.
STEPPING = frozenset(
    "ArgMax ArgMin BitShift Ceil DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax Less LessOrEqual Mod "
    "NonMaxSuppression NonZero QuantizeLinear Round Sign TopK Unique".split()
)
# Operators that ONNX Runtime computes by approximations, and by how many roundings these are off.
APPROXIMATION = dict.fromkeys("BiasGelu FastGelu GRU LSTM QuickGelu".split(), 1024.0)
APPROXIMATION |= dict.fromkeys("Erf Sigmoid Tanh".split(), 4.0)
# Operators that round each element for itself, by no more than the processor does.
ARITHMETIC = EXACT | frozenset("Abs Add Div Max Min Mul Neg Relu Sub".split())
EPSILON = float(np.float32(1e-5))  # of normalisations that do not say another

ROUNDINGS = 4.0  # of each node but one, beside those of its sum: of one node both sides have the same
LONGEST = 255  # nodes from which slices come that are claimed and not 0; the root of their number is allowed
ALIKE = 1e-5  # what rounding may do to a constant, relative to it
NOTHING = 2.0**-20  # a shift of that size, relative to what is shifted, is rounding alone
STEPS = 512.0  # share of the results of rounding operators that may be one step off, in roundings
SHARE = 0.02  # and at most this
STEP = 1 / 8  # largest step, relative to the scale
MOST = 1e-2  # no error of that size is one of rounding
MOVE = 4096.0  # roundings by which tensors are moved to measure a condition
WORST = 64.0  # times what is allowed an error may be before a condition is measured
CONDITION = 16.0  # largest condition that is believed of a region that took boundaries in
TYPICAL = 64.0  # a scale is at most so many times what a quarter is below: a mask of -1e9 is none
FEW = 8  # elements of a slice that do not tell what is typical of it
HUGE = 1e30  # of larger values, masks mostly, scales are computed in double precision
LEAST = 1e-3  # least scale of a slice, relative to the largest
SPARSE = 8  # of sparse values one of so many is not zero, so that an error in one weight stands out of its sum
WIDE = 100.0  # spread of values in every third turn where boundaries were taken in, so that nothing is dead, or levels
CHUNK = 64 << 20  # bytes of tensors and weights at a time, about
FAR = 10.0  # times what is the largest in a run
ENTRIES = 1 << 13  # of a table that are looked up in one turn
CHOICES = 3  # conditions that are chosen apart from each other
HALVES = 3.0  # roundings to half precision of what a computed weight is made of, in the condition of an element
_MOVES, _MANY_MOVES = 3, 24  # by random signs: of few, terms that cancel move alike, or slices of few elements less
_FIRST_NODES, _MOST_NODES = 4, 256  # at a time
LEARNED = "ai.onnx.ml"  # the domain of operators of what is no network
TABLES = -(1 << 20)  # the first of the turns in which all are
SWEEP = 1 << 21  # the first of those in which they are, as many as a run looks up
MOST_SWEEPS = 1 << 12
BEYOND = 1 << 20  # the first of the turns in which inputs are as in no run
NEAR = range(BEYOND + 4, BEYOND + 36, 2)  # those in which they are near what nodes compare them with
NEARLY = NEAR[1::2]  # and off that by more than a rounding
_POOL = 1 << 20
_NORMAL = np.tile(np.random.default_rng(7).standard_normal(_POOL, np.float32), 2)
_ABSENT = np.tile(np.random.default_rng(8).integers(0, SPARSE, _POOL, np.int8) != 0, 2)


class Graph:
    """The nodes of a model without local functions, what makes each tensor, and what each node reads, bodies included.

    Half precision is computed in single, so that only what is stored is rounded to it. folder: where external data are.
    given: inputs whose defaults are overridden.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None, given: Collection[str] = ()) -> None:
        self.model, self.coarse = widened(inlined(model) if model.functions else model)
        self.folder, graph = (folder or Path()).absolute(), self.model.graph
        self.nodes: Sequence[NodeProto] = _in_order(graph.node)
        self.constants: dict[str, TensorProto] = {t.name: t for t in graph.initializer if t.name not in given}
        self.packs = all(t.data_location != TensorProto.EXTERNAL for t in graph.initializer)  # else they are mapped
        #: constants of nodes and bodies as well
        self.stored = dict(_stored(graph)) | self.constants
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [list(dict.fromkeys(_reads(node))) for node in self.nodes]
        #: tensors that are computed of constants alone
        self.fixed = set(self.constants) | {tensor.values.name for tensor in graph.sparse_initializer}
        for node, names in zip(self.nodes, self.reads, strict=True):
            if not seed_of(node) and self.fixed.issuperset(names):
                self.fixed.update(name for name in node.output if name)
        #: tensors that follow from sizes and constants alone, as whole numbers, which nothing rounds
        self.sizes = set[str]()
        for node, names in zip(self.nodes, self.reads, strict=True):
            counted = all(
                n in self.sizes or (n in self.stored and self.stored[n].data_type not in FLOATS) for n in names
            )
            if node.op_type == "Shape" or (names and counted and node.op_type in COUNTING):
                self.sizes.update(node.output)
        #: tensors by which If and Where choose, and what they are computed of, but for comparisons of inputs
        self.conditions: dict[str, set[str]] = {}
        choosing = {n.input[0] for n in _nested(self.nodes) if n.op_type in ("If", "Where")}
        for name in sorted(choosing & self.maker.keys()):
            nodes = (self.nodes[index] for index in self.closure(name, ())[0])
            self.conditions[name] = {n for node in nodes if node.op_type not in COMPARING for n in node.output}
        #: tensors that IsNaN reads, with what these are made of, and what becomes no float: they should be numbers
        asking = (i for i, node in enumerate(self.nodes) if any(n.op_type == "IsNaN" for n in _nested([node])))
        made = {k for i in asking for name in self.reads[i] for k in self.closure(name, ())[0]}
        self.asked = {name for k in made for name in self.nodes[k].output}
        self.asked.update(name for node in self.nodes if self.counts(node) for name in node.input)
        #: integer sums of products
        self.sums = {node.output[0] for node in self.nodes if node.op_type in ("ConvInteger", "MatMulInteger")}
        #: levels of quantised values: what such nodes make, and what only moves that
        self.levels = set[str]()
        for node in self.nodes:
            moves = node.op_type in EXACT and node.op_type != "Shape" and not self.levels.isdisjoint(node.input[:1])
            self.levels.update(node.output[:1] if moves or node.op_type.startswith(QUANTIZING) else ())
        #: tensors that add up to 1 along an axis, before opset 13 along all from that on
        self.shares: dict[str, slice] = {}
        for node in self.nodes:
            if node.op_type == "Softmax" and not node.domain:
                axis = next((a.i for a in node.attribute), -1 if (single := self.version(node) >= 13) else 1)
                self.shares[node.output[0]] = slice(axis, (axis + 1 or None) if single else None)
        #: how long lists of whole numbers are in all runs: ONNX Runtime takes sizes for none that it cannot count
        self.lengths: dict[str, tuple[int, ...]] = {}
        #: how many axes tensors have, which it must know of those that others get sizes of
        self.ranks: dict[str, int] = {}
        #: the tables that tensors are indices of, each with the axis, or how many entries there are without one
        self.tables, self.readers = dict[str, list[tuple[str, int]]](), dict[str, list[NodeProto]]()
        for node in self.nodes:
            for index, table, axis in self._lookups(node, {}):
                self.tables.setdefault(index, []).append((table, axis))
        for node, names in zip(self.nodes, self.reads, strict=True):
            for name in names:
                self.readers.setdefault(name, []).append(node)
        #: boxes that suppress each other
        self.boxes = {node.input[0] for node in self.nodes if node.op_type == "NonMaxSuppression"}
        #: the numbers at which a Slice of constants begins, and at which it ends, with what takes all
        self.bounds = dict[str, int]()
        for node in self.nodes:
            if node.op_type == "Slice" and node.input[2:] and self.known(node.input[:1]):
                self.bounds |= {node.input[1]: 0, node.input[2]: np.iinfo(np.int32).max}
        for node in reversed(self.nodes):  # numbers of another type are indices as well
            if node.op_type in ("Cast", "Identity") and node.output[0] in self.tables:
                self.tables.setdefault(node.input[0], []).extend(self.tables[node.output[0]])

    def _lookups(self, node: NodeProto, names: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
        """The index, the table and the axis of each look-up of a node, or no table and how many entries there are.

        names: in a body, of which tensors of the graph others hold values.
        """
        for table, index, axis in TABLED.get(node.op_type, ()):
            if len(node.input) > max(table, index) and self.known([node.input[table]]):
                axis = next((a.i for a in node.attribute if a.name.endswith("axis")), axis)
                yield names.get(node.input[index], node.input[index]), node.input[table], axis
        if node.op_type == "OneHot" and node.input[1] in self.stored:
            depth = numpy_helper.to_array(self.stored[node.input[1]])
            yield names.get(node.input[0], node.input[0]), "", int(depth.reshape(-1)[0])
        for body in bodies(node):
            held = zip(body.input, node.input, strict=False)  # a number of rounds is no index
            inside = {
                **names,
                **{value.name: names.get(name, name) for value, name in [*held][node.op_type == "Loop" :]},
            }
            for inner in body.node:
                yield from self._lookups(inner, inside)
                if inner.op_type in PASSING and inner.input:
                    inside[inner.output[0]] = inside.get(inner.input[0], inner.input[0])

    def version(self, node: NodeProto) -> int:
        """Since when a node's operator is what it is in the opset of the model."""
        domains = ("", "ai.onnx") if node.domain in ("", "ai.onnx") else (node.domain,)
        version = next((each.version for each in self.model.opset_import if each.domain in domains), 1)
        known = onnx.defs.has(node.op_type, domains[0])
        return int(onnx.defs.get_schema(node.op_type, version, domains[0]).since_version) if known else version

    def counts(self, node: NodeProto) -> bool:
        """Whether a node makes something else than floats of what may be no numbers."""
        casts = any(a.i not in FLOATS for a in node.attribute if a.name == "to")
        return (node.op_type == "Cast" and casts) or node.op_type in COMPARISONS

    def asks(self, node: NodeProto) -> bool:
        """Whether a node may make something else at single numbers or words."""
        return node.domain == LEARNED or node.op_type in ASKING or self.counts(node)

    def takes_any(self, node: NodeProto) -> bool:
        """Whether a node takes any numbers or words, of which none is a size, or a number of rounds."""
        if any(bodies(node)):
            rounds = self.stored.get(node.input[0]) if node.op_type == "Loop" else None  # a loop may else have no end
            counted = node.op_type != "Loop" or (rounds is not None and numpy_helper.to_array(rounds).max() <= ENTRIES)
            return counted and all(self.takes_any(inner) for body in bodies(node) for inner in body.node)
        moves = node.op_type in EXACT and self.known(node.input[1:])
        return node.domain == LEARNED or (not node.domain and (moves or node.op_type in TAKING))

    def known(self, names: Iterable[str]) -> bool:
        """Whether what a node reads is constant, in a body as well."""
        return all(name in self.fixed or name in self.stored for name in names if name)

    def choosing(self, nodes: Iterable[int]) -> list[str]:
        """What chooses a branch in these nodes, but for constants, in their order."""
        ifs = (self.nodes[index] for index in nodes if self.nodes[index].op_type == "If")
        return [node.input[0] for node in ifs if node.input[0] not in self.fixed]

    def copied(self, name: str) -> str:
        """The tensor of which this one is a copy, or the same."""
        while name in self.maker and self.nodes[self.maker[name]].op_type == "Identity":
            name = self.nodes[self.maker[name]].input[0]
        return name

    def closure(self, target: str, cut: Collection[str]) -> tuple[list[int], set[str]]:
        """The nodes that make a tensor of what is cut and of inputs, in order, and what they read of both."""
        seen, leaves = set[int](), set[str]()
        todo = [self.maker[target]] if target in self.maker else []
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            for name in self.reads[index]:
                if name in cut or (name not in self.maker and name not in self.fixed):
                    leaves.add(name)
                elif name in self.maker:
                    todo.append(self.maker[name])
        return sorted(seen), leaves

    def part(
        self, nodes: Iterable[int], leaves: Types, outputs: Sequence[str], moved: Types | None = None
    ) -> ModelProto:
        """A model of these nodes in which leaves are inputs, named `leaf·`; they may be computed here as well.

        moved: tensors that are multiplied by another input, `tensor·by`, before they are read.
        """
        graph, moved, read = onnx.GraphProto(name="part"), moved or {}, set[str]()
        names, nodes = {leaf: f"{leaf}·" for leaf in leaves}, [*nodes]
        sized = {self.nodes[index].input[0] for index in nodes if self.nodes[index].op_type in SIZED}
        used = {name for index in nodes for name in self.reads[index]} & self.stored.keys() - {*moved, *names}
        measured = {self.nodes[index].input[0] for index in nodes if sized and self.nodes[index].op_type == "Shape"}

        def move(name: str, value: str) -> None:
            graph.input.append(helper.make_tensor_value_info(f"{name}·by", NUMPY[moved[name]], None))
            graph.node.add(op_type="Mul", input=[value, f"{name}·by"], output=[f"{name}·moved"])
            names[name] = f"{name}·moved"

        for leaf, dtype in leaves.items():
            open_sizes = [None] * self.ranks[leaf] if leaf in measured - sized and leaf in self.ranks else None
            shape = self.lengths.get(leaf, open_sizes)
            graph.input.append(helper.make_tensor_value_info(f"{leaf}·", NUMPY[dtype], shape))
            if leaf in moved:
                move(leaf, f"{leaf}·")
        for name in sorted(moved.keys() & self.constants.keys()):
            move(name, name)
        for index in nodes:
            if self.nodes[index].op_type == "Constant" and (name := self.nodes[index].output[0]) in used:
                graph.initializer.append(self.stored[name])  # of which sizes are inferred
                graph.initializer[-1].name = name
                continue
            graph.node.append(self.nodes[index])
            _rename(graph.node[-1], names)
            graph.node[-1].attribute.extend(a for a in seed_of(graph.node[-1]) if a not in graph.node[-1].attribute)
            read.update(name for name in self.reads[index] if name not in leaves)
            for name in self.nodes[index].output:
                if name in moved and name not in leaves:
                    move(name, name)
        for name in sorted({*read, *outputs} & self.constants.keys()):
            tensor = self.constants[name]
            graph.initializer.append(self.embedded(name) if tensor.data_type in NARROW else tensor)
        graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in read)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        version = min(self.model.ir_version, 11)
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=version)

    def content(self, name: str) -> bytes:
        """Type, sizes and elements of an initializer, if it is small and not in a file."""
        tensor = self.constants.get(name, TensorProto())
        if tensor.data_location == TensorProto.EXTERNAL or not 0 < math.prod(tensor.dims) * tensor.data_type <= ENTRIES:
            return b""
        return f"{tensor.data_type} {tensor.dims} ".encode() + numpy_helper.to_array(tensor).tobytes()

    def embedded(self, name: str) -> TensorProto:
        """An initializer with its data."""
        tensor = TensorProto.FromString(self.constants[name].SerializeToString())
        return _wide(numpy_helper.from_array(numpy_helper.to_array(tensor, str(self.folder)), name))


def inlined(model: ModelProto) -> ModelProto:
    """The model without local functions. onnx forgets defaults of their attributes, so calls are given these."""
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in copy.functions}
    for node in _nested([*copy.graph.node, *(node for function in copy.functions for node in function.node)]):
        given, own = {a.name for a in node.attribute}, defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(a for a in own if a.name not in given)
    inside: ModelProto = onnx.inliner.inline_local_functions(copy)
    return inside


def widened(model: ModelProto) -> tuple[ModelProto, float]:
    """The model with all but its own initializers in single precision, and the coarsest unit roundoff that it had."""
    units = [NARROW[kind] for kind in _types(model.graph) if kind in NARROW]
    if not units:
        return model, 0.0
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    for graph in _graphs(copy.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in NARROW:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            if attribute.name in TYPED and attribute.i in NARROW:
                attribute.i = TensorProto.FLOAT
            if attribute.t.data_type in NARROW:
                attribute.t.CopyFrom(_wide(attribute.t))
        for tensor in graph.initializer if graph is not copy.graph else ():
            tensor.CopyFrom(_wide(tensor))
    return copy, max(units)


def _in_order(nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
    """Each node behind those whose results it reads, which runtimes do not ask of a file."""
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    needs = {i: {maker[name] for name in _reads(node) if name in maker} for i, node in enumerate(nodes)}
    if all(max(needed, default=-1) < i for i, needed in needs.items()):
        return list(nodes)
    return [nodes[i] for i in graphlib.TopologicalSorter(needs).static_order()]


def seed_of(node: NodeProto, seed: int = 0) -> list[AttributeProto]:
    """The attribute by which a node draws random numbers, its own or this one; none of a node that does not."""
    trains = node.op_type == "Dropout" and any(node.input[2:])
    given = [attribute for attribute in node.attribute if attribute.name == "seed"]
    made = helper.make_attribute("seed", seed if trains else float(seed))
    return (given or [made]) if trains or node.op_type in RANDOM else []


def seed_apart(*models: ModelProto) -> None:
    """Let random nodes draw apart from each other, and alike in both models: by names that both have, else in order."""
    drawing = [{n.output[0]: n for n in _nested(model.graph.node) if seed_of(n)} for model in models]
    both = set.intersection(*map(set, drawing))
    for nodes in drawing:
        others = itertools.count(1)
        for name, node in nodes.items():
            seed = zlib.crc32(name.encode()) >> 12 if name in both else next(others)
            node.attribute.extend(a for a in seed_of(node, seed) if a not in node.attribute)


def _types(graph: onnx.GraphProto) -> Iterator[int]:
    """Element types of what a graph declares, stores and casts to."""
    for each in _graphs(graph):
        yield from (value.type.tensor_type.elem_type for value in (*each.input, *each.output, *each.value_info))
        yield from (a.i for node in each.node for a in node.attribute if a.name in TYPED)
    yield from (tensor.data_type for tensor in stored_in(graph))


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Constants of a graph, its nodes and its bodies, and the names that they are read by."""
    for each in _graphs(graph):
        yield from ((tensor.name, tensor) for tensor in each.initializer)
        for node in each.node:
            for own in node.attribute if node.op_type == "Constant" else ():
                if own.name != "sparse_value":
                    value: Any = helper.get_attribute_value(own)
                    kind = {"f": np.float32, "i": np.int64}.get(own.name[6:7], object)  # value_floats, value_int
                    made = value if own.name == "value" else numpy_helper.from_array(np.array(value, kind))
                    yield node.output[0], made


def stored_in(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Constants of a graph and of its bodies."""
    for each in _graphs(graph):
        yield from each.initializer
        yield from (a.t for node in each.node for a in node.attribute if a.HasField("t"))


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """A graph, first, and those that its nodes hold."""
    return [graph, *(body for node in _nested(graph.node) for body in bodies(node))]


def _wide(tensor: TensorProto) -> TensorProto:
    wide = numpy_helper.to_array(tensor).astype(np.float32) if tensor.data_type in NARROW else None
    return tensor if wide is None else numpy_helper.from_array(wide, tensor.name)


def bodies(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _own(body: onnx.GraphProto) -> set[str]:
    """Names of what a body defines itself."""
    return {each.name for each in (*body.input, *body.initializer)} | {name for n in body.node for name in n.output}


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        own = _own(body)
        yield from (name for inner in body.node for name in _reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)


def _nested(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes and those in their bodies."""
    for node in nodes:
        yield node
        yield from _nested(inner for body in bodies(node) for inner in body.node)


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read tensors by other names, in its bodies as well."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(node):
        own = _own(body)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename(inner, outer)
        for value in body.output:
            if value.name in outer:
                body.node.add(op_type="Identity", input=[outer[value.name]], output=[value.name])


def sign_alike(model: ModelProto) -> None:
    """Let weights of 8-bit products have the sign of the data, as without VNNI ONNX Runtime clips sums of others."""
    if not any(node.op_type in PRODUCTS for node in _nested(model.graph.node)):
        return
    graphs, made = _graphs(model.graph), {name: node for node in _nested(model.graph.node) for name in node.output}
    kinds: dict[str, int] = {tensor.name: tensor.data_type for graph in graphs for tensor in graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for graph in graphs for value in graph.input}

    def kind(name: str) -> int:
        while name in made:
            node = made[name]
            given = [int(a.i or a.t.data_type) for a in node.attribute if a.name in ("to", "output_dtype", "value")]
            steps = node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
            if any(given) or len(node.input) <= 2 * steps:
                return given[0] if any(given) else TensorProto.UINT8
            name = node.input[2 * steps]  # others only move what they read first
        return kinds.get(name, 0)

    def shifted(index: int, name: str, to: int) -> str:
        graph, half, wide, moved, end = graphs[index], *(f"{name}·{part}{to}·{index}" for part in ("h", "w", "m", ""))
        if end not in made:
            offset = 128 if to == TensorProto.UINT8 else -128
            graph.initializer.append(helper.make_tensor(half, TensorProto.INT32, [], [offset]))
            nodes = [helper.make_node("Cast", [moved if name else half], [end], to=to)]  # no zero point is one of 0
            if name:
                nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.INT32))
                nodes.append(helper.make_node("Add", [wide, half], [moved]))
            graph.node.extend(nodes)
            made[end] = nodes[0]
        return end

    for index, node in [(index, node) for index, graph in enumerate(graphs) for node in graph.node]:
        for data, point, weight, zero in PRODUCTS.get(node.op_type, ()):
            names = [*node.input, *[""] * (zero + 1 - len(node.input))]
            want = TensorProto.UINT8 if data is None else kind(names[point or 0] or names[data])
            mixed = {want, kind(names[zero] or names[weight])} == {TensorProto.INT8, TensorProto.UINT8}
            if mixed and (want == TensorProto.UINT8 or node.op_type == "ConvInteger"):  # the others have no kernel
                for place in (weight, zero):
                    names[place] = shifted(index, names[place], want)
                node.input[:] = names
    for graph in reversed(graphs):
        nodes = _in_order(graph.node)
        del graph.node[:]
        graph.node.extend(nodes)


def session(model: ModelProto, folder: Path, packs: bool) -> Any:
    """The model in ONNX Runtime on the CPU, its operators as written, 8-bit products exact, its data in a folder."""
    import onnxruntime as ort

    options, levels = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False  # a result would hold the memory of its whole run
    entries = {"intra_op.allow_spinning": "0", "x64quantprecision": "1", "qdq_matmulnbits_accuracy_level": "1"}
    # packed for kernels, weights are summed in another order: they are so for both of two models, or for neither
    entries |= {"model_external_initializers_file_folder_path": str(folder), "disable_prepacking": str(int(not packs))}
    for key, value in entries.items():
        options.add_session_config_entry(f"session.{key}", value)
    for node in (n for n in _nested(model.graph.node) if n.op_type == "MatMulNBits"):  # with all digits of the data
        for attribute in [a for a in node.attribute if a.name == "accuracy_level"]:
            node.attribute.remove(attribute)
    sign_alike(model)

    def loaded(level: Any) -> Any:
        options.graph_optimization_level = level
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    if any(node.op_type in PRODUCTS or node.op_type.startswith("QLinear") for node in _nested(model.graph.node)):
        with contextlib.suppress(Exception):  # of its optimizers on numbers that are signed
            return loaded(levels.ORT_ENABLE_EXTENDED)  # what computes between steps is fused, as kernels round apart
    return loaded(levels.ORT_DISABLE_ALL)


@dataclass
class Seen:
    """A tensor of the source in runs: its shape in each, its spread, and its values if it has integers or few."""

    shapes: list[tuple[int, ...]]
    dtype: np.dtype[Any]
    mean: float = 0.0
    spread: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    values: list[Array] | None = None

    @classmethod
    def of(cls, arrays: list[Array], few: int = 8) -> Seen:
        """What runs show of a tensor; its values where it has few elements in one axis, or no numbers."""
        first, shapes = arrays[0], [array.shape for array in arrays]
        if first.dtype.kind != "f" or ((first.ndim < 2 or few > 8) and first.size <= few):
            return cls(shapes, first.dtype, values=arrays)
        # by odd steps, which do not keep to one channel where channels come last
        some = np.concatenate([array.reshape(-1)[:: array.size >> 13 | 1] for array in arrays], dtype=np.float64)
        some = some[np.isfinite(some)]
        if not some.size:
            return cls(shapes, first.dtype)
        low = min(float(np.fmin.reduce(array, axis=None, initial=np.inf)) for array in arrays)
        high = max(float(np.fmax.reduce(array, axis=None, initial=-np.inf)) for array in arrays)
        mean, spread = float(some.mean()), float(some.std())
        return cls(shapes, first.dtype, mean, spread or abs(mean) or 1.0, low, high)

    def alike(self) -> bool:
        """Whether it is known to be one value everywhere, in all runs."""
        firsts = [array.reshape(-1)[:1] for array in self.values or () if array.size]
        return bool(firsts) and all((array == firsts[0]).all() for array in self.values or ())

    @np.errstate(over="ignore")  # a border may be the lowest number there is
    def fresh(self, name: str, turn: int, seed: int) -> Array:
        """Random values as seen, or sparse and wider, in turn; below 0 as in no run. Half the wide have any sign."""
        if self.values is not None:
            return self.values[turn % len(self.values)]
        rng = np.random.default_rng([zlib.crc32(name.encode()), turn % 65_536, seed])
        shape = self.shapes[turn % len(self.shapes)]
        values = _drawn(_NORMAL, rng, math.prod(shape)).astype(np.result_type(np.float32, self.dtype), copy=False)
        values *= self.spread * (WIDE if turn < 0 else 3 if turn % 2 else 1)
        if turn % 2:
            values[_drawn(_ABSENT, rng, values.size)] = 0
        else:
            values += self.mean
        for kept in ((0, 1), (0, len(shape) - 1)) if turn > 0 and turn % 4 == 2 and len(shape) > 2 else ():
            moves = rng.normal(0, self.spread, [n if a in kept else 1 for a, n in enumerate(shape)])
            values.reshape(shape)[...] += moves  # so that a mean over places is no constant
        if (least := max(self.low, -self.high)) >= 0:  # all runs are on one side of 0, but may be so by chance
            any_sign = turn % 4 < 2 and (turn < 0 or turn % 2)
            np.copysign(np.maximum(np.abs(values), least), values if any_sign else self.low + self.high, out=values)
        return values.reshape(shape).astype(self.dtype)


def _drawn(pool: Array, rng: np.random.Generator, size: int) -> Array:
    """So many elements of a pool from a random place on."""
    start = int(rng.integers(_POOL))
    return np.resize(pool[start:], size) if size > _POOL else pool[start : start + size].copy()


@dataclass(frozen=True)
class Claim:
    """What slices along an axis are in each run; where `factors` are not 0, beside such a multiple of a slice `of`.

    runs: one number for each slice, which then is that of any size, if they are no more.
    """

    slices: Array
    runs: Sequence[Array]
    of: Array
    factors: Array

    @classmethod
    def made(cls, arrays: Sequence[Array], axis: int, still: Array, pairs: Pairs = ()) -> Claim:
        """That slices are what they are in runs, and those in pairs what least squares make of the others."""
        runs = condensed([np.take(array, still, axis) for array in arrays], axis)
        if not len(still):
            runs = [np.zeros([int(a != axis) for a in range(runs[0].ndim)], runs[0].dtype)]
        if not len(pairs):
            return cls(still, runs, still, np.zeros(len(still)))
        slices, of = np.array(pairs).T
        factors, shifts = fitted(rows(arrays, axis, slices), rows(arrays, axis, of))
        shifts = shifts.reshape(_along(axis, runs[0].ndim))
        sizes = ((*run.shape[:axis], len(slices), *run.shape[axis + 1 :]) for run in runs)
        runs = [np.append(run, np.broadcast_to(shifts, size), axis) for run, size in zip(runs, sizes, strict=True)]
        return cls(np.append(still, slices), runs, np.append(still, of), np.append(np.zeros(len(still)), factors))

    def held(self, values: Array, axis: int, turn: int) -> Array:
        """What the slices are where the tensor has these values."""
        run = self.runs[turn % len(self.runs)]
        if not self.factors.any():
            return run
        factors = self.factors.reshape(_along(axis, values.ndim))
        return np.asarray(run + factors * np.where(factors == 0, 0, values.take(self.of, axis)))


def condensed(runs: list[Array], axis: int) -> list[Array]:
    """One number for each slice along the axis, where in all runs they are no more."""
    first = runs[0][tuple(slice(None if a == axis else 1) for a in range(runs[0].ndim))]
    alike = first.size and all((np.abs(run - first) <= ALIKE * np.abs(first)).all() for run in runs)
    return [first] if alike else runs


Claims = Mapping[int, Claim]  # by axis


def rows(arrays: Sequence[Array], axis: int, slices: Array) -> Array:
    """All elements of slices in all runs, in double precision: shape [slices, elements]."""
    each = [np.moveaxis(array, axis, 0)[slices].reshape(len(slices), -1) for array in arrays]
    return np.concatenate(each, axis=1, dtype=np.float64)


def fitted(one: Array, other: Array) -> tuple[Array, Array]:
    """Factors and shifts by which rows are nearest to others, by least squares: shapes [rows]."""
    moves = other - other.mean(axis=1, keepdims=True)
    factors = (one * moves).sum(axis=1) / (moves**2).sum(axis=1)
    shifts = (one - factors[:, None] * other).mean(axis=1)
    return factors, np.where(np.abs(shifts) > NOTHING * np.abs(one).max(axis=1), shifts, 0)


def _fits(array: Array, shape: tuple[int, ...]) -> bool:
    """Whether there is an element of the array at each place of a shape, its slices being numbers."""
    sizes = zip(reversed(array.shape), reversed(shape), strict=False)
    return array.dtype.kind in "fiu" and array.ndim <= len(shape) and all(n in (1, size) for n, size in sizes)


def _run_of(turn: int) -> int:
    """The turn of a run whose sizes and claims hold in this one."""
    return 0 if turn >= SWEEP else turn - BEYOND * (turn >= BEYOND)


def _along(axis: int, rank: int) -> list[int]:
    """The shape of a vector along an axis."""
    return [-1 if a == axis else 1 for a in range(rank)]


def stream(graph: Graph, feeds: Sequence[Mapping[str, Array]], visit: Callable[[str, list[Array]], None]) -> None:
    """Run a model on each of these inputs, some nodes at a time, and show every tensor, of all inputs together.

    Sequences and what numpy has no type for are not shown. Raises what ONNX Runtime does.
    """
    last, stored = {name: i for i, names in enumerate(graph.reads) for name in names}, graph.constants
    live = {name: [feed[name] for feed in feeds] for name in feeds[0]}

    def show(name: str, arrays: list[Array]) -> None:
        visit(name, arrays)
        graph.ranks |= {name: arrays[0].ndim} if len({array.ndim for array in arrays}) == 1 else {}

    for name, arrays in live.items():
        show(name, arrays)
    weights = [4 * sum(math.prod(stored[n].dims) for n in names if n in stored) for names in graph.reads]
    at, step = 0, _FIRST_NODES
    while at < len(graph.nodes):
        held = itertools.accumulate(weights[at : at + step])
        nodes = range(at, at + max(1, sum(size <= step * (CHUNK // _MOST_NODES) for size in held)))
        made = [name for i in nodes for name in graph.nodes[i].output if name]
        leaves = {name for i in nodes for name in graph.reads[i]} & live.keys() - set(made)
        runs = session(graph.part(nodes, {n: live[n][0].dtype for n in leaves}, made), graph.folder, graph.packs)
        own = [t.name for t in runs.get_outputs() if not any(k in t.type for k in ("float4", "float8", "int2", "int4"))]
        rows = zip(own, *(runs.run(own, {f"{n}·": live[n][k] for n in leaves}) for k in range(len(feeds))), strict=True)
        shown = {n: each for n, *each in rows if all(isinstance(a, np.ndarray) and a.dtype in NUMPY for a in each)}
        if any(last.get(name, -1) >= nodes.stop for name in set(made) - shown.keys()):
            step *= 2  # what cannot be handed on is read later
            continue
        for name, arrays in shown.items():
            show(name, arrays)
            if arrays[0].dtype.kind == "i" and arrays[0].ndim < 2 and len({array.shape for array in arrays}) == 1:
                graph.lengths |= {name: arrays[0].shape} if name not in graph.tables else {}
        live = {name: arrays for name, arrays in (live | shown).items() if last.get(name, -1) >= nodes.stop}
        size = sum(array.nbytes for arrays in shown.values() for array in arrays)
        at, step = nodes.stop, max(1, min(2 * step, step * CHUNK // max(size, 1), _MOST_NODES))


@dataclass
class Boundary:
    """A tensor of the compiled model that holds slices of one of the source: all along axes that are not named.

    reads: the tensors of the compiled model at which its region ends, None for all boundaries. factors: by axis, what
    the slices that it holds are multiplied with.
    """

    source: str
    slices: Slices = field(default_factory=dict)
    reads: frozenset[str] | None = None
    factors: Slices = field(default_factory=dict)

    def cut(self, array: Array) -> Array:
        """These slices of the source's tensor."""
        for axis, index in self.slices.items():
            array = np.take(array, index, axis)
        for axis, each in self.factors.items():
            array = (array * each.reshape(_along(axis, array.ndim))).astype(array.dtype)
        return array

    @property
    def whole(self) -> bool:
        """Whether it holds all of the source's tensor, as it is."""
        return not self.slices and not self.factors


@dataclass(frozen=True)
class Region:
    """What lies between a boundary and those that it reads, on both sides: indices of nodes, and the tensors read."""

    target: str
    boundary: Boundary
    compiled: tuple[int, ...]
    compiled_reads: frozenset[str]
    source: tuple[int, ...]
    source_reads: frozenset[str]


@dataclass
class Judgement:
    """The largest error of a region and what is allowed, relative to the scale of a slice; `at` is its axis and index.

    refuted: by axis, slices of the source's tensor that are not what they were claimed to be. plain: the error without
    regard to the condition. sparse: what is allowed where values are sparse. steps: whether rounding may lead to
    another step. compared: whether a number was finite. apart: how many elements are a step off in each slice, in all
    if integers alone are read (`levels`); of `places`.
    """

    allowed: float = 0.0
    error: float = 0.0
    at: tuple[int, int] | None = None
    why: str = ""
    refuted: dict[int, Array] = field(default_factory=dict)
    plain: float = 0.0
    sparse: float = 0.0
    steps: bool = False
    compared: bool = False
    apart: Array = field(default_factory=lambda: np.zeros(0))
    places: int = 0
    levels: bool = False

    @property
    def agrees(self) -> bool:
        """Whether both sides agree."""
        return self.error <= self.allowed

    def at_most(self, turn: int) -> tuple[float, float]:
        """What is allowed in a turn, and the share of elements that may be one step off."""
        allowed = self.sparse if turn % 2 and turn > 0 else self.allowed
        steps = self.steps and allowed and turn not in NEARLY  # where nothing is as near to a step as rounding goes
        return allowed, min(SHARE, math.inf if self.levels else STEPS * allowed) if steps else 0.0

    def few(self, apart: Array, axis: int | None, share: float) -> bool:
        """Whether no more elements are apart than a share, of all and, by four deviations, of a slice in all turns."""
        each = apart.sum(axis=others(apart, None if self.levels else axis)).reshape(-1)
        self.apart = each + (self.apart if self.apart.shape == each.shape else 0)
        self.places += apart.size // each.size
        expected = share * self.places
        return bool(apart.mean() <= share and self.apart.max() <= expected + 4 * math.sqrt(expected) + 2)

    def take(self, error: Array, axis: int | None) -> None:
        """Note relative errors of elements, and in which slice along the axis the largest is."""
        largest = float(error.max())
        if not largest <= self.error:
            self.error = largest
            if axis is not None:
                self.at = axis, int(error.max(axis=others(error, axis)).argmax())

    def fail(self, why: str) -> None:
        """Note what is no matter of rounding."""
        self.error, self.why = math.inf, why


def others(array: Array, axis: int | None) -> tuple[int, ...]:
    """All axes but this one."""
    return tuple(a for a in range(array.ndim) if a != axis)


def scales(size: Array, axis: int | None) -> Array:
    """The scale of each element: its size and the largest of its slice, unless that is far from typical."""
    largest = size.max(axis=others(size, axis), keepdims=True)
    rows = size.reshape(1, -1) if axis is None else np.moveaxis(size, axis, 0).reshape(size.shape[axis], -1)
    rows = rows[:, :: max(1, rows.shape[1] >> 9)]
    count = (rows > 0).sum(axis=1)
    quarter = np.sort(np.where(rows > 0, rows, np.inf), axis=1)[np.arange(len(rows)), count // 4 * (count >= FEW)]
    scale = np.minimum(largest, np.where(count >= FEW, TYPICAL * quarter, np.inf).reshape(largest.shape))
    return np.asarray(size + np.maximum(scale, LEAST * (float(scale.max()) or 1.0)))


class Checker:
    """Runs regions of two models on random values of boundaries; tensors of the source are as `seen`."""

    def __init__(
        self,
        source: Graph,
        compiled: Graph,
        boundaries: dict[str, Boundary],
        claims: dict[str, Claims],
        seen: Mapping[str, Seen],
        seed: int = 0,
    ) -> None:
        self.source, self.compiled, self.boundaries, self.claims = source, compiled, boundaries, claims
        self.seen, self.seed, self.packs = seen, seed, source.packs and compiled.packs
        self.types = {name: tensor.dtype for name, tensor in seen.items()}
        alike = {name: source.lengths.get(b.source) for name, b in boundaries.items() if b.whole}
        compiled.lengths |= {name: length for name, length in alike.items() if length is not None}
        compiled.ranks |= {name: source.ranks[b.source] for name, b in boundaries.items() if b.source in source.ranks}

    def region(self, target: str, held: Mapping[str, Boundary] | None = None) -> Region:
        """The region of a boundary, which reads no output of a node that is run in it, as a sum beside its norm."""
        boundary, held = self.boundaries[target], self.boundaries if held is None else held
        nodes, reads = self.compiled.closure(target, held if boundary.reads is None else boundary.reads)
        read = {held[name].source for name in reads if name in held}
        ends = {each.source for each in held.values()} if boundary.reads is None else read
        twins, needed = self.source.closure(boundary.source, ends)
        for name in (unread := [each for each in needed - read if not self.is_claimed(each)]):
            inner, leaves = self.source.closure(name, (read | needed) - {name})
            values = {n for i in inner if self.source.nodes[i].op_type != "Shape" for n in self.source.reads[i]}
            if leaves & values <= read | needed:  # what follows from what is read is as the source computes it
                ends = ends - {name} - (values - leaves)
        twins, needed = self.source.closure(boundary.source, ends) if unread else (twins, needed)
        if boundary.source in read:
            twins, needed = [], {boundary.source}  # slices of what is read
        made = {name for name in reads if name in held and self.source.maker.get(held[name].source) in twins}
        if made and boundary.reads is None:
            return self.region(target, {name: each for name, each in held.items() if name not in made})
        return Region(target, boundary, tuple(nodes), frozenset(reads), tuple(twins), frozenset(needed))

    def is_claimed(self, name: str) -> bool:
        """Whether claims are on all of a tensor of the source."""
        return any(len(c.slices) == self.seen[name].shapes[0][axis] for axis, c in self.claims.get(name, {}).items())

    def fresh(self, name: str, turn: int) -> Array:
        """Random values of a tensor of the source, in which its claims hold, or that a Softmax may have made."""
        if turn <= TABLES // 2:
            entries = (np.arange(ENTRIES) + (turn - TABLES) * ENTRIES) % self._entries(name)
            return entries.astype(self.types[name]).reshape(*[1] * (len(self.seen[name].shapes[0]) - 1), -1)
        if turn >= SWEEP and name in self.source.tables and self.types[name].kind in "iu":
            entries = np.arange(math.prod(shape := self.seen[name].shapes[0])) + (turn - SWEEP) // 2 * math.prod(shape)
            return (entries % self._entries(name)).astype(self.types[name]).reshape(shape)
        if turn >= SWEEP and name in self.source.bounds:
            return np.full(self.seen[name].shapes[0], self.source.bounds[name], self.types[name])
        turn = 0 if turn >= SWEEP else turn
        beyond, choice = turn >= BEYOND, turn >> 1 if turn < BEYOND else _run_of(turn) >> 2  # each in turns of any kind
        values = self._beyond(name, turn) if beyond and self._is_free(name) else None
        turn = _run_of(turn)
        if values is None:
            values = self.seen[name].fresh(name, turn, self.seed)
            if turn % 4 == 2 and name in self.source.boxes:  # that lie on each other, more or less
                near = np.random.default_rng([turn, self.seed]).uniform(-2, 0, (*values.shape[:-1], 1))
                return np.asarray(values[..., :1, :] + 10**near * values, values.dtype)
            if turn > 1 and name in self.source.conditions:
                return np.asarray(values ^ bool(choice & self._choices().get(name, 0)))
            if turn % 2 and name in self.source.levels:
                values = self._other_levels(name, values, turn)
            elif self.seen[name].values is not None:
                return values
        claims, shares = self.claims.get(name, {}), self.source.shares.get(name, slice(0))
        if (axes := tuple(range(values.ndim)[shares])) and claims.keys().isdisjoint(axes):
            values = np.abs(values) + np.finfo(values.dtype).tiny
            values = (values / values.sum(axes, keepdims=True)).astype(self.types[name])
        for axis, claim in claims.items():
            values[(slice(None),) * axis + (claim.slices,)] = claim.held(values, axis, turn)
        return values

    def _other_levels(self, name: str, values: Array, turn: int) -> Array:
        """Any levels, a third of them the least or the most."""
        rng, kind = np.random.default_rng([zlib.crc32(name.encode()), turn % 65_536, self.seed]), np.iinfo(values.dtype)
        beyond = (kind.max - kind.min) // 4
        levels = rng.integers(kind.min - beyond, kind.max + beyond, values.shape).clip(kind.min, kind.max)
        return np.asarray(levels.astype(values.dtype))

    def turns(self, region: Region) -> Sequence[int]:
        """The turns in which a region is run: more often where weights are seen at few places.

        What looks up entries of a table looks up all of them.
        """
        source = region.boundary.source
        shape = self.seen[source].shapes[0]
        weighs = any(
            _rounding(g.nodes[i] for i in of if not g.fixed.isdisjoint(g.reads[i])) for g, of in self.sides(region)
        )
        sliced = [max(shape[1:] or shape, default=1)] * weighs + [shape[a] for a in self.claims.get(source, {})]
        places = math.prod(shape) / max([1, *sliced]) if math.prod(shape) else 64
        times = next(times for least, times in ((64, 2), (16, 8), (0, 24)) if places >= least)
        sized = [source, *region.source_reads] if any(n.op_type == "Shape" for n in self.nodes(region)) else ()
        times = max([times, *(len(self.seen[name].shapes) for name in sized)])  # of each size
        maker = self.compiled.maker.get(region.target)
        inner = {name for i in region.compiled if i != maker for name in self.compiled.nodes[i].output}
        wide = region.boundary.reads is not None or bool(inner & self.source.maker.keys())
        wide |= any(node.op_type.startswith(QUANTIZING) for node in self.nodes(region))  # beyond all levels
        stored, reads = self.compiled.constants, self.compiled.reads
        products = [i for i in region.compiled if any(n in stored and len(stored[n].dims) > 1 for n in reads[i])]
        wide |= len(products) > 1  # units between them may be dead
        turns = tuple(range(-times // 2 if wide else 0, times))
        names = region.source_reads | {self.boundaries[name].source for name in region.compiled_reads}
        looks_up = len(names) == 1 and all(node.op_type in LOOKING for node in self.nodes(region))
        for name in names & self.source.tables.keys():
            shape, entries = self.seen[name].shapes[0], self._entries(name) if self.types[name].kind in "iu" else 0
            if looks_up and (shape or not (region.boundary.slices or self.claims.get(source))):
                turns += tuple(range(TABLES, TABLES - (-entries // ENTRIES)))
            elif entries and any(
                name in _reads(n) and (n.op_type in TABLED or any(bodies(n))) for n in self.nodes(region)
            ):
                sweeps = min(MOST_SWEEPS, -(-entries // max(1, math.prod(shape))))
                turns += tuple(range(SWEEP, SWEEP + 2 * sweeps, 2))
        moved = names - self.source.bounds.keys() or any(node.op_type not in EXACT for node in self.nodes(region))
        turns += (SWEEP,) if names and not moved else ()  # all of a table that is cut to a size
        return tuple(dict.fromkeys((*turns, *self.chosen(region), *self.beyond(region))))

    def _entries(self, name: str) -> int:
        """How many entries the tables have that a tensor is an index of, 0 where none is seen."""
        tables = self.source.tables[name]
        stored = {table: self.source.stored[table].dims for table, _ in tables if table in self.source.stored}
        shapes = [(stored.get(table) or self.shape(table), axis) for table, axis in tables if table]
        sizes = [shape[axis] for shape, axis in shapes if shape]
        return min([*sizes, *(count for table, count in tables if not table)], default=0)

    def beyond(self, region: Region) -> Sequence[int]:
        """The turns in which what is read is as in no run, where a region takes any numbers and words."""
        names = region.source_reads | {self.boundaries[name].source for name in region.compiled_reads}
        nodes = [(graph, graph.nodes[i]) for graph, of in self.sides(region) for i in of]
        free = list(filter(self._is_free, names))
        nested = [(graph, each) for graph, node in nodes for each in _nested([node])]
        if not DENSE.isdisjoint(node.op_type for _, node in nested):  # of many numbers those of a run tell enough
            free = [name for name in free if self.types[name].kind != "f" or self.seen[name].values is not None]
        if not free or not all(graph.takes_any(node) for graph, node in nodes):
            return ()
        kinds = {self.types[name].kind for name in names}
        divides = any(n.op_type in ("Div", "Mod") and not g.known(n.input[1:]) for g, n in nested)
        if divides and not kinds.isdisjoint("iu"):
            return ()  # by 0 a process ends
        # no rounding comes before a step
        whole = all(node.domain == LEARNED or node.op_type in WHOLE for _, node in nodes)
        ops = [
            sorted(graph.nodes[i].op_type for i in of if not graph.fixed.issuperset(graph.nodes[i].output))
            for graph, of in self.sides(region)
        ]
        near = whole or "f" not in kinds or ops[0] == ops[1]
        near &= any(g.asks(n) for g, n in nested) or any(
            name in self.source.inputs or self._is_limited_elsewhere(name) for name in names
        )
        near &= any(self.compared(name).size for name in names)
        # numbers that are not the same on both sides may be rounded apart
        steps = near and any(self.may_step(node, names) for _, node in nodes)
        return (BEYOND, BEYOND + 2, *(NEARLY if steps else NEAR if near else ()))

    def sides(self, region: Region) -> tuple[tuple[Graph, Sequence[int]], ...]:
        """Both models, with the nodes that a region has of them."""
        return (self.source, region.source), (self.compiled, region.compiled)

    def _readers(self, name: str) -> Iterator[tuple[Graph, NodeProto]]:
        """The nodes of both models that read a tensor, or what only moves its values or makes them whole."""
        todo, seen = [(graph, name) for graph in (self.source, self.compiled)], set[int]()
        while todo:
            graph, name = todo.pop()
            for node in graph.readers.get(name, ()):
                if id(node) not in seen:
                    seen.add(id(node))
                    yield from ((graph, each) for each in _nested([node]))
                    passes = node.input[0] == name and node.op_type in PASSING and node.op_type != "Shape"
                    todo += [(graph, each) for each in node.output] if passes or node.op_type == "Concat" else []

    def _is_free(self, name: str) -> bool:
        """Whether a tensor may be drawn as in no run: inputs, those with few values in runs, and those compared."""
        known = name in self.source.inputs or self.seen[name].values is not None
        asked = known or any(g.asks(n) for g, n in self._readers(name)) or self._is_limited_elsewhere(name)
        return asked and name not in self.source.conditions

    def _is_limited_elsewhere(self, name: str) -> bool:
        """Whether it is limited by numbers that values in a run hardly come near, larger or smaller by far."""
        if self.types[name].kind != "f":
            return False
        largest = max(abs(self.seen[name].low), abs(self.seen[name].high))
        stored = [each for node, stored in self._asking(name) if node.op_type in LIMITING for each in stored]
        limits = [abs(limit) for each in stored for limit in each.reshape(-1).tolist() if each.dtype.kind == "f"]
        return any(limit > FAR * largest or 0 < limit < LEAST * largest for limit in limits)

    def _asking(self, name: str) -> Iterator[tuple[NodeProto, list[Array]]]:
        """The nodes that compare a tensor with numbers or words, and those that they store."""
        for graph, node in self._readers(name):
            if graph.asks(node) or (node.op_type in WHOLE and node.op_type not in EXACT):
                stored = [graph.stored[each] for each in node.input if each in graph.stored]
                stored += [a.t for a in node.attribute if a.HasField("t")]
                yield node, [numpy_helper.to_array(each) for each in stored if math.prod(each.dims) <= ENTRIES]

    def compared(self, name: str) -> Array:
        """Numbers or words that a tensor is compared with, these with small letters for capitals as well."""
        found: set[Any] = set()
        for node, stored in self._asking(name):
            found.update(each for array in stored for each in array.reshape(-1).tolist())
            for own in node.attribute if node.domain or node.op_type in ASKING else ():
                if own.name == "nodes_values" or not own.name.startswith(("class_", "nodes_", "target_")):
                    found.update((*own.floats, *own.ints, *own.strings, own.s, own.f, own.i))
        words = {each.decode() if isinstance(each, bytes) else each for each in found}
        text = self.types[name].kind == "O"
        kept = {each for each in words if isinstance(each, str) == text}
        return np.array(sorted(kept | {each.swapcase() for each in kept if text}), object if text else None)

    @np.errstate(invalid="ignore", over="ignore")  # a number may not fit
    def _beyond(self, name: str, turn: int) -> Array:
        """A tensor near what it is compared with, or of any sign and size, and no number where that is asked."""
        dtype, near = self.types[name], self.compared(name) if turn in NEAR else np.zeros(0)
        rng = np.random.default_rng([zlib.crc32(name.encode()), turn, self.seed])
        values = np.array(self.seen[name].fresh(name, _run_of(turn), self.seed))
        shape = values.shape
        if near.size:  # each of them at each place in turn, then its neighbours
            fixed = np.random.default_rng([zlib.crc32(name.encode()), self.seed])  # in each turn
            near, order = fixed.permutation(near), fixed.permutation(values.size)
            if turn in NEARLY and dtype.kind != "O":
                off = [near * (1 + ALIKE), near * (1 - ALIKE), near + 0.5, near - 0.5] if dtype.kind == "f" else []
                near = np.concatenate([*off, near + 1, near - 1])
            values = near[(order.reshape(shape) + NEAR.index(turn) // 2) % near.size]
            asking = self._asking(name) if turn % 8 == 2 else ()
            if own := [each for _, stored in asking for each in stored if each.size > 1 and _fits(each, shape)]:
                # each slice near its own
                side, which = divmod(turn - BEYOND >> 3, len(own))
                values = np.broadcast_to(own[which] * (1 + ALIKE * (1 - 2 * (side % 2))), shape)
        elif dtype.kind == "b":
            values = rng.random(shape) < 1 / 2
        elif dtype.kind == "f":
            values = rng.normal(0, 1 if turn == BEYOND else WIDE, shape)
            if any(n.domain == LEARNED or n.op_type in NUMBERS for _, n in self._readers(name)):
                none = rng.choice((np.nan, np.nan, np.nan, np.inf, -np.inf), shape)
                there = (np.arange(values.size).reshape(shape) + turn // 2) % 2  # each in one of two turns
                values = np.where(there, none, values)
        elif dtype.kind in "iu":
            wide = 2.0 ** rng.uniform(0, np.iinfo(dtype).bits - 2, shape)
            values = (values if turn == BEYOND else wide) * rng.choice((1, -1) if dtype.kind == "i" else (1,), shape)
        return np.asarray(values).astype(dtype)

    def chosen(self, region: Region) -> Sequence[int]:
        """The turns in which conditions are not as in a run, so that all is chosen once: two of each choice."""
        read, choices = {self.boundaries[name].source for name in region.compiled_reads}, self._choices()
        bits = sum({choices[name] for name in read & choices.keys()})
        return tuple(turn for turn in range(2, 2 << CHOICES) if turn >> 1 & bits == turn >> 1)

    def _as_seen(self, region: Region, array: Array) -> bool:
        """Whether a result has the rank that it has in a run, and as many slices where some are held or claimed."""
        shape, name = self.seen[region.boundary.source].shapes[0], region.boundary.source
        axes = {*region.boundary.slices, *self.claims.get(name, {})}
        return array.ndim == len(shape) and all(array.shape[axis] == shape[axis] for axis in axes)

    def _choices(self) -> dict[str, int]:
        """Whole conditions of both models that are the same in all runs, and the bit of turns in which they are not.

        Of many elements those alone that follow from nothing that is claimed, as behind a mask.
        """
        whole = (self.boundaries[name] for name in self.compiled.conditions if name in self.boundaries)
        held = {boundary.source for boundary in whole if boundary.whole}
        alike = [name for name in self.source.conditions if name in held and self.seen[name].alike()]
        free = [n for n in alike if math.prod(self.shape(n)) == 1 or self.source.conditions[n].isdisjoint(self.claims)]
        return {name: 1 << i % CHOICES for i, name in enumerate(free)}

    def unjudged(self, region: Region) -> Judgement:
        """What is allowed of a region that was not run yet."""
        steps = any(self.may_step(node, region.source_reads | region.compiled_reads) for node in self.nodes(region))
        levels = {self.types[name].kind for name in region.source_reads} in ({"i"}, {"u"}, {"i", "u"})
        return Judgement(self.allowed(region), sparse=self.allowed(region, sparse=True), steps=steps, levels=levels)

    def may_step(self, node: NodeProto, reads: Collection[str]) -> bool:
        """Whether a rounding may lead to another step: what both sides read, or have stored, is the same for both."""
        casts = (a.i for n in _nested([node]) if n.op_type == "Cast" for a in n.attribute if a.name == "to")
        steps = any(kind not in FLOATS for kind in casts) or any(n.op_type in STEPPING for n in _nested([node]))
        rounded = (n for n in _reads(node) if any(bodies(node)) or not (n in reads or self._has_twin(n)))
        return steps and any(map(self._is_rounded, rounded))

    def _has_twin(self, name: str) -> bool:
        """Whether a constant of one model is one of the other as well, by any name if it is small."""
        graph = self.source if name in self.source.constants else self.compiled
        return self.same_constants(name, name) or graph.content(name) in self._twins

    @cached_property
    def _twins(self) -> set[bytes]:
        """Contents of small constants that both models have."""
        one, two = ({graph.content(name) for name in graph.constants} for graph in (self.source, self.compiled))
        return (one & two) - {b""}

    def _is_rounded(self, name: str) -> bool:
        """Whether a tensor may be of floating point, so that a rounding may lead to another step."""
        if name in self.source.sizes or name in self.compiled.sizes:
            return False
        stored = self.source.constants.get(name) or self.compiled.constants.get(name)
        return self.types.get(name, np.dtype(float)).kind == "f" if stored is None else stored.data_type in FLOATS

    def run(self, group: Sequence[Region], found: Mapping[str, Judgement]) -> None:
        """Run both sides of regions in each turn and judge what they make of its values."""
        reads = {name: self.types[name] for region in group for name in region.source_reads}
        held = {name: self.boundaries[name] for region in group for name in region.compiled_reads}
        wanted = list(dict.fromkeys(region.boundary.source for region in group if region.source))
        targets = [region.target for region in group]
        nodes = sorted({index for region in group for index in region.source})
        one = session(self.source.part(nodes, reads, wanted), self.source.folder, self.packs) if wanted else None
        leaves = {n: self.types[b.source] for n, b in held.items()}
        nodes = sorted({index for region in group for index in region.compiled})
        two = session(self.compiled.part(nodes, leaves, targets), self.compiled.folder, self.packs)
        shared = reads.keys() & {b.source for b in held.values()} | {*self.source.inputs}
        for turn in self.turns(group[0]):
            values = {}
            for name in reads.keys() | {b.source for b in held.values()}:  # one that one side has folded is as it is
                drawn = turn < BEYOND or name in shared
                values[name] = self.fresh(name, turn if drawn else _run_of(turn) % len(self.seen[name].shapes))
            feeds = {f"{n}·": np.asarray(b.cut(values[b.source]), order="C") for n, b in held.items()}
            try:
                results = one.run(wanted, {f"{n}·": values[n] for n in reads}) if one else []
            except Exception:  # of any kind that ONNX Runtime has
                if turn >= BEYOND or turn <= TABLES // 2 or (turn > 1 and self.chosen(group[0])):
                    continue  # of what is no index, or of a branch or a product that needs other sizes
                raise
            made = dict(zip(wanted, results, strict=True))
            for region, got in zip(group, two.run(targets, feeds), strict=True):
                want = (made if region.source else values)[region.boundary.source]
                if turn > 1 and self.chosen(region) and not self._as_seen(region, want):
                    continue
                if turn <= TABLES // 2 and not region.compiled_reads:
                    got = np.resize(got, want.shape)  # one row of constants for any index
                self.judge(region, want, got, turn, found[region.target])
            if all(found[r.target].error >= max(MOST, 2 * found[r.target].allowed) for r in group):
                break

    def allowed(self, region: Region, sparse: bool = False, stored: bool = True, approximate: bool = True) -> float:
        """Roundings of a region in units of its coarsest type, relative to the scale of a slice.

        Each node rounds a few times, and a sum of n terms √n times as often: errors of rounding add up like the steps
        of a random walk (Higham and Mary, SIAM J. Sci. Comput. 41, 2019). With two operands of a and b elements and a
        result of c a sum has at most √(ab/c) terms, or a/c; of sparse values most are 0. Recurrent layers sum at each
        step; what was rounded when it was claimed counts more, its sums too. Half precision rounds what is `stored`.
        Two implementations of a function `approximate` it.
        """
        claimed = [self.source.nodes[index] for index in self._claimed(region)]
        chain = math.sqrt(1 + len(claimed))
        made = [self.source.nodes[index] for index in region.source]
        nodes = [node for node in made if not self.source.fixed.issuperset(node.output)]
        names = {region.boundary.source, *region.source_reads, *(name for node in nodes for name in node.output)}
        drawn = region.source_reads if sparse and self.claims.keys().isdisjoint(region.source_reads) else ()
        means = [n for n in claimed if not any(map(self._is_rounded, n.input[1:])) and not any(bodies(n))]  # no weights
        sums = sum(self._sum_roundings(node, drawn) for node in nodes)
        sums += max((self._sum_roundings(node, ()) for node in means), default=0.0)
        before, here = _rounding(made), _rounding(self.compiled.nodes[i] for i in region.compiled)
        alone = {*before} ^ {*here}  # what is on both sides is off as far there
        unit = max(UNIT.get(self.types[name], 0.0) for name in names if name in self.types)
        unit = unit or UNIT[np.dtype(np.float32)] * bool(alone)  # of integers that one side computes in single
        sums += max((APPROXIMATION[op] for op in alone & APPROXIMATION.keys()), default=0.0) * approximate
        folded = len(before) - len(_rounding(nodes))
        steps = max(1, len(before) - folded + len(here) - 1) * unit * chain
        steps += sums * min(unit, UNIT[np.dtype(np.float32)]) * math.sqrt(chain)
        read = {name for i in region.compiled for name in self.compiled.reads[i]} & self.compiled.fixed
        merged = max(folded, len(before) - len(here), chain**2 - 1)
        halves = (2 + math.sqrt(merged)) * self.source.coarse  # in computed weights
        stored &= bool(chain > 1 or read - self.source.fixed or before != here or len(before) > 1)
        given, kept = _epsilons(made), _epsilons(self.compiled.nodes[i] for i in region.compiled)
        stored &= not given or kept <= given | {0.0}  # no attribute is stored in half precision
        return ROUNDINGS * steps + halves * stored

    def chain(self, region: Region) -> float:
        """How many times as much is allowed for what is claimed and not 0: the root of how many nodes it comes from."""
        return math.sqrt(1 + len(self._claimed(region)))

    def _claimed(self, region: Region) -> set[int]:
        todo, seen = sorted(region.source_reads & self.claims.keys()), set[int]()
        ends = {boundary.source for boundary in self.boundaries.values()} if todo else ()
        while todo and len(seen) < LONGEST:
            name = todo.pop()
            index, claims = self.source.maker.get(name, -1), self.claims.get(name, {}).values()
            if name in ends and index not in seen and any(c.runs[0].any() or c.factors.any() for c in claims):
                seen.add(index)
                todo += self.source.reads[index]
        return seen

    def _sum_roundings(self, node: NodeProto, sparse: Collection[str]) -> float:
        """Roundings of the sums of a node, some of whose operands may be sparse."""
        if any(bodies(node)):
            return self._body_roundings(node)
        sizes = [math.prod(self.shape(name)) for name in node.input[:2] if name]
        result = max([1, *(math.prod(self.shape(name)) for name in node.output if name in self.seen)])
        terms = max([1.0, *(s / result for s in sizes[:1]), *(math.sqrt(sizes[0] * s / result) for s in sizes[1:])])
        first = self.seen.get(node.input[0]) if node.input else None
        if first is not None and first.low <= 0 and node.input[0] in sparse:
            terms = max(1.0, terms / SPARSE)
        times = self.shape(node.input[0])[0] if node.op_type in RECURRENT and first and first.shapes[0] else 1
        return math.sqrt(times * terms)

    def _body_roundings(self, node: NodeProto) -> float:
        """Those of sums over the longest axes of the weights that bodies read, in each round: one for each slice."""
        shapes = {name: self.shape(name) for name in _reads(node)}
        sliced = [shape[0] for name, shape in shapes.items() if name not in self.source.fixed and shape[1:]]
        stored = [shape for name, shape in shapes.items() if name in self.source.fixed]
        stored += [tensor.dims for body in bodies(node) for tensor in stored_in(body)]
        rounds = max([1, *sliced]) if node.op_type in ("Loop", "Scan") else 1
        return rounds * sum(math.sqrt(max(shape)) for shape in stored if len(shape) > 1)

    def shape(self, name: str) -> Sequence[int]:
        """Sizes of a tensor of the source, the largest in runs; none where it is not known."""
        stored, seen = self.source.constants.get(name), self.seen.get(name)
        return stored.dims if stored is not None else max(seen.shapes, key=math.prod) if seen is not None else ()

    def judge(self, region: Region, want: Array, got: Array, turn: int, result: Judgement) -> None:
        """Take one turn of a region into account."""
        if not isinstance(want, np.ndarray) or not isinstance(got, np.ndarray):
            return result.fail("it cannot be compared")
        if region.source:
            self.judge_claims(region, want, turn, result)
        want = region.boundary.cut(want)
        if want.shape != got.shape or want.dtype != got.dtype:
            return result.fail(f"it is {got.dtype} {list(got.shape)} and should be {want.dtype} {list(want.shape)}")
        result.compared |= want.dtype.kind != "f" or bool(turn % 2 == 0 and np.isfinite(want).any())
        if not want.size or np.array_equal(want, got):
            return None
        axis = next(iter(region.boundary.slices), self._weighed_axis(region, want.ndim))
        if want.dtype.kind == "f":
            return self._judge_floats(region, want, got, turn, result, axis)
        apart = np.not_equal(want, got)
        few = want.dtype.kind != "O" and result.few(apart, axis, result.at_most(turn)[1])
        if not few or np.abs(want - got.astype(np.float64))[apart].max() > 1:
            result.take(apart.astype(np.float64), axis)
            result.fail(f"{apart.sum()} of {want.size} elements differ")
        return None

    def _weighed_axis(self, region: Region, rank: int) -> int | None:
        """The axis of a result along which weights are apart, so that slices along it may be of other scales."""
        for node in (self.source.nodes[i] for i in reversed(region.source) if rank > 1):
            fixed = [index for index, name in enumerate(node.input[:2]) if name in self.source.fixed]
            if node.op_type in CHANNELED and rank > 2:
                return 1
            if node.op_type == "MatMul" and fixed:
                return rank - 1 if fixed[0] else rank - 2
            sizes = [size for index in fixed for size in self.shape(node.input[index])][-rank:]
            if node.op_type in ("Add", "Div", "Mul", "Sub") and max(sizes, default=1) > 1:
                return rank - len(sizes) + int(np.argmax(sizes))
        return None if rank < 2 else 2 if rank == 3 else 1

    def _judge_floats(
        self, region: Region, want: Array, got: Array, turn: int, result: Judgement, axis: int | None
    ) -> None:
        """Judge numbers of floating point. axis: whose slices have scales."""
        allowed, share = result.at_most(turn)
        wide = np.float32 if np.abs(want).max(initial=0) <= HUGE else np.float64  # a scale would be infinite
        one, two = (array.astype(np.promote_types(array.dtype, wide)) for array in (want, got))
        if not (np.isfinite(one).all() and np.isfinite(two).all()):
            finite, infinite, none = np.isfinite(one), np.isinf(one), np.isnan(one)
            # where the source has no number, any will do, unless somebody asks
            asked = region.boundary.source in self.source.asked and not np.isnan(two[none]).all()
            if asked or not (np.isfinite(two[finite]).all() and np.array_equal(one[infinite], two[infinite])):
                return result.fail("its NaNs or infinities are in other places")
            one, two = np.where(finite, one, 0), np.where(finite, two, 0)
        stored = self.source.coarse == NARROW[TensorProto.FLOAT16] and allowed > self.source.coarse
        least = SUBNORMAL * stored + self.near_zero(region, one)
        error, scale = np.maximum(np.abs(one - two) - least, 0), scales(np.abs(one), axis)
        relative = error / scale
        as_all = result.allowed / (allowed or 1.0)  # as if all turns were allowed as much
        result.plain = max(result.plain, float(relative.max()) * as_all)
        if share and result.few(relative > allowed, axis, share) and not (relative > max(STEP, allowed)).any():
            return None
        if not share:
            few = axis is not None and scale.size < FEW * scale.shape[axis]  # as of one row of logits
            largest = scale.max(axis=None if few else others(scale, axis), keepdims=True)
            most = largest * CONDITION / self.chain(region) if region.boundary.reads is not None else np.inf
            # of a constant that is rounding alone nothing need be right
            measured = self.is_claimed(region.boundary.source) or (error / largest).max() < max(MOST, WORST * allowed)
            if measured and not result.agrees:
                return None  # conditions take long, and it fails already
            relative = self.relative(region, turn, axis, np.abs(one), error, scale, allowed, most if measured else None)
        return result.take(relative * as_all, axis)

    def near_zero(self, region: Region, result: Array) -> float:
        """What a result may be off by however small it is, as a difference of an exponential and 1."""
        operators = {node.op_type for node in self.nodes(region)}
        gates = "Sigmoid" in operators and bool((result >= 0).all() and (result <= 1).all())
        ends = {self.source.nodes[index].op_type for index in region.source[-1:]}
        off = gates or not (operators.isdisjoint(GATED) and ends.isdisjoint(EXPONENTIAL))
        # of a gate and its steps, times a number at which it is nearly shut
        shut = SHUT if {"Exp", "Sigmoid"} <= operators and not gates else 1.0 * off
        return LOGISTIC * shut * max(1.0, float(np.abs(result).max(initial=0)))

    @np.errstate(invalid="ignore")  # of what is infinite on both sides
    def relative(
        self,
        region: Region,
        turn: int,
        axis: int | None,
        size: Array,
        error: Array,
        scale: Array,
        allowed: float,
        most: Array | float | None,
    ) -> Array:
        """Errors of elements, at most what is allowed where they may be of rounding.

        Where nodes round each element for itself, or what was stored in half precision, this is relative to the size of
        the element, else to the scale of its slice, or to conditions. most: up to which these are believed; None where
        they are not measured.
        """
        halves = self.allowed(region) - self.allowed(region, stored=False) if self.source.coarse else 0.0
        alone = all(graph.nodes[i].op_type in ARITHMETIC for graph, nodes in self.sides(region) for i in nodes)
        least = np.maximum(size, LEAST * scale)

        def within(slices: Array, each: Array) -> Array:
            rounded = (allowed - halves) * (np.maximum(each, least) if alone else slices)
            stored = np.maximum(halves * least, HALVES * self.source.coarse * each) if halves else 0.0
            return np.asarray(error * allowed / (rounded + stored))

        found = within(scale, least)
        if most is None or found.max() <= allowed:
            return found
        for slices, each in self.conditions(region, turn, axis):
            found = np.minimum(found, within(np.maximum(scale, np.minimum(slices, most)), np.minimum(each, most)))
            if found.max() <= allowed:
                break
        return found

    @np.errstate(invalid="ignore", over="ignore")  # where the source has no number, any will do
    def judge_claims(self, region: Region, want: Array, turn: int, result: Judgement) -> None:
        """Note slices that are not what they are claimed to be."""
        allowed, _ = result.at_most(turn)
        for axis, claim in self.claims.get(region.boundary.source, {}).items():
            sized = turn > TABLES // 2 and want.shape in self.seen[region.boundary.source].shapes
            if len(claim.runs) > 1 and not sized:
                continue  # it is not of the sizes of a run
            slices, part = claim.slices, want.take(claim.slices, axis)
            held = claim.held(want, axis, _run_of(turn)).astype(np.promote_types(want.dtype, np.float32))
            both = (np.where(np.isnan(part), 0, a) for a in (part - held, held))
            off, scale = (np.abs(a).max(axis=others(want, axis), initial=0) for a in both)
            if want.dtype.kind == "f" and not (off <= allowed * scale).all():
                scale = np.maximum(scale, np.abs(want[np.isfinite(want)]).max(initial=0))
            wrong = slices[~(off <= allowed * scale)]
            if len(wrong):
                result.refuted[axis] = np.union1d(result.refuted.get(axis, wrong), wrong)

    def conditions(self, region: Region, turn: int, axis: int | None) -> Iterator[tuple[Array, Array]]:
        """How far slices of a result move with what its nodes read and make; then with all that claims follow from.

        To first order a rounding of a tensor moves the result so far, in units of that rounding (Higham, Accuracy and
        Stability of Numerical Algorithms, 2002, chapter 3): farther than its size where terms cancel.
        """
        for times in (_MOVES, _MANY_MOVES):
            yield self._moved(region.boundary, region.source, region.source_reads, turn, axis, times)
            if not region.source_reads.isdisjoint(self.claims):
                whole = self.source.closure(region.boundary.source, self.seen.keys() - self.claims.keys())
                yield self._moved(region.boundary, *whole, turn, axis, times)

    def _moved(
        self, boundary: Boundary, made: Sequence[int], read: Collection[str], turn: int, axis: int | None, times: int
    ) -> tuple[Array, Array]:
        """How far each slice of a boundary moves with what these nodes read and make."""
        name = boundary.source
        nodes = [self.source.nodes[index] for index in made if self.source.nodes[index].op_type != "Constant"]
        inner = {n for node in nodes for n in node.output if n != name}
        floats = {n: self.types[n] for n in sorted(inner.union(read)) if self.types.get(n) in UNIT}
        stored = {n for node in nodes for n in _moving(node)} & self.source.constants.keys()
        weights = {n: self.source.constants[n] for n in sorted(stored) if self.source.constants[n].data_type in FLOATS}
        double = {n for n, tensor in weights.items() if tensor.data_type == TensorProto.DOUBLE}
        floats |= {n: np.dtype(np.float64 if n in double else np.float32) for n in weights}
        moved, each, types = np.zeros(1), np.zeros(1), {n: self.types[n] for n in read}
        if not made or not floats:
            return moved, each
        runs = session(self.source.part(made, types, [name], floats), self.source.folder, self.packs)
        feeds = {f"{n}·": self.fresh(n, turn) for n in types}
        want = np.zeros(0)
        for pattern in range(1 + times):  # the first of none
            rng = np.random.default_rng([pattern, self.seed])
            for n, dtype in floats.items():
                shapes = self.seen[n].shapes if n in self.seen else [tuple(weights[n].dims)]
                shape = shapes[turn % len(shapes)]
                moves = np.sign(_drawn(_NORMAL, rng, math.prod(shape))).astype(np.float64) * (pattern > 0)
                feeds[f"{n}·by"] = (1 + MOVE * UNIT[dtype] * moves).astype(dtype).reshape(shape)
            (array,) = runs.run([name], feeds)
            array = boundary.cut(array).astype(np.float64)
            want = want if pattern else array
            with np.errstate(invalid="ignore"):
                step = np.nan_to_num(np.abs(array - want), posinf=0.0)
            moved = moved + step.max(axis=others(step, axis), initial=0, keepdims=True) ** 2 / times
            each = each + step**2 / times
        unit = MOVE * max(UNIT[dtype] for dtype in floats.values())
        return np.sqrt(moved) / unit, np.sqrt(each) / unit

    def nodes(self, region: Region) -> Iterator[NodeProto]:
        """Those of both sides, but for those that compute with constants alone."""
        for graph, nodes in self.sides(region):
            yield from (graph.nodes[i] for i in nodes if not graph.fixed.issuperset(graph.nodes[i].output))

    def same_constants(self, name: str, other: str) -> bool:
        """Whether initializers of the source and of the compiled model have the same type, sizes and elements."""
        one, two = self.source.constants.get(name), self.compiled.constants.get(other)
        if one is None or two is None or TensorProto.EXTERNAL in (one.data_location, two.data_location):
            return False
        same = one.data_type == two.data_type and one.dims == two.dims
        return same and numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(two).tobytes()

    def proved(self, judged: Mapping[str, Judgement]) -> set[str]:
        """The boundaries that hold by induction over the nodes of both models, in order."""
        regions = {target: self.region(target) for target in judged}
        holding = {name for name in self.seen if name not in self.claims}
        for target in sorted(regions, key=lambda t: self.source.maker.get(regions[t].boundary.source, -1)):
            region = regions[target]
            if region.source and not judged[target].refuted and region.source_reads <= holding:
                holding.add(region.boundary.source)
        done = set(self.compiled.inputs)
        for target in sorted(regions, key=lambda t: self.compiled.maker.get(t, -1)):
            region = regions[target]
            ends = {self.boundaries[name].source for name in region.compiled_reads if name in self.boundaries}
            follows = region.compiled_reads <= done and region.source_reads | ends <= holding
            if judged[target].agrees and follows and not self._may_lose_factors(region):
                done.add(target)
        return done

    def _may_lose_factors(self, region: Region) -> bool:
        """Whether a region makes steps of multiples of what the source has, which few random values show."""
        factors = any(self.boundaries[name].factors for name in region.compiled_reads if name in self.boundaries)
        nodes = ((graph, node) for graph, of in self.sides(region) for node in _nested(graph.nodes[i] for i in of))
        return factors and any(node.op_type in STEPPING or graph.asks(node) for graph, node in nodes)

    def whole(self, done: Collection[str]) -> list[str]:
        """The outputs that are proved to be those of the source, whole."""
        held = {name: self.boundaries[name].source for name in done if self.boundaries[name].whole}
        outputs = self.compiled.outputs
        alike = {name for name in outputs if self.same_constants(name, name) or self._same(name, name, held)}
        return [name for name in outputs if name in alike or held.get(name) == name]

    def _same(self, name: str, other: str, held: Mapping[str, str]) -> bool:
        """Whether one node makes them in both models of what is held, and they are sequences or maps, no tensors."""
        if name in self.seen or name not in self.source.maker or other not in self.compiled.maker:
            return False
        one, two = self.source.nodes[self.source.maker[name]], self.compiled.nodes[self.compiled.maker[other]]
        if self.source.version(one) != self.compiled.version(two) or len(one.input) != len(two.input):
            return False
        # those that are left out, too, and what bodies read
        read = [*map(self.source.copied, [*one.input, *self.source.reads[self.source.maker[name]]])]
        names = [*map(self.compiled.copied, [*two.input, *self.compiled.reads[self.compiled.maker[other]]])]
        alike = (
            a == b == "" or held.get(b) == a or self._same(a, b, held) or self.same_constants(a, b)
            for a, b in zip(read, names, strict=False)
        )
        place = list(one.output).index(name) == list(two.output).index(other) and len(read) == len(names)
        return (
            place and all(alike) and all(getattr(one, f) == getattr(two, f) for f in ("op_type", "domain", "attribute"))
        )


def _moving(node: NodeProto) -> Sequence[str]:
    """What a node reads that may move by a rounding: no sizes, and no exponent, with which a root may be no number."""
    names: Sequence[str] = () if node.op_type in SIZED else node.input
    return names[:1] if node.op_type == "Pow" else names


def _rounding(nodes: Iterable[NodeProto]) -> list[str]:
    return [node.op_type for node in _nested(nodes) if node.op_type not in EXACT]


def _epsilons(nodes: Iterable[NodeProto]) -> set[float]:
    """What normalisations of the standard add to a variance."""
    normal = (n for n in _nested(nodes) if n.op_type.endswith("Normalization") and n.domain in ("", "ai.onnx"))
    return {next((a.f for a in node.attribute if a.name == "epsilon"), EPSILON) for node in normal}


class RefusedError(Exception):
    """A certificate that does not prove that two models are the same function; the message is one sentence."""


def digest(path: Path) -> str:
    """SHA-256 of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoded(document: Mapping[str, Any]) -> Seen:
    """A tensor of a run as a certificate has it: its values, or what others like them are drawn by."""
    shape, dtype = tuple(document["shape"]), np.dtype(document["dtype"])
    if "values" not in document:
        mean, spread, low, high = (float(document[key]) for key in ("mean", "spread", "low", "high"))
        return Seen([shape], dtype, mean, spread, low, high)
    values = document["values"]
    data = values if dtype.kind == "O" else np.frombuffer(zlib.decompress(base64.b64decode(values)), dtype)
    return Seen([shape], dtype, values=[np.asarray(data, dtype).reshape(shape)])


def feeds(inputs: Sequence[Mapping[str, Seen]], seed: int) -> list[dict[str, Array]]:
    """Inputs on which tensors are seen."""
    return [{name: seen.fresh(name, 2 * k, seed) for name, seen in each.items()} for k, each in enumerate(inputs)]


def _checker(source: Graph, compiled: Graph, document: Mapping[str, Any], seed: int | None) -> Checker:
    """The boundaries and claims of a certificate on tensors as they are in runs of the source."""
    seen, claims = dict[str, Seen](), dict[str, Claims]()
    inputs = [{name: decoded(tensor) for name, tensor in each.items()} for each in document["inputs"]]

    def visit(name: str, arrays: list[Array]) -> None:
        seen[name] = Seen.of(arrays)
        still, pairs = document["claims"].get(name, {}), document["dependences"].get(name, {})
        for axis in {**still, **pairs}:
            slices, both = np.array(still.get(axis, ()), np.int64), pairs.get(axis, ())
            claim = Claim.made(arrays, _whole(axis), slices, both)
            indices = {*claim.slices.tolist()}
            if len(indices) < len(claim.slices) or not {of for _, of in both}.isdisjoint(indices):
                raise ValueError(f"slices of '{name}' are claimed twice")
            if min(indices, default=0) < 0:
                raise ValueError(f"a claim on '{name}' counts from the end")
            claims[name] = {**claims.get(name, {}), int(axis): claim}

    stream(source, feeds(inputs, document["seed"]), visit)
    if not all(math.prod(tensor.shapes[0]) for each in inputs for tensor in each.values()):
        raise ValueError("there are inputs of no elements")
    boundaries = {name: Boundary(name) for name in compiled.inputs}
    for name, said in document["boundaries"].items():
        if name in compiled.inputs:
            raise ValueError(f"the input '{name}' is what it is")
        slices = {_whole(axis): np.array(index, np.int64) for axis, index in said.get("slices", {}).items()}
        reads = frozenset(said["reads"]) if "reads" in said else None
        factors = {_whole(axis): np.array(each, np.float64) for axis, each in said.get("factors", {}).items()}
        boundaries[name] = Boundary(said.get("source", name), slices, reads, factors)
    return Checker(source, compiled, boundaries, claims, seen, document["seed"] if seed is None else seed)


def _whole(axis: str) -> int:
    """The number of an axis, which is not counted from the end."""
    if int(axis) < 0:
        raise ValueError(f"{axis} is no axis")
    return int(axis)


def _ends(graph: Graph) -> list[tuple[str, int, list[int]]]:
    """Inputs, with their sizes where these are fixed, and outputs, of which the sizes follow."""
    made = graph.model.graph
    given = [(v.name, v.type.tensor_type) for v in made.input if v.name in graph.inputs]
    inputs = [(name, each.elem_type, [dim.dim_value for dim in each.shape.dim]) for name, each in given]
    return [*inputs, *((v.name, v.type.tensor_type.elem_type, []) for v in made.output)]


def recheck(source: Read, compiled: Read, document: Mapping[str, Any], seed: int | None = None) -> Checker:
    """Prove by what a certificate says, which is believed in nothing, that two models are the same function.

    source, compiled: the models and their files, that of the weights last. seed: of other random values than those of
    the certificate. Raises `RefusedError`.
    """
    if document.get("format") != "maskc certificate" or document.get("version") != VERSION:
        raise RefusedError(f"It is no certificate of version {VERSION}.")
    for what, (_, files) in (("source", source), ("compiled", compiled)):
        if document.get(what) != {"sha256": [digest(path) for path in files]}:
            raise RefusedError(f"It is of another {what} model or other masks: its SHA-256 is not of {files[0].name}.")
    before, after = source[0], compiled[0]
    seed_apart(before.model, after.model)
    if _ends(before) != _ends(after):
        raise RefusedError("The models have other inputs or outputs.")
    try:
        allowed = {name: float(said["allowed"]) for name, said in document["boundaries"].items()}
        checker = _checker(before, after, document, seed)
        made = [name for name in checker.boundaries if name not in after.inputs]
        regions = [checker.region(name) for name in made]
        judged = {region.target: checker.unjudged(region) for region in regions}
        for region in regions:
            checker.run([region], judged)
        done = checker.proved(judged)
    except Exception as error:  # of any kind that ONNX Runtime or numpy have of what was altered
        raise RefusedError(f"What it says cannot be checked ({type(error).__name__}: {error}).") from error
    for name in sorted({*after.choosing(range(len(after.nodes)))} - checker.boundaries.keys()):
        raise RefusedError(f"'{name}' chooses a branch and is no boundary, so that not all branches are compared.")
    for name in sorted(made, key=lambda name: after.maker.get(name, -1)):
        boundary, result, stated = checker.boundaries[name], judged[name], allowed[name]
        for axis, index in result.refuted.items():
            raise RefusedError(f"'{boundary.source}' is not what it is claimed to be: slice {index[0]}, axis {axis}.")
        if not result.agrees:
            at = "" if result.at is None else f" in slice {result.at[1]} of axis {result.at[0]}"
            what = result.why or f"its error is {result.error:.3g} of its scale, above {result.allowed:.3g}"
            raise RefusedError(f"'{name}' is not these slices of '{boundary.source}'{at}: {what}.")
        if not math.isclose(stated, result.allowed, rel_tol=1e-6):
            raise RefusedError(f"An error of {stated:.3g} is stated for '{name}', and {result.allowed:.3g} follows.")
        if name not in done:
            raise RefusedError(f"'{name}' does not follow from what it reads.")
        if name in after.outputs and not result.compared and 0 not in checker.shape(boundary.source):
            raise RefusedError(f"No finite number of '{name}' is compared.")
    unheld = {*document["claims"], *document["dependences"]} - {checker.boundaries[name].source for name in made}
    if missing := [*sorted(unheld), *sorted(set(after.outputs) - set(checker.whole(done)))]:
        raise RefusedError(f"Nothing proves '{missing[0]}'.")
    return checker


def read(path: Path, given: Collection[str] = ()) -> Read:
    """A model and its files. given: inputs whose defaults are overridden."""
    model = onnx.load(path, load_external_data=False)
    places = {e.value for tensor in stored_in(model.graph) for e in tensor.external_data if e.key == "location"}
    return Graph(model, path.parent, given), [path, *(path.parent / place for place in sorted(places))]


def main() -> int:
    """Recheck files; 0 if they are the same function, 1 if that is refused, 2 where there is nothing to check."""
    try:
        source, compiled, certificate = map(Path, sys.argv[1:4])
        document, seed = dict(json.loads(certificate.read_text("utf-8"))), int(sys.argv[4]) if sys.argv[4:] else None
        given = {name for each in document["inputs"] for name in each}
        models = read(source, given), read(compiled, given)
    except Exception as error:  # of any kind that files and arguments have
        print(f"Usage: recheck.py MODEL COMPILED CERTIFICATE [SEED] ({type(error).__name__}: {error})", file=sys.stderr)
        return 2
    try:
        checker = recheck(*models, document, seed)
    except RefusedError as error:
        print(f"Refused: {error}")
        return 1
    regions = len(checker.boundaries) - len(checker.compiled.inputs)
    print(f"Proved: {compiled} is the function of {source}, in {regions} region{'s' * (regions != 1)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
