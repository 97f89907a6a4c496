"""MaskNet ranking on MovieLens-100k: TFRecords, `maskc train`, `maskc compile`, `maskc verify`.

Run it with `python docs/examples/movielens.py --target 0.1 --method fisher --seed 0`. It needs `maskc[examples]`.
Whether a user likes a movie (4 stars or 5) is predicted from who the user is, what the movie is and which movies the
user liked last. The last fifth of each user's ratings is held out. The unpruned network is trained once for each seed,
pruned while it goes on training, and distilled from the unpruned one all the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml

from maskc import datasets

HISTORY = 10

SPEC = {
    "features": {
        "user_id": {"kind": "categorical", "size": 944},
        "movie_id": {"kind": "categorical", "size": 1683},
        "liked_before": {"kind": "sequence", "size": 1683, "length": HISTORY},
        "occupation": {"kind": "categorical", "buckets": 64},
        "gender": {"kind": "categorical", "vocabulary": ["F", "M"]},
        "numbers": {"kind": "dense", "shape": [2]},
        "genres": {"kind": "dense", "shape": [19]},
    },
    "label": "liked",
}

BLOCK = {"output_size": 64, "reduction_factor": 2.0, "input_layer_norm": True, "activation": "relu"}
MASKNET = {"mask_blocks": [BLOCK] * 2, "use_parallel": True, "mlp": {"layer_sizes": [64, 1]}, "embedding_size": 16}


def run(
    directory: Path = Path("movielens"),
    target: float = 0.1,
    method: str = "fisher",
    seed: int = 0,
    ratings: int = 100_000,
    epochs: int = 2,
) -> dict[str, dict[str, Any]]:
    """MaskNet ranking on MovieLens-100k: train it, prune it to a share of its FLOPs, compile, verify, print figures."""
    batches = write(directory, ratings)
    trained = figures(train(directory, seed, epochs), "before")
    pruned = prune(directory, target, method, seed, epochs, batches)
    # What `maskc train` did already, once more by hand.
    saved_model, onnx = pruned / "model/saved_model", pruned / "compiled.onnx"
    maskc("compile", saved_model, "-o", onnx)
    maskc("verify", saved_model, onnx, "--min-reduction", 0.99 / target)
    compiled = figures(pruned, "after")
    print(f"{'':<15}{'trained':>12}{'compiled':>12}")
    for name, value in trained.items():
        print(f"{name:<15}{round(value, 4):12,}{round(compiled[name], 4):12,}")
    return {"trained": trained, "compiled": compiled}


def train(directory: Path, seed: int, epochs: int, *more: Any, to: str = "unpruned") -> Path:
    """Runs `maskc train` on the records; with no more arguments it trains without pruning. Returns its directory."""
    result = directory / f"{to}-{seed}"
    # With all its FLOPs as the target nothing is pruned.
    more = more or ("--model", directory / "masknet.yaml", "--pruning.flops_target", 1)
    maskc(
        *("train", "--features", directory / "features.yaml", "--data", directory / "train.tfrecord", *more),
        *("--validation", directory / "held-out.tfrecord", "--batch-size", 256, "--epochs", epochs),
        *("--seed", seed, "-o", result),
    )
    return result


def prune(directory: Path, target: float, method: str, seed: int, epochs: int, batches: int) -> Path:
    """Prunes the network that `train` trained while it goes on training, and fine-tunes what is left."""
    teacher, steps = directory / f"unpruned-{seed}/model/model.keras", epochs * batches
    return train(
        *(directory, seed, epochs, "--model", teacher, "--teacher", teacher, "--fine-tune", 1),
        *("--pruning.flops_target", target, "--pruning.burn_in", steps // 8, "--pruning.decay", 0.99),
        *("--schedule", "cubic", "--ramp", steps * 5 // 8, "--pruning.iter", max(1, steps // 20)),
        *("--learning-rate", 5e-4, "--method", method),
        to=f"{method}-{target}",
    )


def figures(trained: Path, when: str) -> dict[str, Any]:
    """What the manifest of a trained model says."""
    manifest = json.loads((trained / "model/manifest.json").read_text())
    auc = manifest["training"]["metrics"]["val_auc"]
    return {"AUC, held out": auc, "FLOPs": manifest["flops"][when], "parameters": manifest["parameters"][when]}


def write(directory: Path, ratings: int) -> int:
    """Writes the records, their specification and the network's configuration; returns batches in an epoch."""
    from maskc.train import write_records

    training, held_out = split(ratings)
    directory.mkdir(parents=True, exist_ok=True)
    for name, examples in (("train", training), ("held-out", held_out)):
        write_records(directory / f"{name}.tfrecord", examples)
    (directory / "features.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    (directory / "masknet.yaml").write_text(yaml.safe_dump(MASKNET, sort_keys=False))
    return -(-len(training) // 256)


def split(ratings: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ratings in the order of their time: those to train on, and the last fifth of each user's."""
    examples = list(read(ratings))
    users = np.array([example["user_id"] for example in examples])
    last = np.zeros(len(users), bool)
    for user in np.unique(users):
        mine = np.flatnonzero(users == user)
        last[mine[int(0.8 * len(mine)) :]] = True
    return [examples[i] for i in np.flatnonzero(~last)], [examples[i] for i in np.flatnonzero(last)]


def read(ratings: int) -> Iterator[dict[str, Any]]:
    """The examples, each with the movies that the user liked before."""
    table = {name: column[:ratings] for name, column in datasets.movielens().items()}
    liked: dict[int, list[int]] = defaultdict(list)
    for row in range(len(table["rating"])):
        user, movie = int(table["user_id"][row]), int(table["movie_id"][row])
        yield {
            "user_id": user,
            "movie_id": movie,
            "liked_before": liked[user][-HISTORY:],
            "occupation": table["occupation"][row],
            "gender": table["gender"][row],
            "numbers": [table["age"][row] / 40 - 1, (table["year"][row] - 1990) / 10],
            "genres": table["genres"][row],
            "liked": float(table["rating"][row] >= 4),
        }
        if table["rating"][row] >= 4:
            liked[user].append(movie)


def maskc(*arguments: Any) -> None:
    """Runs the command."""
    subprocess.run([sys.executable, "-m", "maskc", *map(str, arguments)], check=True)


if __name__ == "__main__":
    typer.run(run)
