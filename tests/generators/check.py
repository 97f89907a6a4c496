"""What must hold between a model and what the compiler made of it.

`check` does everything for one model. Its parts can be called alone:

* `assert_same_function`: both agree to rounding in ONNX Runtime, on the same inputs, at several sizes;
* `assert_exact`: the same in double precision, where a wrong formula cannot hide behind rounding;
* in `form`: `assert_well_formed`, the signature, the validity of the graph, its cost, its size, no rubbish left;
  `assert_explained`, every masked channel that stayed is named in the report.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from maskc.frontend.graph_queries import all_graphs as graphs
from maskc.frontend.graph_queries import copied
from passes import Shrunk, count, shrink
from passes.planning import divide_groups, planner
from tests.double_precision.evaluator import Evaluator, has_double, to_double, widen
from tests.generators.builder import Array, Network
from tests.generators.form import assert_explained, assert_folded, assert_well_formed
from tests.generators.running import CannotRunError, Feeds, Runner, all_sizes, random_feeds

_TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 2e-2}


# -- the function -----------------------------------------------------------------------------------


def _identical(wanted: Any, got: Any) -> bool:
    """Where there are no objects, also NaN is identical to itself."""
    return np.array_equal(wanted, got) or (wanted.dtype != object and wanted.tobytes() == got.tobytes())


def _deviation(a: Array, b: Array) -> float:
    """The largest difference; infinite where one is not finite and the other is, or is another such."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    odd = ~(np.isfinite(a) & np.isfinite(b))
    if odd.any():
        same = (np.isnan(a) & np.isnan(b)) | (a == b)
        if not same[odd].all():
            return float("inf")
        a, b = a[~odd], b[~odd]
    return float(np.abs(a - b).max(initial=0.0))


def _scale(a: Array) -> float:
    a = a.astype(np.float64)
    return float(np.abs(a[np.isfinite(a)]).max(initial=0.0))


def perturbed(model: ModelProto, seed: int) -> ModelProto:
    """The model with every floating-point constant moved by about one unit in its last place."""
    rng = np.random.default_rng(seed)
    copy = copied(model)
    tensors = [t for graph in graphs(copy.graph) for t in graph.initializer]
    tensors += [
        a.t
        for graph in graphs(copy.graph)
        for node in graph.node
        if node.op_type == "Constant"
        for a in node.attribute
        if a.name == "value"
    ]
    for tensor in tensors:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
            array = numpy_helper.to_array(tensor)
            if array.size == 0 or np.isin(array, (0, 1)).all() or tensor.name.startswith("scales"):
                continue  # masks and operands that must stay what they are
            moved = array * (1 + rng.uniform(-1, 1, array.shape) * np.finfo(array.dtype).eps)
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(array.dtype), tensor.name))
    return copy


def _jitter(feeds: Feeds, seed: int) -> Feeds:
    """The inputs moved by about one unit in their last place."""
    rng = np.random.default_rng(seed)
    return {
        name: (x * (1 + rng.uniform(-1, 1, x.shape) * np.finfo(x.dtype).eps)).astype(x.dtype)
        if isinstance(x, np.ndarray) and x.dtype.kind == "f"
        else x
        for name, x in feeds.items()
    }


