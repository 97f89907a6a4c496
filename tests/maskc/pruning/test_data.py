"""Data to prune by: what fits a model, and what is said of what does not."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import maskc
from maskc.errors import InputError, PruningWarning
from maskc.pruning import data as pruning_data
from maskc.pruning.choice import targets
from maskc.pruning.data import data
from tests.maskc.pruning.networks import drawn, gemm, network


class Closed:
    """A list of batches that cannot be read any more."""

    def __iter__(self) -> Any:
        raise ValueError("closed")


def bad(x: Any) -> dict[str, Any]:
    return {"x": x}


BAD: dict[str, tuple[Any, str]] = {
    "another name": ({"z": drawn(8, 6)}, "There is no array 'x' in the data, but 'z'. The model's inputs are 'x'."),
    "another rank": (bad(drawn(8, 6, 1)), r"Input 'x' is of shape \?x6, and in the data it is of shape 8x6x1."),
    "another size": (bad(drawn(8, 5)), r"Input 'x' is of shape \?x6, and in the data it is of shape 8x5."),
    "a number": (bad(3.0), "in the data it is a single number."),
    "NaN": (bad(np.full((8, 6), np.nan, np.float32)), "holds NaN"),
    "infinity": (bad(np.full((8, 6), np.inf, np.float32)), "output 'y' is infinity or NaN on the data"),
    "no samples": (bad(drawn(0, 6)), "is empty"),
    "texts": (bad(np.full((8, 6), "a")), "must be of type float32, and in the data it is of type <U1"),
    "complex numbers": (
        bad(np.ones((8, 6), complex)),
        "must be of type float32, and in the data it is of type complex128",
    ),
    "no batches": ([], "There is nothing in the data: give a sample"),
    "an iterator": (iter([bad(drawn(8, 6))]), "give a function that begins them again"),
    "arrays without names": ([drawn(8, 6)], "dictionaries of arrays"),
    "a function that fails": (lambda: 1 / 0, "failed: "),
    "batches that cannot be read": (Closed(), "the data failed: ValueError: closed"),
    "a function of arrays": (lambda: [drawn(8, 6)], "dictionaries of arrays by input name, as .* gives ndarray"),
    "a function of nothing": (lambda: None, "gives NoneType"),
    "a function that ends Python": (lambda: sys.exit(3), "failed: SystemExit: 3"),
    "a function that gives data once": (iter([[bad(drawn(8, 6))] * 3, []]).__next__, "again at each call"),
    "rows of unequal lengths": (bad([[1, 2], [3]]), "gives for 'x' is no array"),
    "objects": (bad(drawn(8, 6).astype(object)), "must be of type float32, and in the data it is of type object"),
    "what single precision cannot hold": (bad(np.full((8, 6), 1e300)), "has no room for some numbers in the data"),
    "what a model makes nothing of": (
        bad(np.full((80, 6), 3e38, np.float32)),
        "output 'y' is infinity or NaN on the data",
    ),
    "NaN at the end": ([bad(drawn(8, 6))] * 9 + [bad(np.full((8, 6), np.nan))], "holds NaN"),
    "no name": ("", "The data have no name"),
    "no file": ("nowhere.npz", "The data file nowhere.npz does not exist"),
    "another kind of file": (__file__, "Data come from .npz or .npy files"),
    "no function": (f"{__file__}:nothing", "has no function 'nothing'"),
    "no Python": ("nowhere.py:batches", "nowhere.py does not exist"),
    "an empty directory": ("empty", "has no .npz or .npy files"),
    "a damaged file": ("damaged.npz", "cannot be read as arrays"),
}


@pytest.mark.parametrize("case", BAD)
def test_data_that_do_not_fit_are_told(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("damaged.npz").write_bytes(b"PK\x03\x04 and nothing more")
    given, told = BAD[case]
    with pytest.raises(InputError, match=told):
        maskc.prune(gemm(), given, epochs=0)


@pytest.mark.parametrize(
    "given",
    [
        {"x": drawn(80, 6), "label": np.arange(7), "name": None},
        {"x": (9 * drawn(80, 6)).astype(np.int64)},
        lambda: {"x": drawn(80, 6).astype(float).tolist()},
        lambda: itertools.repeat({"x": drawn(80, 6)}),
        drawn(80, 6),
    ],
    ids=["with labels", "of integers", "of lists", "without an end", "of one input"],
)
def test_data_that_fit_are_taken(given: Any) -> None:
    assert not maskc.prune(gemm(), given, flops=0.6, verify=False).alone


def test_a_cache_may_be_empty_and_a_mask_infinite() -> None:
    text = """g (float[n,6] x, float[n,p,6] past, float[n,3] mask) => (float[n,3] y) { at = Constant<value_ints=[1]>()
        t = Unsqueeze(x, at) c = Concat<axis=1>(past, t) s = ReduceSum<keepdims=0>(c, at) h = Gemm(s, first)
        r = Relu(h) l = MatMul(r, second) m = Add(l, mask) y = Softmax(m) }"""
    model = network(text, {"first": drawn(6, 16), "second": drawn(16, 3)})
    masks = np.where(np.arange(3) == np.arange(40)[:, None] % 3, -np.inf, 0).astype(np.float32)
    batches = [{"x": drawn(40, 6, seed=p), "past": drawn(40, p, 6), "mask": masks} for p in (0, 2, 0, 3, 1)]
    assert maskc.prune(model, batches, flops=0.6).report.after.flops


def test_samples_that_do_not_go_together_are_told() -> None:
    text = "g (float[4,6] x) => (float[4,3] y) { h = MatMul(x, first) r = Relu(h) y = MatMul(r, second) }"
    weights = {"first": drawn(6, 16), "second": drawn(16, 3)}
    with pytest.raises(InputError, match="it is of shape 199x6: give a multiple of 4 samples"):
        data({"x": drawn(199, 6)}, network(text, weights))
    text = (
        "g (float[n,6] x, float[n,16] z) => (float[n,3] y) { h = MatMul(x, first) r = Add(h, z) y = MatMul(r, second) }"
    )
    with pytest.raises(InputError, match="how many samples there are in the data: 8 of 'x', 6 of 'z'"):
        data({"x": drawn(8, 6), "z": drawn(6, 16)}, network(text, weights))


def test_epochs_of_data_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_data, "_COUNTED", 1000)
    endless = data(lambda: itertools.repeat(bad(drawn(80, 6))), gemm())
    with pytest.raises(InputError, match=r"go on after 1,000 samples\. Give --minutes"):
        pruning_data.counted(endless.used())
    assert pruning_data.counted(data(bad(drawn(80, 6)), gemm()).used()) == 64
    monkeypatch.setattr(targets.Search, "found", lambda search: pytest.fail("searched"))
    with pytest.raises(InputError, match=r"Give --minutes in place of --epochs"):
        maskc.prune(gemm(), lambda: itertools.repeat(bad(drawn(80, 6))), epochs=1)


def test_long_counting_says_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_data, "_LONG", 0.0)
    with pytest.warns(PruningWarning, match=r"for data without an end, give --minutes") as told:
        pruning_data.counted(data(bad(drawn(80, 6)), gemm()).used())
    assert len(told) == 1


def test_counting_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large samples, two million take days."""
    monkeypatch.setattr(pruning_data, "_LONGEST", 0.05)
    endless = data(lambda: ({"x": x[None]} for x in itertools.cycle(drawn(80, 6))), gemm())
    with pytest.raises(InputError, match=r"go on after [\d,]+ samples and 0 seconds\. Give --minutes in place of"):
        pruning_data.counted(endless.used())


