"""MaskNet ranking on MovieLens-100k: TFRecords, `maskc train`, `maskc compile`, `maskc verify`.

    python docs/examples/movielens.py --target 0.1 --method fisher --seed 0

Needs `maskc[examples]`. Whether a user likes a movie (4 stars or 5) is predicted from who the user is, what the movie
is and which movies the user liked last. The last fifth of each user's ratings is held out. The unpruned network is
trained once for each seed, pruned while it goes on training, and distilled from the unpruned one all the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

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


def main() -> None:
    """Run the example and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("movielens"), help="where everything goes")
    parser.add_argument("--target", type=float, default=0.1, help="share of the FLOPs to keep")
    parser.add_argument("--method", default="fisher", help="fisher, taylor, magnitude or random")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--ratings", type=int, default=100_000, help="use only so many, the first ones")
    parser.add_argument("--epochs", type=int, default=2, help="of training and of pruning; then one to fine-tune")
    given = parser.parse_args()
    result = run(given.directory, given.target, given.method, given.seed, given.ratings, given.epochs)
    print(f"{'':<20}{'trained':>12}{'compiled':>12}")
    for name in ("AUC, held out", "FLOPs", "parameters"):
        form = "12.4f" if name.startswith("AUC") else "12,d"
        print(f"{name:<20}" + "".join(format(result[column][name], form) for column in ("trained", "compiled")))


def run(
    directory: Path, target: float, method: str = "fisher", seed: int = 0, ratings: int = 100_000, epochs: int = 2
) -> dict[str, dict[str, Any]]:
    """Trains, prunes, compiles and verifies; returns the figures of the unpruned and of the compiled network."""
    directory.mkdir(parents=True, exist_ok=True)
    batches = write(directory, ratings)
    common = [
        *("--features", directory / "features.yaml", "--data", directory / "train.tfrecord"),
        *("--validation", directory / "held-out.tfrecord", "--batch-size", 256, "--seed", seed, "--epochs", epochs),
    ]
    teacher = directory / f"unpruned-{seed}"
    pruned = directory / f"{method}-{target}-{seed}"
    # With all its FLOPs as the target nothing is pruned.
    maskc("train", "--model", directory / "masknet.yaml", *common, "--pruning.flops_target", 1, "-o", teacher)
    steps = epochs * batches
    maskc(
        *("train", "--model", teacher / "model/model.keras", *common, "-o", pruned, "--method", method),
        *("--pruning.flops_target", target, "--pruning.burn_in", steps // 8, "--pruning.decay", 0.99),
        *("--schedule", "cubic", "--ramp", steps * 5 // 8, "--pruning.iter", max(1, steps // 20)),
        *("--learning-rate", 5e-4, "--fine-tune", 1, "--teacher", teacher / "model/model.keras"),
    )
    # What `maskc train` wrote already, once more by hand.
    saved_model, compiled = pruned / "model/saved_model", pruned / "compiled.onnx"
    maskc("compile", saved_model, "-o", compiled)
    maskc("verify", saved_model, compiled, "--min-reduction", 0.99 / target)
    return {"trained": figures(teacher / "model", "before"), "compiled": figures(pruned / "model", "after")}


def figures(model: Path, when: str) -> dict[str, Any]:
    """What the manifest of a trained model says."""
    manifest = json.loads((model / "manifest.json").read_text())
    auc = manifest["training"]["metrics"]["val_auc"]
    return {"AUC, held out": auc, "FLOPs": manifest["flops"][when], "parameters": manifest["parameters"][when]}


def write(directory: Path, ratings: int) -> int:
    """Writes the records, their specification and the network's configuration; returns batches in an epoch."""
    from maskc.train import write_records

    train, held_out = split(ratings)
    write_records(directory / "train.tfrecord", train)
    write_records(directory / "held-out.tfrecord", held_out)
    (directory / "features.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    (directory / "masknet.yaml").write_text(yaml.safe_dump(MASKNET, sort_keys=False))
    return -(-len(train) // 256)


def split(ratings: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ratings in the order of their time: those to train on, and the last fifth of each user's."""
    examples = list(read(ratings))
    users = np.array([example["user_id"] for example in examples])
    last = np.zeros(len(users), bool)
    for user in np.unique(users):
        mine = np.flatnonzero(users == user)
        last[mine[int(0.8 * len(mine)) :]] = True
    train, held_out = ([examples[i] for i in np.flatnonzero(chosen)] for chosen in (~last, last))
    return train, held_out


def read(ratings: int) -> Iterator[dict[str, Any]]:
    """The examples, each with the movies that the user liked before."""
    from maskc import datasets

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
    main()