def assert_same_function(
    reference: ModelProto,
    compiled: ModelProto,
    *,
    symbols: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    samples: int = 2,
    seed: int = 0,
    rtol: float | None = None,
    optimize: bool = True,
    run: Any = Runner,
    cases: Sequence[Feeds] | None = None,
) -> dict[str, float]:
    """Both models give the same outputs on the same random inputs, at every choice of sizes, or on `cases`.

    The error of an output is measured against the output's own scale, the largest magnitude over all runs.
    `rtol` defaults to 1e-5 in single, 2e-2 in half and 1e-10 in double precision. Where the error is larger,
    the limit is raised to ten times the distance that the reference itself moves when its constants and
    inputs are rounded differently, or nothing is rounded.

    Returns the error of each output in units of its scale.

    Raises:
        CannotRunError: the reference does not run, so nothing was compared.
        AssertionError: the outputs differ in number, type, shape or value; the text names the output and the
        graphs.
    """
    cases = cases or [
        random_feeds(reference, seed + 100 * i + k, sizes, ranges)
        for i, sizes in enumerate(all_sizes(reference, symbols or {}))
        for k in range(samples)
    ]
    arguments = {"optimize": optimize} if run is Runner else {}
    as_written = dict.fromkeys(arguments, False)
    try:
        first = run(reference, **(as_written if _loses_windows(reference) else arguments))
        expected = [first(feeds) for feeds in cases]
    except CannotRunError:
        raise
    except Exception:  # ONNX Runtime's own optimisers fail on some valid graphs, and believe any shape that is noted
        arguments = as_written
        first = run(reference, **arguments)
        try:
            expected = [first(feeds) for feeds in cases]
        except Exception as error:
            raise CannotRunError(str(error)) from error
    second = run(compiled, **arguments)
    actual = [second(feeds) for feeds in cases]
    floors: list[float] | None = None
    errors: dict[str, float] = {}
    for k, info in enumerate(reference.graph.output):
        wanted, got = [e[k] for e in expected], [a[k] for a in actual]
        for w, g, feeds in zip(wanted, got, cases, strict=True):
            if not isinstance(w, np.ndarray):
                continue
            where = f"output {info.name} for inputs { {n: np.shape(x) for n, x in feeds.items()} }"
            assert w.dtype == g.dtype, f"{where}: {w.dtype} became {g.dtype}"
            assert w.shape == g.shape, f"{where}: shape {w.shape} became {g.shape}"
        arrays = [pair for w, g in zip(wanted, got, strict=True) for pair in _pairs(w, g)]
        if not arrays or arrays[0][0].dtype.kind not in "fiub":
            assert all(_identical(w, g) for w, g in arrays), f"output {info.name} differs"
            continue
        scale = max(_scale(w) for w, _ in arrays)
        distance = max(_deviation(w, g) for w, g in arrays)
        limit = (rtol or _TOLERANCE.get(arrays[0][0].dtype, 0.0)) * scale if arrays[0][0].dtype.kind == "f" else 0.0
        errors[info.name] = distance / scale if scale else distance
        if distance <= limit:
            continue
        if floors is None:
            floors = _movement(reference, cases, expected, run, arguments)
        limit = max(limit, 10 * floors[k])
        assert distance <= limit, (
            f"output {info.name} differs by {distance:.3g} at a scale of {scale:.3g} "
            f"(the reference moves by {floors[k]:.3g})\n" + describe(reference) + "\nbecame\n" + describe(compiled)
        )
    return errors


def _loses_windows(model: ModelProto) -> bool:
    """Whether ONNX Runtime may merge a Pad into a pooling by `ceil_mode`, and so lose windows."""
    by_ceiling = any(a.name == "ceil_mode" and a.i for node in model.graph.node for a in node.attribute)
    return by_ceiling and any(node.op_type == "Pad" for node in model.graph.node)


def _pairs(wanted: Any, got: Any) -> list[tuple[Array, Array]]:
    """The arrays of an output, several if it is a sequence."""
    if isinstance(wanted, np.ndarray):
        return [(wanted, got)]
    if wanted is None:
        assert got is None
        return []
    assert len(wanted) == len(got), f"a sequence of {len(wanted)} became one of {len(got)}"
    assert all(w.shape == g.shape for w, g in zip(wanted, got, strict=True))
    return list(zip(wanted, got, strict=True))


def _movement(
    reference: ModelProto, cases: Sequence[Feeds], expected: Sequence[Sequence[Any]], run: Any, arguments: Any
) -> list[float]:
    """Per output, how far the reference moves when its constants and inputs are rounded, or nothing is."""
    moves = [0.0 for _ in reference.graph.output]

    def compare(before: Sequence[Any], after: Sequence[Any]) -> None:
        for k, (x, y) in enumerate(zip(before, after, strict=True)):
            if isinstance(x, np.ndarray) and x.dtype.kind in "fiub" and x.shape == y.shape:
                moves[k] = max(moves[k], _deviation(x, y))

    for trial in range(4):
        runner = run(perturbed(reference, trial), **arguments)
        for feeds, before in zip(cases, expected, strict=True):
            compare(before, runner(_jitter(feeds, trial)))
    if run is Runner and has_double(reference):
        with contextlib.suppress(Exception):  # what the reference evaluator lacks
            exact = Evaluator(to_double(reference))
            for feeds, before in zip(cases, expected, strict=True):
                compare(before, exact(widen(feeds)))
    return moves


