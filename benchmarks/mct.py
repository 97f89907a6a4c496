"""Sony's Model Compression Toolkit against maskc on small Keras networks: python -m benchmarks.mct

Six networks (`mct_networks.py`) are trained on scikit-learn's digits, enlarged to 16 × 16. Each tool then prunes the
same weights to a half and to a quarter of the multiply-adds, without training: the toolkit (`mct_peer.py`, with
TensorFlow 2.15 and Keras 2 from PyPI, in `.peers/mct`) by its label-free Hessian scores, at once, and maskc by Fisher
scores, at once and along a cubic schedule, where they are measured again as channels go. What they leave is trained
on by the same code with the same batches. The toolkit takes a memory of weights as its target, not FLOPs, so the one is
looked for that gives the FLOPs. Where it can reach neither share, both prune to one that it can reach as well.

Its default platform keeps channels in groups of 32, which leaves little to choose in networks as small as these. So it
prunes in groups of 8, and maskc leaves at least 8 in each layer; the least that the toolkit reaches with its default is
recorded beside. Its scores are of two images (its own example has one, its default is 32), as they take most of the
time; `--approximations` sets how many.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import mct_networks as networks
from benchmarks import record
from benchmarks.answers import in_brief
from benchmarks.peers import HERE, installed, python_of, version_of
from benchmarks.worker import Worker
from maskc.errors import MaskcError

# The newest toolkit, and the last TensorFlow with Keras 2, which it is written for.
PACKAGES = ("model-compression-toolkit==2.6.1", "tensorflow==2.15.1", "keras==2.15.0", "numpy==1.26.4")
SHARES = (0.5, 0.25)
SECONDS = 1200
BATCH, HELD = 32, 360
GROUP = 8  # the fewest channels of a layer; those of the toolkit go in groups of so many
SCORED, RAMP = 30, 60  # batches before maskc removes channels, and while it does
WAYS: dict[str, dict[str, Any]] = {
    "maskc": {"schedule": "cubic", "ramp": RAMP, "decay": 0.9},
    "maskc, at once": {"schedule": "one-shot"},
}
TRAIN_RATE, TUNE_RATE = 2e-3, 1e-3


def examples(directory: Path, seed: int, steps: int) -> dict[str, Any]:
    """The digits, of which some are held out, and the order in which they are trained on; also written for the peer."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images / 16, np.ones((2, 2)))[..., np.newaxis].astype(np.float32)
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(images))
    held, known = places[:HELD], places[HELD:]

    def order(count: int) -> Any:
        epochs = -(-count * BATCH // len(known))
        rows = np.concatenate([rng.permutation(len(known)) for _ in range(epochs)])
        return rows[: count * BATCH].reshape(count, BATCH)

    (directory / "settings.json").write_text(json.dumps({"tune rate": TUNE_RATE}))
    return {
        "images": images[known],
        "labels": digits.target[known],
        "held": images[held],
        "held_labels": digits.target[held],
        "train": order(steps),
        "tune": order(steps // 2),
        "score": order(SCORED + RAMP + 2),
    }


def pruned(model: Any, share: float, data: dict[str, Any], way: str = "maskc") -> tuple[Any, dict[str, Any]]:
    """What maskc leaves of a model at a share of the FLOPs (0: as few as possible), and what is measured of it."""
    heads = any("MultiHead" in type(layer).__name__ for layer in model.layers)
    import keras

    from maskc.train import PruningOptimizer, prunable, shrink

    masked = prunable(model)
    optimizer = PruningOptimizer(
        "sgd",
        burn_in=SCORED,
        prune_every=1,
        flops_target=share,
        min_channels=1 if heads else GROUP,  # as attention has a mask of four heads
        update_params=False,
        **WAYS[way],
    )
    masked.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rows = data["score"][: SCORED + WAYS[way].get("ramp", 0) + 2].reshape(-1)
    masked.fit(data["images"][rows], data["labels"][rows], batch_size=BATCH, shuffle=False, verbose=0)
    small = shrink(masked)
    expected, found = (networks.logits(made, data["held"]) for made in (masked, small))
    return small, {
        "share": networks.macs(small) / networks.macs(model),
        "widths": networks.sizes(small),
        "error": networks.difference(found, expected),
        "accuracy": networks.accuracy(small, data["held"], data["held_labels"]),
    }


def measured(name: str, seed: int, steps: int, worker: Worker, directory: Path, runs: int) -> dict[str, Any]:
    """One network trained with one seed: what both tools make of it."""
    import keras

    from maskc.train.shrinking.tflite import converted

    keras.utils.set_random_seed(seed)
    data = examples(directory, seed, steps)
    model = networks.network(name)
    networks.train(model, data["images"], data["labels"], data["train"], TRAIN_RATE)
    held, labels = data["held"], data["held_labels"]
    weights = {f"{layer.name}:{k}": weight for layer in model.layers for k, weight in enumerate(layer.get_weights())}
    np.savez(directory / "weights.npz", **weights)
    np.savez(directory / "data.npz", **data, expected=networks.logits(model, held))
    row: dict[str, Any] = {
        "accuracy": networks.accuracy(model, held, labels),
        "macs": networks.macs(model),
        "widths": networks.sizes(model),
    }
    files: dict[str, bytes] = {}

    def theirs(share: float, key: str) -> dict[str, Any]:
        """What the toolkit makes of it, and that trained on."""
        told = worker.ask(f"prune {key} {GROUP} {share}")
        if "failed" in told:
            return told
        if seed == 0:
            worker.ask(f"export {key}")
            files[key] = _tflite(directory / key)
        return told | {"tuned": worker.ask(f"tune {key}")["accuracy"]}

    def ours(share: float, way: str) -> dict[str, Any]:
        """The same of maskc."""
        try:
            small, told = pruned(model, share, data, way)
        except MaskcError as error:
            return {"failed": in_brief(error)}
        if seed == 0 and way == "maskc":
            files[f"maskc-{share}"] = converted(small)
        networks.train(small, data["images"], data["labels"], data["tune"], TUNE_RATE)
        return told | {"tuned": networks.accuracy(small, held, labels)}

    row["twin"] = worker.ask(f"load {directory} {name}")
    row["toolkit, least"] = least = worker.ask(f"prune least {GROUP} 0")
    reached = [share for share in SHARES if least.get("share", 1) < share]
    if not reached and "failed" not in least:
        reached = [round((1 + least["share"]) / 2, 2)]  # where it has something to choose
    # What only maskc reaches is compared with nothing, so one seed of it is enough.
    for share in sorted({*reached, *(SHARES if seed == 0 else ())}, reverse=True):
        if share in reached:
            row[f"toolkit, {share}"] = theirs(share, f"toolkit-{share}")
            row[f"maskc, at once, {share}"] = ours(share, "maskc, at once")
        row[f"maskc, {share}"] = ours(share, "maskc")
    if seed == 0:
        row["toolkit, least, in groups of 32"] = worker.ask("prune least 32 0")
        _, row["maskc, least"] = pruned(model, 0, data)
        files["whole"] = converted(model)
        if "failed" not in worker.ask("export whole"):
            files["whole of Keras 2"] = _tflite(directory / "whole")
        row["latency"] = latency(files, held[:1], runs)
    return row


def _tflite(directory: Path) -> bytes:
    """A SavedModel of Keras 2 converted by the TensorFlow that converts ours."""
    return bytes(tf.lite.TFLiteConverter.from_saved_model(str(directory)).convert())


def latency(files: dict[str, bytes], image: Any, runs: int) -> dict[str, Any]:
    """Milliseconds of each .tflite file on one thread, and times of the whole network over them, in turns."""
    from maskc.train.shrinking.tflite import runner

    calls = {key: partial(runner(file), image=image) for key, file in files.items()}
    times = record.in_turns(calls, runs, warm_ups=10)
    found: dict[str, Any] = {key: {"ms": record.quartiles([1e3 * t for t in series])} for key, series in times.items()}
    for key, series in times.items():
        whole = "whole of Keras 2" if key.startswith("toolkit") else "whole"
        found[key] |= {"bytes": len(files[key]), "speed-up": record.ratios(times[whole], series)}
    return found


def rounds(names: list[str], seeds: list[int]) -> Iterator[tuple[str, int]]:
    """Networks with their seeds, so that what is first complete is the first seed of all."""
    return ((name, seed) for seed in seeds for name in names)


def kept(more: dict[str, Any]) -> dict[str, Any]:
    """The results of a run that was cut off, if it was one with these versions and settings."""
    found = record.read("mct")
    same = all(found.get(key) == value for key, value in more.items())
    return dict(found["results"]) if same else {}


def main() -> None:
    """Measure, and write the record."""
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=networks.NETWORKS, default=list(networks.NETWORKS))
    parser.add_argument("--steps", type=int, default=200, help="of training; half as many are of fine-tuning")
    parser.add_argument("--approximations", type=int, default=2, help="images that the toolkit's scores are of")
    parser.add_argument("--runs", type=int, default=200, help="of .tflite files")
    parser.add_argument("--resume", action="store_true", help="go on where a run was cut off")
    arguments = parser.parse_args()
    reason = installed("mct", *PACKAGES)
    if reason:
        raise SystemExit(f"The Model Compression Toolkit cannot be installed: {reason}")
    names = [package.partition("==")[0] for package in PACKAGES]
    more = {
        "peers": {name: version_of("mct", name) for name in names},
        "settings": {key: getattr(arguments, key) for key in ("steps", "approximations", "runs")},
    }
    results = kept(more) if arguments.resume else {}
    with Worker([python_of("mct"), "-P", HERE / "mct_peer.py", str(arguments.approximations)], SECONDS) as worker:
        for name, seed in rounds(arguments.only, arguments.seeds):
            if str(seed) in results.get(name, {}):
                continue
            with tempfile.TemporaryDirectory() as directory:
                found = measured(name, seed, arguments.steps, worker, Path(directory), arguments.runs)
            results.setdefault(name, {})[str(seed)] = found
            print(f"{name}, seed {seed}: {json.dumps(found)}", flush=True)
            if not arguments.dry:
                record.write("mct", results, **more)


if __name__ == "__main__":
    main()