@pytest.mark.parametrize(("count", "alone"), [(7, True), (10, False)])
def test_data_that_go_round_and_round_hold_out_nothing(count: int, alone: bool) -> None:
    """Of seven batches each is used at some time; of ten the same two are held out each time."""
    batches = [{"x": x} for x in drawn(count, 8, 6)]
    assert maskc.prune(gemm(), lambda: itertools.cycle(batches), flops=0.6, verify=False).alone == alone


def test_more_than_a_single_number_is_told() -> None:
    model = network("g (float[n,6] x, float s) => (float[n,6] y) { y = Mul(x, s) }", {})
    with pytest.raises(InputError, match="Input 's' is a single number, and in the data it is of shape 8"):
        data({"x": drawn(8, 6), "s": drawn(8)}, model)


def test_whole_numbers_that_become_floating_point_are_told_once() -> None:
    images = np.arange(80 * 6, dtype=np.uint8).reshape(80, 6)
    with pytest.warns(PruningWarning, match="'x' are whole numbers from 0 to 255, and are taken as float32") as said:
        given = data([{"x": images[:40] % 16}, {"x": images}][::-1], gemm())
        assert len([*given.used()]) > 1
    assert len(said) == 1


@pytest.mark.parametrize(
    ("x", "bias", "told"),
    [
        (np.tile(drawn(1, 6), (80, 1)), 0, "The source makes the same output 'y' of all data that it was measured on"),
        (drawn(2, 6), 0, "The source makes the same output 'y' of all data"),
        (drawn(80, 6), 200, "The source makes the same prediction 'y' of all data"),
        (drawn(80, 6), 0, None),
    ],
    ids=["one sample again and again", "one sample held out", "one class", "classes"],
)
def test_data_that_say_little_are_told(x: Any, bias: float, told: str | None) -> None:
    text = "g (float[n,6] x) => (float[n,3] y) { h = MatMul(x, first) r = Relu(h) y = Gemm(r, second, b) }"
    b = np.array([bias, 0, 0], np.float32)
    pruned = maskc.prune(network(text, {"first": drawn(6, 16), "second": drawn(16, 3), "b": b}), {"x": x}, flops=0.6)
    found = [warning for warning in pruned.report.warnings if warning.startswith("The source makes")]
    assert len(found) == bool(told) and all((told or "") in warning for warning in found)


