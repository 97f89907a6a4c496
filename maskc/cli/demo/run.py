"""Demonstration on real data: train with masks, prune, compile, verify, measure.

Importing this package is cheap; TensorFlow and scikit-learn are imported by `run`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from maskc import progress
from maskc.errors import NotEquivalentError

if TYPE_CHECKING:
    from maskc.runtime.session import Session

TIMED_BATCH = 64
TIMED_RUNS = 200


@dataclass(frozen=True)
class DemoFigures:
    """Accuracy is a share, size in bytes, latency in milliseconds for `TIMED_BATCH` images, median of many runs."""

    accuracy: float
    flops: int
    params: int
    bytes: int
    latency: float


@dataclass(frozen=True)
class Demo:
    """The figures of one run.

    `trained` is the network before pruning, `masked` the pruned network as TensorFlow exports it, `compiled`
    what maskc makes of that; each was measured on an ONNX file. `optimizer_flops` are the FLOPs that the
    optimizer reported at its last pruning step. `model` is the SavedModel of the pruned network,
    `compiled_model` the file compiled from it.
    """

    trained: DemoFigures
    masked: DemoFigures
    compiled: DemoFigures
    optimizer_flops: int
    seconds: float
    model: Path
    compiled_model: Path


def run(directory: str | Path, seed: int = 0) -> Demo:
    """Trains, prunes, compiles, verifies and times a small residual network on handwritten digits.

    The models go into `directory`, which is made if it is missing, in place of those of an earlier run. `seed` is that
    of the weights, the batches, and the split into training and held-out data.

    Raises:
        NotEquivalentError: if the compiled model is not the same function as TensorFlow's, or has other FLOPs
            than the optimizer reported.
        UnavailableError: if TensorFlow, tf2onnx or scikit-learn is not installed.
    """
    began = time.perf_counter()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with progress.stage("Starting TensorFlow"):
        from maskc.frontend.tensorflow.importing import import_tensorflow

        import_tensorflow()
    from maskc import compile, verify
    from maskc.cli.demo.network import load_digits, prune, train
    from maskc.frontend import write_model_files
    from maskc.frontend.tensorflow.keras import to_onnx

    files = {name: directory / f"{name}.onnx" for name in ("trained", "masked", "compiled")}
    exported = directory / "model"
    digits = load_digits(seed)
    model = train(digits, seed)
    write_model_files.write_model(to_onnx(model), files["trained"])
    optimizer = prune(model, digits)
    model.export(exported, verbose=False)
    write_model_files.write_model(to_onnx(model), files["masked"])

    compile(exported, align="none", verify=False).save(files["compiled"])
    verify(exported, files["compiled"], seed=seed).raise_if_failed()
    figures = measure(files, *digits.held_out)
    if optimizer.flops != figures["compiled"].flops:
        raise NotEquivalentError(
            f"The compiled file has {figures['compiled'].flops:,} FLOPs, and the optimizer reported "
            f"{optimizer.flops:,} at its last pruning step."
        )
    return Demo(
        **figures,
        optimizer_flops=optimizer.flops,
        seconds=time.perf_counter() - began,
        model=exported,
        compiled_model=files["compiled"],
    )


@progress.stage("Measuring")
def measure(
    files: Mapping[str, Path], images: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, DemoFigures]:
    """Measures each of the ONNX files on the same images, in ONNX Runtime on the CPU.

    The files take turns in being timed, so that whatever else the machine does meets all of them alike.
    """
    import onnx

    from maskc import flops
    from maskc.runtime.latency import in_turns
    from maskc.runtime.onnxruntime_session import OnnxRuntimeSession

    predictors = {}
    for name, path in files.items():
        model = onnx.load(path)
        predictors[name] = partial(_scores, OnnxRuntimeSession(model), model.graph.input[0].name)
    runs = [partial(predict, images[:TIMED_BATCH]) for predict in predictors.values()]
    times = in_turns(runs, seconds=0, least=TIMED_RUNS)
    figures = {}
    for (name, path), latency in zip(files.items(), np.median(times, axis=0), strict=True):
        cost = flops(path)
        figures[name] = DemoFigures(
            accuracy=float(np.mean(predictors[name](images).argmax(axis=1) == labels)),
            flops=cost.flops,
            params=cost.params,
            bytes=path.stat().st_size,
            latency=float(latency),
        )
    return figures


def _scores(session: Session, given: str, images: NDArray[np.float32]) -> NDArray[Any]:
    (scores,) = session.run({given: images}).values()
    return scores


def show(demo: Demo, console: Console) -> None:
    """Print what was gained."""
    console.print(_table(demo))
    console.print(
        "The compiled model computes what TensorFlow computes, with exactly the "
        f"{demo.optimizer_flops:,} FLOPs that the optimizer reported when it stopped pruning."
    )
    console.print(f"It is in {demo.compiled_model}; the demo took {demo.seconds:.0f} s.")


def _table(demo: Demo) -> Table:
    table = Table(title="Handwritten digits, before and after")
    for heading in ("", "trained", "pruned", "compiled", "change"):
        table.add_column(heading, justify="right" if heading else "left")
    columns = (demo.trained, demo.masked, demo.compiled)
    change = 100 * (demo.compiled.accuracy - demo.trained.accuracy)
    table.add_row("accuracy, held out", *(f"{c.accuracy:.2%}" for c in columns), f"{change:+.2f} points")
    for label, field, form in (
        ("FLOPs per image", "flops", ",.0f"),
        ("parameters", "params", ",.0f"),
        ("file size, bytes", "bytes", ",.0f"),
        (f"latency of {TIMED_BATCH}, ms", "latency", ".2f"),
    ):
        values = [float(getattr(column, field)) for column in columns]
        table.add_row(label, *(format(value, form) for value in values), f"÷ {values[0] / values[2]:.1f}")
    return table
