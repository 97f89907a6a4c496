"""The options of a training run, readable without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from maskc.inspection.options import option


def _pruning(name: str, default: Any, help: str, metavar: str = "N", min: int = 0) -> Any:
    """An option of pruning, with both spellings of the trainer that these descend from."""
    return option(default, help, f"--pruning.{name}", f"--pruning_{name}", metavar=metavar, min=min)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """A model, its data, how far it is pruned, and where the results go; `pruning_...` is as for `PruningTrainer`."""

    model: str = option(
        ...,
        "The function that builds a model with masks (or package.module:NAME); it is given the feature specification "
        "if it has a parameter. Or a .yaml or .json file that configures a MaskNet, or a .keras file.",
        metavar="FILE.py:NAME",
    )
    features: Path = option(
        ..., "The feature specification, a .yaml or .json file; see docs/trainer.md.", metavar="SPEC"
    )
    data: list[str] = option(..., "TFRecord files to train on, or a pattern; may be repeated.", metavar="FILES")
    output: Path = option(
        ..., "Where checkpoints, summaries and, in `model`, the results go.", "--output", "-o", metavar="DIR"
    )
    validation: list[str] | None = option(None, "TFRecord files to validate on; may be repeated.", metavar="FILES")
    epochs: int = option(1, "Passes over the data.", metavar="N", min=1)
    fine_tune: int = option(0, "Epochs to fine-tune after pruning.", metavar="N", min=0)
    batch_size: int = option(128, "Examples in a batch.", metavar="N", min=1)
    optimizer: str = option("adam", "Keras's name of the optimizer.", metavar="NAME")
    learning_rate: float | None = option(None, "By default that of the optimizer.", metavar="F")
    loss: str = option("binary_crossentropy", "Keras's name of the loss; cross-entropies take logits.", metavar="NAME")
    metrics: list[str] | None = option(
        None,
        "Keras's name of a metric; may be repeated. By default auc or accuracy, as fits the loss.",
        "--metric",
        metavar="NAME",
    )
    pruning_iter: int | None = _pruning(
        "iter",
        None,
        "Updates from one pruned channel to the next. By default a cubic schedule over half of all updates.",
        min=1,
    )
    pruning_burn_in: int = _pruning("burn_in", 0, "Updates before pruning starts.")
    pruning_flops_target: float | None = _pruning(
        "flops_target",
        None,
        "FLOPs per example at which pruning stops; up to 1, a fraction of the FLOPs without masks.",
        metavar="F",
    )
    pruning_decay: float = _pruning(
        "decay",
        0.96,
        "Decay of the moving average of importance scores: 0.96 averages over about 25 updates.",
        metavar="F",
    )
    pruning_shrink_every: int = _pruning(
        "shrink_every", 0, "Updates after which training goes on with the smaller model; 0 for never."
    )
    method: Literal["fisher", "taylor", "magnitude", "random"] = option(
        "fisher", "The importance score that chooses the channel to prune."
    )
    schedule: Literal["auto", "one-shot", "linear", "cubic"] = option(
        "auto", "Prune along a schedule over --ramp updates; auto is cubic, unless --pruning.iter is given."
    )
    ramp: int = option(0, "Updates that a schedule takes; by default half of them.", metavar="N", min=0)
    tie: Literal["auto", "none"] = option("auto", "Prune coupled channels together, or each channel on its own.")
    latency_target: float | None = option(
        None,
        "Instead of FLOPs the predicted milliseconds at which pruning stops; up to 1, a fraction of all without masks.",
        metavar="F",
    )
    target: str = option("any", "The runtime of --latency-target: any, onnxruntime or openvino.", metavar="NAME")
    align_for: str | None = option(None, "The processor of --latency-target; by default this one.", metavar="NAME")
    round_to: int = option(1, "Keep a multiple of N channels in each mask, 8 for phones and GPUs.", metavar="N", min=1)
    teacher: Path | None = option(None, "Distill from this model, for example the unpruned one.", metavar="FILE.keras")
    alpha: float = option(0.5, "The teacher's share of the loss.", metavar="F", min=0, max=1)
    temperature: float = option(2.0, "The temperature of distillation.", metavar="F", min=0)
    patience: int | None = option(
        None,
        "Stop after so many epochs without a better --monitor; they count once the target is reached.",
        metavar="N",
        min=1,
    )
    monitor: str = option("val_loss", "The metric for early stopping.", metavar="NAME")
    shuffle: int = option(10_000, "Size of the shuffle buffer; 0 keeps the order.", metavar="N", min=0)
    seed: int = option(0, "Seed of the weights, the shuffling and random pruning.", metavar="N", min=0, max=2**32 - 1)
    checkpoint_every: int = option(1000, "Updates between checkpoints.", metavar="N", min=1)
    summary_every: int = option(100, "Updates between summaries.", metavar="N", min=1)
    steps_per_execution: int = option(
        1, "Updates per call of the compiled training function; more are faster.", metavar="N", min=1
    )
    devices: int = option(1, "GPUs of this machine to divide each batch over (MirroredStrategy).", metavar="N", min=1)