def test_batches_stay_whole_where_the_first_axis_is_time() -> None:
    """Of which a window needs nine steps, and a part of a batch has eight."""
    text = "g (float[t,4] x) => (float[1,s,1,4] y) { u = Unsqueeze(x, ends) y = Conv(u, k) }"
    model = network(text, {"ends": np.array([0, 1]), "k": drawn(1, 1, 9, 1)})
    given = [{"x": drawn(64 + number, 4)} for number in range(3)]
    assert [len(batch["x"]) for batch in data(given, model).used()] == [64, 66]


def test_data_that_are_shuffled_at_each_call_hold_out_nothing() -> None:
    """And data that are moved a little, as images are to train by, hold out what they should."""
    x, rng = drawn(160, 6), np.random.default_rng(0)
    with pytest.warns(PruningWarning, match="another sample at each call"):
        assert maskc.prune(gemm(), lambda: [{"x": rng.permutation(x)}], flops=0.6, verify=False).alone
    with pytest.warns(PruningWarning, match="another sample at each call"):
        moved = maskc.prune(gemm(), lambda: [{"x": x + rng.normal(0, 0.1, x.shape)}], flops=0.6, verify=False)
    assert not moved.alone


def test_data_that_are_too_large_to_be_squared_make_no_weights() -> None:
    with pytest.warns(PruningWarning, match="is not refitted: what it reads is too large to be squared"):
        result = maskc.prune(gemm(), 1e22 * drawn(80, 6), flops=0.6, verify=False)
    assert all(np.isfinite(numpy_helper.to_array(stored)).all() for stored in result.model.graph.initializer)
