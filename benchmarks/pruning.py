"""Pruning to a fifth of the FLOPs while training, against Torch-Pruning: python -m benchmarks.pruning

MobileNetV2 is trained on 5,000 digits of MNIST, scaled up, and its weights are copied into a twin in PyTorch. maskc
removes one group of mask entries at each update, by Fisher signals; Torch-Pruning removes channels in rounds, by its
group Taylor importance over all layers, once with nothing between rounds, as its README has it, and once with as many
updates as maskc made. Then each is fine-tuned with the same batches, optimizer and learning rate. Accuracies, on a
fifth held out, and FLOPs are those of the ONNX files, maskc's compiled and Torch-Pruning's exported.

Each stage leaves its files and figures in a directory of its seed, so that a run that was cut off goes on where it
was. It writes `results/pruning.json` after each, and pages/benchmarks.md at the end. PyTorch and Torch-Pruning come
from PyPI into `.peers/torch` (6 GB; an environment that has them, a CPU's build say, may stand there before).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import maskc
from benchmarks import page, record
from benchmarks.peers import ENVIRONMENTS, HERE, error, installed, python_of, version_of
from benchmarks.worker import Worker
from maskc import datasets
from maskc.frontend.write_model_files import write_arrays

PACKAGES = ("torch", "torch-pruning", "onnx")
WAYS = ("maskc", "Torch-Pruning", "Torch-Pruning, training on")
SECONDS = 3600
HELD_OUT = 5  # one in so many examples


@dataclass(frozen=True)
class Settings:
    """What is trained and how long; batches in examples, steps in updates."""

    side: int = 96  # pixels, a multiple of 32, so that Keras and PyTorch pad alike
    alpha: float = 1.0  # MobileNetV2's width
    examples: int = 5000
    batch: int = 32  # of training and fine-tuning
    train_steps: int = 300
    train_rate: float = 2e-3  # falls to 0 along a cosine, as that of fine-tuning does
    target: float = 0.2  # of the FLOPs
    prune_batch: int = 4
    prune_every: int = 1
    prune_rate: float = 1e-4
    burn_in: int = 50
    rounds: int = 200  # of Torch-Pruning, to the last channel; the target is met to about what one removes
    round_batches: int = 2  # for its importance, before each round
    tune_steps: int = 100
    tune_rate: float = 1e-3
    momentum: float = 0.9  # of moving means and variances; with Keras's 0.999 they stay behind in so few steps


def prepare(settings: Settings, seed: int, directory: Path) -> None:
    """Write what all stages of a seed go by: settings, examples, and the order in which each phase takes them."""
    plan = asdict(settings)
    file = directory / "plan.json"
    if file.exists():
        if json.loads(file.read_text()) != plan:
            raise SystemExit(f"{directory} has a run with other settings: give another --directory, or remove it.")
        return
    directory.mkdir(parents=True, exist_ok=True)
    images, labels = datasets.mnist()
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: settings.examples]
    known = len(chosen) - len(chosen) // HELD_OUT
    steps = {"train": settings.train_steps, "tune": settings.tune_steps, "prune": 2 * known // settings.prune_batch}
    orders = {
        name: _order(known, settings.prune_batch if name == "prune" else settings.batch, count, rng)
        for name, count in steps.items()
    }
    scaled = _scaled(images[chosen, :, :, 0], settings.side)
    write_arrays(directory / "data.npz", {"images": scaled, "labels": labels[chosen], "known": known} | orders)
    file.write_text(json.dumps(plan, indent=1) + "\n")


def _scaled(images: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Square images from 0 to 1 at another size, by bilinear interpolation between the centres of pixels."""
    old = images.shape[1]
    places = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, np.newaxis] - np.arange(old))).astype(np.float32)
    scaled: NDArray[np.uint8] = np.round(255 * (weights @ images @ weights.T)).astype(np.uint8)
    return scaled


