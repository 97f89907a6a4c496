"""Random networks: what the compiler makes of each is the same function, valid, no larger and explained."""

import contextlib
import os
import subprocess
import sys
from random import Random
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.pipeline import order
from passes.sizes.prepare import checked
from tests.generators.check import CannotRunError, adapters_cost, assert_same_function, check, describe
from tests.generators.networks import network, random_network

BLOCK = 25
PRICES = (None, 0.01, None, 1e9, 4.0)  # of an adapter's element, by seed: as measured, hardly any, prohibitive


def blocks(slow: int, release: int, last: int, size: int = BLOCK) -> list[Any]:
    """The first seed of each block, slow and for releases from these numbers on."""
    marked = (
        (n, ["slow"] if slow <= n < release else ["release"] if n >= release else []) for n in range(0, last, size)
    )
    return [pytest.param(n, marks=[getattr(pytest.mark, name) for name in names]) for n, names in marked]


@pytest.mark.parametrize("first", blocks(50, 150, 10_000))
def test_seeded_networks(first: int) -> None:
    for seed in range(first, first + BLOCK):
        net = network(seed)
        try:
            with adapters_cost(PRICES[seed % len(PRICES)]):
                check(net, folded=True)
        except Exception as error:
            error.add_note(f"network({seed})\n{describe(net.model)}")
            raise


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.slow] if n >= 50 else []) for n in range(200)])
def test_networks_of_which_not_all_sizes_are_known(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before opset 13, where onnx loses what is computed of sizes: fewer channels go, and nothing else changes."""
    net, rng = network(seed), Random(seed)

    def forgetful(model: onnx.ModelProto) -> gs.Graph:
        graph = checked(model)
        outputs = {id(t) for t in graph.outputs}
        inner = (t for node in graph.nodes for t in node.outputs if t.shape is not None and id(t) not in outputs)
        for number, tensor in enumerate(inner):
            forgotten = [rng.random() < (0.03, 0.1, 0.3)[seed % 3] for _ in tensor.shape]
            tensor.shape = [f"unk__{number}_{a}" if f else tensor.shape[a] for a, f in enumerate(forgotten)]
        return graph

    monkeypatch.setattr(order, "checked", forgetful)
    with contextlib.suppress(CannotRunError):
        assert_same_function(net.model, order.shrink(net.model).model, symbols=net.symbols, ranges=net.ranges)


DRAWN = settings(
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@settings(DRAWN, max_examples=8)
@given(st.randoms(use_true_random=False))
def test_drawn_networks(rng: Random) -> None:
    """Small networks whose every choice hypothesis can shrink."""
    check(random_network(rng, depth=(1, 5)))


@pytest.mark.slow
@settings(DRAWN, max_examples=100)
@given(st.randoms(use_true_random=False))
def test_many_drawn_networks(rng: Random) -> None:
    check(random_network(rng, depth=(1, 5)))


_PRINT_DIGESTS = """
import hashlib
from passes import shrink
from tests.generators.networks import network
for seed in range(12):
    print(hashlib.sha256(shrink(network(seed).model).model.SerializeToString(deterministic=True)).hexdigest())
"""


def test_same_bytes_in_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing in the result depends on the order that sets and dictionaries of strings happen to have."""
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGESTS], env=environment, capture_output=True, text=True, check=True
    )
    exec(_PRINT_DIGESTS, {})
    assert done.stdout == capsys.readouterr().out
    assert len(done.stdout.split()) == 12
