"""Networks of the architectures that people deploy, with masks as a trainer or a pruner places them."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from passes import count, shrink
from tests.generators.architectures import ARCHITECTURES, RESIZABLE, SYMBOLS, build
from tests.generators.builder import Network
from tests.generators.check import check
from tests.generators.exported import EXPORTED
from tests.generators.measure import least_macs, mask_layers
from tests.generators.net import Masks, Net
from tests.generators.running import random_feeds, with_sizes

SIZES = {"N": 1, "H": 8, "W": 8, "T": 6}

# With consistent masks these still compute some masked channels, for the reasons that the report gives.
HOLDERS = {
    "resnext": {"Conv"},  # its groups must stay equal
    "mobilenet": {"Add"},  # a residual sum with a branch that has no mask
    "mobilenet3": {"Add"},
    "vit": {"Reshape"},  # heads of attention must stay equal
    "bert": {"Reshape"},
    "lstm": {"LSTM"},  # units of its state that are masked after it
    "gru": {"GRU", "Reshape"},
    "gpt": {"Reshape"},
    "swin": {"Reshape"},
    "yolo": {"Add"},
    "branching": {"If"},
    "looping": {"Loop", "Mul"},  # and a mask beside what has no shape
    "foreign": {"Trilu", "Mul"},
    "yolo_exported": {"Split"},
    "shufflenet_groups": {"Conv", "Add", "AveragePool"},
}

LARGE = {"bert_exported", "gpt_exported"}
parametrized = pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(a, id=a.__name__, marks=[pytest.mark.slow] if a.__name__ in LARGE else [])
        for a in (*ARCHITECTURES, *EXPORTED)
    ],
)
Architecture = Callable[[Net], None]


def network(net: Net) -> Network:
    return Network(net.model(), net.ranges, SYMBOLS)


@pytest.mark.slow
@parametrized
def test_consistent_masks(architecture: Architecture) -> None:
    """Masks shared by coupled channels: all masked channels go, but for those that a known operator holds."""
    shrunk = check(network(build(architecture, Masks())))
    holders = {held.op for held in shrunk.report.held}
    assert holders <= HOLDERS.get(architecture.__name__, set()), shrunk.report.held
    assert shrunk.report.after.macs < shrunk.report.before.macs or holders


@pytest.mark.slow
@parametrized
def test_independent_masks(architecture: Architecture) -> None:
    check(network(build(architecture, Masks(consistent=False, seed=1))))


@pytest.mark.slow
@pytest.mark.parametrize("consistent", [True, False], ids=["consistent", "independent"])
@pytest.mark.parametrize("architecture", RESIZABLE, ids=lambda a: a.__name__)
def test_images_of_any_size(architecture: Architecture, consistent: bool) -> None:
    """Networks that are written for one size of images also with sizes that are known at run time only."""
    shrunk = check(network(build(architecture, Masks(consistent=consistent, seed=2), symbolic=True)), twice=False)
    assert shrunk.report.after.macs < shrunk.report.before.macs


@pytest.mark.parametrize(
    "architecture",
    [*ARCHITECTURES, *(pytest.param(architecture, marks=pytest.mark.slow) for architecture in EXPORTED)],
    ids=lambda a: a.__name__,
)
def test_without_masks(architecture: Architecture) -> None:
    """Masks of ones leave no trace and cost nothing."""
    net = build(architecture, Masks(keep=1.0))
    shrunk = check(network(net), exact=False, twice=False)
    assert shrunk.report.after.params <= shrunk.report.before.params
    assert not any(
        node.op_type == "Mul" and name.endswith("/mask") for node in shrunk.model.graph.node for name in node.input
    )


@pytest.mark.slow
@parametrized
def test_closed_layers(architecture: Architecture) -> None:
    """One mask after the other removes every channel of its layer."""
    groups = list(build(architecture, Masks()).masks.drawn)
    for group in groups[:2]:
        check(network(build(architecture, Masks(closed=frozenset({group})))), exact=False, twice=False)


@pytest.mark.slow
@parametrized
def test_masks_behind_every_layer(architecture: Architecture) -> None:
    """Independent masks directly behind convolutions and products, where biases make constants of them."""
    net = build(architecture, Masks(keep=1.0))
    masked, kept = mask_layers(with_sizes(net.model(), SIZES), seed=1)
    assert kept
    check(Network(masked, net.ranges))


def test_the_least_work_is_counted() -> None:
    """For a plain perceptron the least work is what is left: masked columns and rows are gone."""
    net = build(ARCHITECTURES[0], Masks(keep=1.0))
    masked, kept = mask_layers(with_sizes(net.model(), {"N": 1}), seed=3)
    feeds = [random_feeds(masked, seed) for seed in range(20)]
    least = least_macs(masked, kept, feeds)
    widths = [12, *[int(k.sum()) for k in kept.values()]]
    assert least == pytest.approx(sum(a * b for a, b in pairwise(widths)), rel=0.05)  # a unit may rest
    assert count(masked).macs >= count(shrink(masked).model).macs >= least
