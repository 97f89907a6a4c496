"""Random networks: what the compiler makes of each is the same function, valid, no larger and explained.

Longer runs: `python -m tests.generators.soak --count 10000 --jobs 2`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.generators.check import adapters_cost, check, describe
from tests.generators.networks import network, random_network
from tests.generators.soak import PRICES

BLOCK = 25


@pytest.mark.parametrize(
    "first", [pytest.param(n, marks=[pytest.mark.slow] if n >= 50 else []) for n in range(0, 250, BLOCK)]
)
def test_seeded_networks(first: int) -> None:
    for seed in range(first, first + BLOCK):
        net = network(seed)
        try:
            with adapters_cost(PRICES[seed % len(PRICES)]):
                check(net)
        except Exception as error:
            error.add_note(f"network({seed})\n{describe(net.model)}")
            raise


DRAWN = settings(
    deadline=None,
    derandomize=True,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


@settings(DRAWN, max_examples=25)
@given(st.randoms(use_true_random=False))
def test_drawn_networks(rng: Random) -> None:
    """Small networks whose every choice hypothesis can shrink."""
    check(random_network(rng, depth=(1, 5)))


@pytest.mark.slow
@settings(DRAWN, max_examples=200)
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