def _order(examples: int, batch: int, steps: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The examples of each batch, `(steps, batch)`: all of them, shuffled, again and again."""
    epochs = -(-steps * batch // examples)
    return np.concatenate([rng.permutation(examples) for _ in range(epochs)])[: steps * batch].reshape(steps, batch)


def measure(settings: Settings, seed: int, directory: Path, save: Callable[[], None], torch: bool = True) -> None:
    """Measure the stages that are missing in `figures.json` of a seed's directory; `save` is called after each."""
    prepare(settings, seed, directory)
    figures = read(directory)

    def stage(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in figures:
            figures[name] = make()
            (directory / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
            print(f"seed {seed}, {name}: {json.dumps(figures[name])}", flush=True)
            save()
        found: dict[str, Any] = figures[name]
        return found

    stage("trained", lambda: trained(settings, seed, directory))
    pruned_here = stage("maskc, pruned", lambda: pruned(settings, seed, directory))
    stage("maskc, tuned", lambda: tuned(settings, seed, directory))
    if not torch:
        return
    with Worker([python_of("torch"), "-P", HERE / "pruning_peer.py", directory], SECONDS) as worker:

        def ask(line: str, file: str) -> dict[str, Any]:
            told = worker.ask(line)
            if "failed" in told:
                raise SystemExit(f"Torch-Pruning, asked to {line}: {told['failed']}")
            return told | judged(directory / f"{file}.onnx", directory)

        stage("twin", lambda: ask("whole", "whole") | {"error": differing(directory)})
        each, most = 0, pruned_here["updates"]
        for way in WAYS[1:]:
            name = way.replace(", ", "-").replace(" ", "-")
            found = stage(f"{way}, pruned", lambda: ask(f"prune {name} {each} {most}", f"{name}-pruned"))  # noqa: B023
            stage(f"{way}, tuned", lambda: ask(f"tune {name}", f"{name}-tuned"))  # noqa: B023
            each = -(-most // found["rounds"])


def collected(settings: Settings, directory: Path) -> dict[str, dict[str, Any]]:
    """The figures of all seeds that were measured with these settings, in this run or before."""
    plans = sorted(directory.glob("seed-*/plan.json"))
    same = [file.parent for file in plans if json.loads(file.read_text()) == asdict(settings)]
    return {found.name.removeprefix("seed-"): read(found) for found in same}


def read(directory: Path) -> dict[str, Any]:
    """The figures of a seed so far, by stage."""
    file = directory / "figures.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


# The stages of maskc


def trained(settings: Settings, seed: int, directory: Path) -> dict[str, Any]:
    """Train the whole network, and store its weights for the twin, in the order of its layers."""
    import keras

    keras.utils.set_random_seed(seed)
    shape = (settings.side, settings.side, 3)
    model = keras.applications.MobileNetV2(
        shape, settings.alpha, weights=None, classes=10, classifier_activation=None, name="mobilenet"
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = settings.momentum
    start = time.perf_counter()
    model.compile(_falling(settings.train_rate, settings.train_steps), _loss())
    model.fit(_batches(directory, "train"), shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    weights = [weight for layer in model.layers for weight in layer.get_weights()]
    np.savez(directory / "trained.npz", **{f"{k:03}": weight for k, weight in enumerate(weights)})
    return {"seconds": seconds} | _stored(model, directory, "trained")


def pruned(settings: Settings, seed: int, directory: Path) -> dict[str, Any]:
    """Prune while training; seconds until the first update is done, and from then on of decisions and of the rest."""
    import keras

    from maskc.train import PruningOptimizer, prunable
    from maskc.train.selection.pruner import Pruner

    keras.utils.set_random_seed(seed)
    model = keras.models.load_model(directory / "trained.keras", compile=False)
    inner = keras.optimizers.Adam(settings.prune_rate)
    optimizer = PruningOptimizer(
        inner, prune_every=settings.prune_every, burn_in=settings.burn_in, flops_target=settings.target
    )
    first: list[float] = []  # when the first update was done, and the FLOPs then

    def ended(batch: int, logs: dict[str, float]) -> None:
        if not first:
            first.extend((time.perf_counter(), logs["flops"]))
            deciding.clear()
        if logs["flops"] <= settings.target * first[1] and optimizer.reached:
            model.stop_training = True

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=ended)
    start = time.perf_counter()
    model = prunable(model)
    model.compile(optimizer, _loss())
    with _clocked(Pruner, Pruner.decide, Pruner.recount) as deciding:
        model.fit(_batches(directory, "prune").repeat(), shuffle=False, callbacks=[callback], verbose=0)
    end = time.perf_counter()
    return {
        "preparing": first[0] - start,
        "training": end - first[0] - sum(deciding),
        "deciding": sum(deciding),
        "updates": int(optimizer.iterations),
        "rounds": len({entry.step for entry in optimizer.history}),
        "entries": len(optimizer.history),
        "entries before": sum(int(layer.mask.shape[0]) for layer in optimizer.masked_layers()),
    } | _stored(model, directory, "maskc-pruned")


def tuned(settings: Settings, seed: int, directory: Path) -> dict[str, Any]:
    """Train what is left."""
    import keras

    from maskc.train import fine_tune

    keras.utils.set_random_seed(seed)
    model = keras.models.load_model(directory / "maskc-pruned.keras", compile=False)
    optimizer = _falling(settings.tune_rate, settings.tune_steps)
    start = time.perf_counter()
    fine_tune(model, lambda _: _batches(directory, "tune"), epochs=1, optimizer=optimizer, loss=_loss())
    return {"seconds": time.perf_counter() - start} | _stored(model, directory, "maskc-tuned")


def _stored(model: Any, directory: Path, name: str) -> dict[str, Any]:
    """Write a model as Keras's file, and compiled; returns what is measured of the latter."""
    model.save(directory / f"{name}.keras")
    maskc.compile(directory / f"{name}.keras", align="none", verify=False).save(directory / f"{name}.onnx")
    return judged(directory / f"{name}.onnx", directory)


def _loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _falling(rate: float, steps: int) -> Any:
    import keras

    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))


def _batches(directory: Path, phase: str) -> Any:
    """The batches of a phase in their order, as a `tf.data.Dataset`."""
    import tensorflow as tf

    with np.load(directory / "data.npz") as data:
        images, labels = tf.constant(data["images"]), tf.constant(data["labels"])
        order = data[phase]

    def batch(rows: Any) -> Any:
        pixels = tf.cast(tf.gather(images, rows), tf.float32) / 127.5 - 1
        return tf.repeat(pixels[..., tf.newaxis], 3, axis=-1), tf.gather(labels, rows)

    return tf.data.Dataset.from_tensor_slices(order).map(batch).prefetch(2)


@contextmanager
def _clocked(owner: type, *methods: Callable[..., Any]) -> Iterator[list[float]]:
    """Collects the seconds of each call of methods of a class."""
    seconds: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                seconds.append(time.perf_counter() - start)

        return call

    with ExitStack() as stack:
        for method in methods:
            stack.enter_context(mock.patch.object(owner, method.__name__, timed(method)))
        yield seconds


# What both are measured by


def judged(file: Path, directory: Path) -> dict[str, Any]:
    """FLOPs of an ONNX file as `maskc flops` has them, and its accuracy on the examples held out."""
    with np.load(directory / "data.npz") as data:
        labels = data["labels"][int(data["known"]) :]
    return {"flops": maskc.flops(file).flops, "accuracy": float(np.mean(logits(file, directory).argmax(-1) == labels))}


def logits(file: Path, directory: Path) -> NDArray[np.float32]:
    """The outputs of an ONNX file for the examples held out, `(examples, 10)`."""
    with np.load(directory / "data.npz") as data:
        held_out = data["images"][int(data["known"]) :]
    session = record.session(str(file), 2)
    given = session.get_inputs()[0]
    axis = 1 if given.shape[1] == 3 else -1
    outputs = []
    for images in np.array_split(held_out, -(-len(held_out) // 50)):
        pixels = np.repeat(np.expand_dims(images.astype(np.float32) / np.float32(127.5) - 1, axis), 3, axis)
        outputs.append(session.run(None, {given.name: pixels})[0])
    return np.concatenate(outputs)


def differing(directory: Path) -> float:
    """The largest difference of the twin's outputs over their scale."""
    ours, its = (logits(directory / f"{name}.onnx", directory) for name in ("trained", "whole"))
    return error([its], [ours])


def main() -> None:
    parser = record.parser(__doc__)
    for field in fields(Settings):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--directory", type=Path, default=ENVIRONMENTS / "pruning", help="where stages leave files")
    parser.add_argument("--dry", action="store_true", help="leave the record and the page as they are")
    arguments = parser.parse_args()
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    reason = installed("torch", *PACKAGES)
    if reason:
        print(f"Torch-Pruning is left out, as it cannot be installed: {reason}")
    peers = {} if reason else {package: version_of("torch", package) for package in PACKAGES}

    def save() -> None:
        if not arguments.dry:
            record.write("pruning", collected(settings, arguments.directory), settings=asdict(settings), peers=peers)

    for seed in arguments.seeds:
        measure(settings, seed, arguments.directory / f"seed-{seed}", save, torch=not reason)
    save()
    if not arguments.dry:
        page.write()


if __name__ == "__main__":
    main()
