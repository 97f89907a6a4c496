"""The command `maskc train`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import command
from maskc.cli.output import console, print_json, warn
from maskc.cli.train.options import TrainingOptions


@command(limits=False)
def train(
    options: TrainingOptions,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Resume an earlier run in the same directory.")
    ] = True,
    as_json: shared.Json = False,
) -> None:
    """Train and prune a model on TFRecords, and compile it.

    Run the command again to resume an interrupted run exactly where it was.
    Afterwards OUTPUT/model holds the SavedModel, a .keras file, the compiled
    and verified ONNX model, and a manifest of masks and FLOPs;
    `tensorboard --logdir OUTPUT` shows its progress.

    Example: maskc train --model net.yaml --features spec.yaml --data
    'train-*.tfrecord' -o run --epochs 10 --pruning.flops_target 0.1
    """
    from maskc.frontend.tensorflow.importing import import_tensorflow

    import_tensorflow()
    from maskc.cli.train.run import show_training, summary
    from maskc.cli.train.run import train as run
    from maskc.train.running.loop import Interrupted

    try:
        exported = run(options, resume)
    except Interrupted as interrupted:
        without = "" if resume else ", without --no-resume,"
        print(f"Interrupted: the same command{without} goes on from {options.output}.", file=sys.stderr)
        raise typer.Exit(130) from interrupted
    warn(exported.report.warnings)
    found = summary(exported)
    if as_json:
        print_json(found)
    else:
        show_training(exported, console())
    if not found["reached"]:
        print(
            f"Error: Training ended after {found['steps']:,} updates, before pruning reached its target. Give more "
            "--epochs, or a smaller --pruning.iter or --pruning.burn_in.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
