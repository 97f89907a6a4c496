"""The page benchmarks/pages/benchmarks.md, made of the records: python -m benchmarks.page."""

from __future__ import annotations

from benchmarks import record
from benchmarks.marks import PAGES
from benchmarks.sections import compiled_models, correctness, pruned_models

PAGE = PAGES / "benchmarks.md"
HEAD = """# Benchmarks

Written by `make bench` from the records in `benchmarks/results`. Figures are medians with quartiles; ratios were
measured in one run, in turns. See also [compile time](performance.md), [channel counts](benchmarks-widths.md) and
[quality against FLOPs](quality.md).
"""
PARTS = (
    ("dense", compiled_models.dense),
    ("speedup", compiled_models.speedup),
    ("peers", compiled_models.onnxslim),
    ("peers", compiled_models.peers),
    ("torch_pruning", pruned_models.torch_pruning),
    ("pruning", pruned_models.pruning),
    ("tf2onnx", compiled_models.tf2onnx),
    ("overhead", pruned_models.overhead),
    ("schedules", pruned_models.schedules),
    ("shrinking", pruned_models.shrinking),
    ("shrinking-training", pruned_models.shrinking_training),
    ("mct", pruned_models.mct),
    ("cuda", compiled_models.cuda),
    ("compiled", compiled_models.compiled),
    ("mutations", correctness.mutations),
    ("robustness", correctness.robustness),
    ("interruptions", correctness.interruptions),
)


def write() -> None:
    """Write the page anew, with the parts for which there is a record."""
    parts = [make(found) for name, make in PARTS if (found := record.read(name))]
    PAGE.write_text("\n".join([HEAD, *parts]) if parts else HEAD + "\nNothing is recorded yet.\n")
    if dense := record.read("dense"):
        compiled_models.PICTURE.write_text(compiled_models.bars(dense["results"]))


if __name__ == "__main__":
    write()
