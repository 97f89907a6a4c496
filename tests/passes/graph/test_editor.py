"""The graph editor: where new nodes are put, under which names, and who else sees a tensor."""

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.editor import GraphEditor, become, erase, erase_keeping_input, erase_keeping_output
from passes.model.onnx_to_graph import imported
from tests.passes.text import model


def _graph(body: str) -> gs.Graph:
    return imported(model("(float[2] x) => (float[2] y)", body))


def _ops(graph: gs.Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def test_new_nodes_are_in_their_places_once_it_is_finished() -> None:
    graph = _graph("a = Relu(x)\n y = Neg(a)")
    relu, neg = graph.nodes
    editor = GraphEditor(graph)
    last = editor.emit("Exp", [relu.outputs[0]], editor.variable("e"), "e", after=relu)
    editor.emit("Abs", [last], editor.variable("f"), "f", after=relu)
    editor.emit("Cos", [relu.outputs[0]], editor.variable("c"), "c", before=last.inputs[0])
    editor.emit("Sin", [graph.inputs[0]], editor.variable("s"), "s", after=editor.start)
    editor.emit("Tan", [neg.outputs[0]], editor.variable("t"), "t")
    editor.emit("Log", [relu.outputs[0]], editor.variable("l"), "l", before=neg)
    assert _ops(graph) == ["Relu", "Neg"]
    editor.finish()
    assert _ops(graph) == ["Sin", "Relu", "Cos", "Exp", "Abs", "Log", "Neg", "Tan"]
    editor.finish()
    assert len(graph.nodes) == 8


def test_erased_nodes_are_left_out() -> None:
    graph = _graph("a = Relu(x)\n b = Neg(a)\n c = Abs(b)\n y = Exp(c)")
    relu, neg, absolute, exp = graph.nodes
    erase_keeping_input(neg, relu.outputs[0])
    assert [t.name for t in absolute.inputs] == ["a"]
    erase_keeping_output(absolute, relu.outputs[0])
    assert [t.name for t in relu.outputs] == [t.name for t in exp.inputs] == ["c"]
    erase(relu)
    GraphEditor(graph).finish()
    assert _ops(graph) == ["Exp"]


def test_names_are_new() -> None:
    editor = GraphEditor(_graph("a = Relu(x)\n y = Neg(a)"))
    assert editor.constant("a", np.zeros(2)).name == "a_1"
    assert editor.ints("a", [1]).name == "a_2"
    assert editor.variable("b").name == "b"


def test_sole_readers_and_producers() -> None:
    graph = _graph("a = Relu(x)\n b = Neg(a)\n y = Add(b, b)")
    relu, neg, _ = graph.nodes
    editor = GraphEditor(graph)
    assert editor.sole_reader(relu.outputs[0]) is neg
    assert editor.sole_producer(relu.outputs[0]) is relu
    assert editor.sole_producer(neg.outputs[0]) is None  # read twice
    assert editor.sole_reader(graph.outputs[0]) is None  # seen outside
    assert editor.sole_producer(graph.inputs[0]) is None


def test_a_subgraph_sees_a_tensor() -> None:
    branches = "then_branch = t () => (float[2] p) { p = Neg(a) }, else_branch = e () => (float[2] q) { q = Exp(a) }"
    graph = imported(
        model("(float[2] x, bool f) => (float[2] y)", f"a = Relu(x)\n b = If(f) <{branches}>\n y = Neg(b)")
    )
    editor = GraphEditor(graph)
    assert editor.sole_producer(graph.nodes[0].outputs[0]) is None
    assert editor.sole_producer(graph.nodes[1].outputs[0]) is graph.nodes[1]


def test_a_node_becomes_one_of_the_standard() -> None:
    graph = _graph("a = Relu(x)\n y = Neg(a)")
    graph.nodes[0].domain = "com.example"
    become(graph.nodes[0], "LeakyRelu", [graph.inputs[0]], {"alpha": 0.5})
    assert (graph.nodes[0].op, graph.nodes[0].domain, graph.nodes[0].attrs) == ("LeakyRelu", None, {"alpha": 0.5})
