"""What a cubic schedule adds to the time of training: python -m benchmarks.schedules

Two networks are trained by `fit` for 400 updates on noise, as they are under Adam, and as `prunable` makes them under
`PruningOptimizer(Adam)`, which brings them to a fifth of their FLOPs in 40 decisions. The time is that of all of it:
`prunable`, conversion, analysis, the first step and the rest, in a process of its own for each, in turns. Writes
`results/schedules.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks import record

NETWORKS = ("MobileNetV3Small", "MobileNetV2")
WAYS = ("unmasked", "cubic")
STEPS, DECISIONS, SIDE, BATCH, TARGET = 400, 40, 64, 32, 0.2


def train(name: str, way: str) -> dict[str, float]:
    """Train a network one way; the seconds it took and, where it was pruned, its share of the FLOPs."""
    import keras
    import tensorflow as tf

    from maskc.train import PruningOptimizer, prunable

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=(STEPS * BATCH, SIDE, SIDE, 3)).astype(np.float32)
    labels = rng.integers(0, 10, STEPS * BATCH)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(BATCH)
    # Else to free the iterator may wait for the next turn of its thread, 41 or 82 s after the beginning of the epoch.
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = batches.with_options(options)
    begin = time.perf_counter()
    optimizer: Any = keras.optimizers.Adam(1e-4)
    if way == "cubic":
        model = prunable(model)
        every = STEPS // (DECISIONS + 2)
        optimizer = PruningOptimizer(
            optimizer,
            flops_target=TARGET,
            schedule="cubic",
            burn_in=every,
            prune_every=every,
            ramp=every * DECISIONS,
        )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(batches, epochs=1, verbose=0).history
    found = {"seconds": time.perf_counter() - begin}
    if way == "cubic":
        found |= {"flops": float(history["flops"][-1]), "channels": float(history["channels"][-1])}
    return found


def measure(name: str, rounds: int) -> dict[str, Any]:
    """Both ways in turns."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        for way in WAYS if turn % 2 == 0 else reversed(WAYS):
            command = [sys.executable, "-m", "benchmarks.schedules", "--one", name, way]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs[way].append(json.loads(output.splitlines()[-1]))
            print(name, way, runs[way][-1], flush=True)
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs["cubic"], runs["unmasked"], strict=True)]
    return {"network": name, "runs": runs, "ratios": ratios}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help="train once and print what it took")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(train(*options.one)))
        return
    rows = [measure(name, options.rounds) for name in NETWORKS]
    record.write("schedules", rows, updates=STEPS, decisions=DECISIONS)


if __name__ == "__main__":
    main()
