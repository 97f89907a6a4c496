"""`maskc train`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_json, warn
from maskc.cli.shared_options import Debug, Json, Quiet, Verbose


class Method(StrEnum):
    """How the importance of a channel is estimated."""

    fisher = "fisher"
    taylor = "taylor"
    magnitude = "magnitude"
    random = "random"


class Schedule(StrEnum):
    """How the number of pruned channels grows."""

    one_shot = "one-shot"
    linear = "linear"
    cubic = "cubic"


class Tie(StrEnum):
    """Whether channels that only go together are pruned together."""

    auto = "auto"
    none = "none"


@app.command(epilog=EXIT_CODES)
def train(
    model: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help=(
                "The function that builds a model with masks (or package.module:NAME); it is given the feature "
                "specification if it has a parameter. Or a .yaml or .json file that configures a MaskNet, or a .keras "
                "file."
            ),
            show_default=False,
        ),
    ],
    features: Annotated[
        Path,
        typer.Option(
            metavar="SPEC",
            help="The feature specification, a .yaml or .json file; see docs/trainer.md.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="FILES", help="TFRecord files to train on, or a pattern; may be repeated."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where checkpoints, summaries and, in `model`, the results go.",
            show_default=False,
        ),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option(metavar="FILES", help="TFRecord files to validate on; may be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the data.")] = 1,
    fine_tune: Annotated[int, typer.Option(metavar="N", min=0, help="Epochs to fine-tune after pruning.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Examples in a batch.")] = 128,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="Keras's name of the optimizer.")] = "adam",
    learning_rate: Annotated[
        float | None, typer.Option(metavar="F", help="By default that of the optimizer.", show_default=False)
    ] = None,
    loss: Annotated[
        str, typer.Option(metavar="NAME", help="Keras's name of the loss; cross-entropies take logits.")
    ] = "binary_crossentropy",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Keras's name of a metric; may be repeated. By default auc or accuracy, as fits the loss.",
            show_default=False,
        ),
    ] = None,
    pruning_iter: Annotated[
        int,
        typer.Option(
            "--pruning.iter", "--pruning_iter", metavar="N", min=1, help="Updates from one pruned channel to the next."
        ),
    ] = 5000,
    pruning_burn_in: Annotated[
        int,
        typer.Option(
            "--pruning.burn_in", "--pruning_burn_in", metavar="N", min=0, help="Updates before pruning starts."
        ),
    ] = 100_000,
    pruning_flops_target: Annotated[
        float,
        typer.Option(
            "--pruning.flops_target",
            "--pruning_flops_target",
            metavar="F",
            min=0,
            help="FLOPs per example at which pruning stops; up to 1, a fraction of the FLOPs without masks.",
        ),
    ] = 250_000,
    pruning_decay: Annotated[
        float,
        typer.Option(
            "--pruning.decay",
            "--pruning_decay",
            metavar="F",
            help="Decay of the moving average of importance scores: 0.9999 averages over about 10,000 updates.",
        ),
    ] = 0.9999,
    pruning_shrink_every: Annotated[
        int,
        typer.Option(
            "--pruning.shrink_every",
            "--pruning_shrink_every",
            metavar="N",
            min=0,
            help="Updates after which training goes on with the smaller model; 0 for never.",
        ),
    ] = 0,
    method: Annotated[
        Method, typer.Option(help="The importance score that chooses the channel to prune.")
    ] = Method.fisher,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="Prune along a schedule over --ramp updates instead of one channel at a time.", show_default=False
        ),
    ] = None,
    ramp: Annotated[int, typer.Option(metavar="N", min=0, help="Updates that a schedule takes.")] = 0,
    tie: Annotated[Tie, typer.Option(help="Prune coupled channels together, or each channel on its own.")] = Tie.auto,
    round_to: Annotated[
        int, typer.Option(metavar="N", min=1, help="Keep a multiple of N channels in each mask, 8 for phones and GPUs.")
    ] = 1,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.keras", help="Distill from this model, for example the unpruned one.", show_default=False
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(metavar="F", min=0, max=1, help="The teacher's share of the loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(metavar="F", min=0, help="The temperature of distillation.")] = 2.0,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop after so many epochs without a better --monitor; they count once the target is reached.",
            show_default=False,
        ),
    ] = None,
    monitor: Annotated[str, typer.Option(metavar="NAME", help="The metric for early stopping.")] = "val_loss",
    shuffle: Annotated[
        int, typer.Option(metavar="N", min=0, help="Size of the shuffle buffer; 0 keeps the order.")
    ] = 10_000,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=2**32 - 1, help="Seed of the weights, the shuffling and random pruning."),
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option(metavar="N", min=1, help="Updates between checkpoints.")] = 1000,
    summary_every: Annotated[int, typer.Option(metavar="N", min=1, help="Updates between summaries.")] = 100,
    steps_per_execution: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Updates per call of the compiled training function; more are faster."),
    ] = 1,
    devices: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="GPUs of this machine to divide each batch over (MirroredStrategy)."),
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Resume an earlier run in the same directory.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train and prune a model on TFRecords, and compile it.

    Run the command again to resume an interrupted run exactly where it was.
    Afterwards OUTPUT/model holds the SavedModel, a .keras file, the compiled
    and verified ONNX model, and a manifest of masks and FLOPs;
    `tensorboard --logdir OUTPUT` shows its progress.

    Example: maskc train --model net.yaml --features spec.yaml --data
    'train-*.tfrecord' -o run --pruning.iter 10 --pruning.burn_in 1000
    --pruning.flops_target 0.1
    """
    from maskc.frontend.tensorflow.importing import import_tensorflow

    import_tensorflow()
    from maskc.train.command import Arguments, show_training
    from maskc.train.command import train as run
    from maskc.train.running.loop import Interrupted

    pruning = {
        "pruning_iter": pruning_iter,
        "pruning_burn_in": pruning_burn_in,
        "pruning_flops_target": pruning_flops_target,
        "pruning_decay": pruning_decay,
        "pruning_shrink_every": pruning_shrink_every,
        "method": method.value,
        "schedule": schedule.value if schedule else None,
        "ramp": ramp,
        "tie": tie.value,
        "round_to": round_to,
        "seed": seed,
    }
    arguments = Arguments(
        model,
        features,
        data,
        output,
        validation=validation or (),
        epochs=epochs,
        fine_tune=fine_tune,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        loss=loss,
        metrics=metric or (),
        teacher=teacher,
        alpha=alpha,
        temperature=temperature,
        patience=patience,
        monitor=monitor,
        shuffle=shuffle,
        seed=seed,
        pruning=pruning,
        checkpoint_every=checkpoint_every,
        summary_every=summary_every,
        steps_per_execution=steps_per_execution,
        devices=devices,
    )
    try:
        result = run(arguments, resume)
    except Interrupted as interrupted:
        without = "" if resume else ", without --no-resume,"
        print(f"Interrupted: the same command{without} goes on from {output}.", file=sys.stderr)
        raise typer.Exit(130) from interrupted
    warn(result.exported.report.warnings)
    if as_json:
        print_json(result.to_json())
    else:
        show_training(result, console())
    if not result.reached:
        print(
            f"Error: Training ended after {result.steps:,} updates, before pruning reached its target. Give more "
            "--epochs, or a smaller --pruning.iter or --pruning.burn_in.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
