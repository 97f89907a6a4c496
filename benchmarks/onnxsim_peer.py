"""onnxsim's pruning on one network, for benchmarks/pruned_quality.py: python onnxsim_peer.py DIRECTORY.

The directory has `data.npz` and the forms of the network that it may prune. A line `prune FORM SCOPE RANKING NORM
SPARSITY` simplifies the form, as its pruning asks for, and removes channels and heads of attention (`candidate.onnx`);
`tune SECONDS` fine-tunes what was pruned last, by ridge regression of each layer (`ridge.onnx`) and then block by block
with Adam for so long (`blocks.onnx`). All are its own functions. Knows nothing of maskc.
"""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
from answers import serve_methods

BATCH = 8
RANKED = 32  # batches that importance is measured on; it takes one of 8 unless it is told otherwise
TUNED = 32  # batches that blocks are tuned on: what each block gives on all of them is held at once
TRIED = 10  # iterations of a block, to learn how many there is time for


class Peer:
    """The forms of a network, simplified, and what was pruned last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with np.load(directory / "data.npz") as data:
            arrays = dict(data)
        count = len(next(iter(arrays.values()))) // BATCH * BATCH  # it asks for batches that are alike
        self.batches = [{k: v[at : at + BATCH] for k, v in arrays.items()} for at in range(0, count, BATCH)]
        self.form = cache(self._simplified)
        self.ranked_by = self.batches[:RANKED]
        self.pruned: tuple[Any, Any] | None = None

    def _simplified(self, form: str) -> Any:
        """As its pruning asks for, which finds less where biases are in Gemm, with a Reshape before and behind it."""
        gemm = ["fuse_matmul_add_bias_into_gemm", "fuse_matmul_add_bias_into_gemm_batched"]
        return onnxsim.simplify(onnx.load(self.directory / f"{form}.onnx"), skipped_optimizers=gemm)[0]

    def prune(self, form: str, scope: str, ranking: str, norm: str, sparsity: str) -> dict[str, Any]:
        """Channels by their weights alone or by what flows through them, too; each layer's alone or all together."""
        start = time.process_time()
        options: dict[str, Any] = {"sparsity": float(sparsity), "importance_norm": norm}
        everywhere = options | {"global_sparsity": scope == "global"}
        source = self.form(form)
        if ranking == "weights":
            model = onnxsim.apply_structured_pruning(source, **everywhere)
            model = onnxsim.apply_attention_head_pruning(model, **options)
        else:
            model = onnxsim.apply_structured_wanda_pruning(source, self.ranked_by, **everywhere)
            model = onnxsim.apply_attention_head_wanda_pruning(model, self.ranked_by, **options)
        self.pruned = source, model
        onnx.save(model, self.directory / "candidate.onnx")
        return {"seconds": time.process_time() - start}

    def tune(self, seconds: str) -> dict[str, Any]:
        assert self.pruned is not None
        source, pruned = self.pruned
        start = time.process_time()
        model = onnxsim.apply_pruning_finetune(source, pruned, self.batches)
        onnx.save(model, self.directory / "ridge.onnx")
        tuned = time.process_time()
        self._blocks(source, model, TRIED)
        spent = time.process_time() - tuned
        # what is spent whatever the number is counted as if it grew with it, so that it may take less and never more
        left = float(seconds) - spent
        found, blocks = self._blocks(source, model, max(TRIED, int(TRIED * left / spent)))
        onnx.save(found, self.directory / "blocks.onnx")
        failed = sorted({str(block.skipped_reason or "")[:120] for block in blocks} - {""})
        return {"seconds": time.process_time() - start, "ridge seconds": tuned - start, "blocks": failed}

    def _blocks(self, source: Any, model: Any, iterations: int) -> tuple[Any, Any]:
        found: tuple[Any, Any] = onnxsim.apply_block_finetune_all_blocks(
            source,
            model,
            calibration_data=self.batches[:TUNED],
            num_iterations=iterations,
            learning_rate=1e-3,
            batch_size=4 * BATCH,
        )
        return found


if __name__ == "__main__":
    serve_methods(lambda: Peer(Path(sys.argv[1])))