def assert_exact(model: ModelProto, *, cases: Sequence[Feeds] | None = None, **given: Any) -> bool:
    """The model cast to double and compiled there agrees with itself to 1e-10 in the reference evaluator.

    On the inputs that `assert_same_function` is `given`. False, and nothing checked, if the model has no form in double
    precision.
    """
    if not has_double(model):
        return False
    wide = to_double(model)
    try:
        onnx.checker.check_model(wide, full_check=True)
    except Exception:
        return False
    wide_cases = [widen(feeds) for feeds in cases] if cases else None
    assert_same_function(wide, shrink(wide).model, rtol=1e-10, run=Evaluator, cases=wide_cases, **given)
    return True


@contextlib.contextmanager
def adapters_cost(price: float | None) -> Iterator[None]:
    """Within, moving an element counts as so many FLOPs: few make adapters the rule, many rule them out."""
    with contextlib.ExitStack() as stack:
        for module in (planner, divide_groups) if price is not None else ():
            stack.enter_context(patch.object(module, "flops_per_moved_element", lambda policy: price))
        yield


# -- everything -------------------------------------------------------------------------------------


def check(
    network: Network | ModelProto,
    *,
    samples: int = 1,
    seed: int = 0,
    twice: bool = True,
    exact: bool = True,
    folded: bool = False,
    cases: Sequence[Feeds] | None = None,
    checked: set[bytes] | None = None,
) -> Shrunk:
    """Compiles the model and asserts all that is promised of the result.

    With `folded`, also that nothing computes a constant. `cases` are the inputs to compare
    on; random ones if there are none. Of a result that is among those `checked` only the explanation is looked at.
    """
    if isinstance(network, ModelProto):
        network = Network(network)
    model = network.model
    before = model.SerializeToString(deterministic=True)
    shrunk = shrink(model)
    assert model.SerializeToString(deterministic=True) == before, "the argument was changed"
    written = shrunk.model.SerializeToString(deterministic=True)
    checked = set() if checked is None else checked
    given: dict[str, Any] = {"symbols": network.symbols, "ranges": network.ranges}
    given |= {"samples": samples, "seed": seed, "cases": cases}
    try:
        assert_explained(shrunk.report)
        if written in checked:
            return shrunk
        checked.add(written)
        ran = False
        with contextlib.suppress(CannotRunError):
            assert_same_function(model, shrunk.model, **given)
            ran = True
        if exact and network.sharp:
            ran |= assert_exact(model, **given)
        if not ran:
            raise CannotRunError("nothing here runs the model")
        assert_well_formed(network.honest or model, shrunk.model, all_sizes(model, network.symbols)[0])
        if folded:
            assert_folded(shrunk.model)
        if twice:
            again = shrink(model).model.SerializeToString(deterministic=True)
            assert again == written, "compiled twice, two results"
        for said, model_ in ((shrunk.report.before, model), (shrunk.report.after, shrunk.model)):
            counted = count(model_)
            assert (said.flops, said.macs, said.params) == (counted.flops, counted.macs, counted.params), "wrong cost"
    except AssertionError as error:
        text = str(error)
        if "\nbecame\n" not in text:
            text += "\n" + describe(model) + "\nbecame\n" + describe(shrunk.model)
        raise AssertionError(text) from error
    return shrunk


# -- reading a graph --------------------------------------------------------------------------------


def describe(model: ModelProto) -> str:
    """The graph with all inferred shapes in ONNX's textual syntax, as tests write one; large weights without values."""
    with contextlib.suppress(Exception):
        model = onnx.shape_inference.infer_shapes(model)
    copy = copied(model)
    for graph in graphs(copy.graph):
        for tensor in graph.initializer:
            if math.prod(tensor.dims) > 8:
                tensor.ClearField("raw_data")
                tensor.data_location = TensorProto.EXTERNAL
    return onnx.printer.to_text(copy)
