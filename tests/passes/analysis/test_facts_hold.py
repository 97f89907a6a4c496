"""What the analysis claims of tensors, against their values when random networks run."""

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto

from maskc.frontend.graph_queries import copied
from passes.abstract_values.constant_maps import ConstantMap
from passes.abstract_values.polynomial import Polynomial
from passes.analysis import dataflow
from passes.rewriting import channel_facts
from passes.sizes.prepare import prepared
from tests.double_precision.evaluator import Evaluator, has_double, to_double
from tests.generators.builder import Network
from tests.generators.check import describe
from tests.generators.networks import network
from tests.generators.running import all_sizes, random_feeds

BLOCK = 30


def values(model: ModelProto, names: list[str], net: Network, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """The named tensors for two random inputs."""
    wide = copied(model)
    del wide.graph.output[:]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    run = Evaluator(wide)
    return [dict(zip(names, run(random_feeds(model, seed, sizes, net.ranges)), strict=True)) for seed in range(2)]


def claims(graph: gs.Graph, found: channel_facts.Facts, written: set[str]) -> dict[str, gs.Tensor]:
    """The tensors of the source of which something is known."""
    tensors = {t.name: t for n in graph.nodes for t in n.outputs if t.name in written}
    known = found.constant, found.constant_map, found.infinite, found.bound, found.natural
    return {name: t for name, t in tensors.items() if any(name in of_tensors for of_tensors in known)}


def compare(found: channel_facts.Facts, tensor: gs.Tensor, actual: np.ndarray[Any, Any], sizes: dict[str, int]) -> None:
    """Each known slice has the value that is claimed of it, everywhere, and no element is below its bound."""
    assert not (actual < found.bound.get(tensor.name, -np.inf) - 1e-9).any()
    for axis, natural in found.natural.get(tensor.name, {}).items():
        assert not (np.moveaxis(actual, axis, 0)[natural] < -1e-9).any()
    for axis, infinite in found.infinite.get(tensor.name, {}).items():
        assert (np.moveaxis(actual, axis, 0)[infinite.mask] == -np.inf).all()
    for axis, known in found.constant.get(tensor.name, {}).items():
        slices = np.moveaxis(actual, axis, 0)[known.mask]
        expected = np.broadcast_to(known.value, known.mask.shape)[known.mask]
        expected = expected.reshape([-1] + [1] * (actual.ndim - 1))
        np.testing.assert_allclose(slices, np.broadcast_to(expected, slices.shape), rtol=1e-9, atol=1e-12)
    for axis, pattern in found.constant_map.get(tensor.name, {}).items():
        channels = np.moveaxis(actual, axis, 0)[pattern.mask]
        expected = expanded(pattern, sizes)
        if expected is not None:
            np.testing.assert_allclose(channels, np.broadcast_to(expected, channels.shape), rtol=1e-9, atol=1e-12)


def expanded(pattern: ConstantMap, sizes: dict[str, int]) -> np.ndarray[Any, Any] | None:
    """The maps at these sizes of the graph inputs; None where one is a tensor's inside, or beyond those listed."""
    full = pattern.value[pattern.mask]
    for axis, rows in enumerate(pattern.index, 1):
        if rows is None:
            continue
        places = rows.places
        if rows.course is not None:
            start, counts = Polynomial.of(rows.course.start).at(sizes), np.maximum(rows.sizes, 0)
            if start is None or start > counts.size:
                return None
            before = start - 1
            places = places[counts[:before].sum() :][: counts[before]]
        full = np.take(full, places, axis=axis)
    return full


@pytest.mark.parametrize("first", range(1000, 1150, BLOCK))
def test_known_slices_have_their_values(first: int) -> None:
    compared = 0
    for seed in range(first, first + BLOCK):
        net = network(seed)
        if not net.sharp or not has_double(net.model):
            continue
        model = to_double(net.model)
        graph = prepared(model)
        found = dataflow.analyse(graph)
        outputs = {o for node in model.graph.node for o in node.output[:1]}
        known = claims(graph, found, outputs)
        sizes = all_sizes(model, net.symbols)[-1]
        for run in values(model, list(known), net, sizes) if known else []:
            for name, tensor in known.items():
                try:
                    compare(found, tensor, np.asarray(run[name], np.float64), sizes)
                except AssertionError as error:
                    error.add_note(f"network({seed}), {name}\n{describe(model)}")
                    raise
                compared += 1
    assert compared > BLOCK
