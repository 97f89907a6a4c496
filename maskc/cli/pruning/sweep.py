"""`maskc sweep`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import Without, command
from maskc.cli.output import console, print_error, print_json
from maskc.inspection.options import ReadOptions
from maskc.verification.options import Provider


@command()
def sweep(
    models: shared.Models,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The directory to write to. By default beside the model, under its name with .sweep.",
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="0.5,0.25",
            help="Fractions of the model's FLOPs to keep: pruned by --data, or by weight magnitude, which harms more.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="FILE|DIR|FILE.py:FUNCTION", help="Inputs to prune by, as for maskc prune."),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A mask file, as for compile, used as one sparsity level; may be repeated."),
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(metavar="none,auto,measure,8", help="The values of --align to compile each sparsity level with."),
    ] = None,
    adapters: Annotated[
        str | None,
        typer.Option(metavar="auto,always,never", help="The values of --adapters to compile each sparsity level with."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="any,openvino", help="The values of --target to compile each sparsity level with."),
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="A command that measures quality: it has {model} in it and prints a number last."
        ),
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Lower quality is better, as for a loss or an error.")
    ] = False,
    reading: Annotated[ReadOptions, Without("masks")],
    verify: shared.Verify = True,
    provider: Annotated[Provider, typer.Option(help="Where latency is measured.")] = "cpu",
    seconds: Annotated[
        float, typer.Option(metavar="S", help="How long to measure the latency of each model; 0 to skip.")
    ] = 2.0,
    jobs: shared.Jobs = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compile on the Ray cluster at this address; `auto` finds a running one. Needs maskc[ray].",
        ),
    ] = None,
    rules: shared.Rules = None,
    as_json: shared.Json = False,
) -> None:
    """Compile and measure a model at several sparsity levels.

    Each candidate, a sparsity level compiled in one configuration, is compared
    by FLOPs, latency and quality. Sparsity levels come from --targets, from --masks, or from other pruned
    models; all are compared with the first model. Candidates are compiled in
    parallel, then measured one at a time, in turns with the first model. DIR
    gets the models, their masks, sweep.json and sweep.html. Results that are
    there already, for the same input and options, are reused.

    Example: maskc sweep model.onnx --targets 0.5,0.25 --quality "python eval.py {model}"
    """
    from maskc.compilation.compile import default_output
    from maskc.compilation.options import parse_align
    from maskc.frontend.custom_rules import load
    from maskc.pruning.sweeps import run

    load(rules or ())
    given = {"align": align, "adapters": adapters, "target": target}
    axes = [
        [(name, parse_align(word) if name == "align" else word) for word in _values(f"--{name}", words)]
        for name, words in given.items()
        if words is not None
    ]
    directory = output or default_output(models[0]).with_suffix("").with_suffix(".sweep")
    result = run.sweep(
        models,
        directory,
        targets=[] if targets is None else [shared.share(part) for part in _values("--targets", targets)],
        data=data,
        masks=masks or (),
        policies=[dict(pairs) for pairs in itertools.product(*axes)],
        quality=quality,
        lower_is_better=lower_is_better,
        shapes=reading.shapes,
        at=reading.at,
        signature=reading.signature,
        verify=verify,
        provider=provider,
        seconds=seconds,
        jobs=jobs,
        ray=ray,
        rules=rules or (),
    )
    if as_json:
        print_json(result.to_json())
    else:
        from maskc.pruning.sweeps.sweep_report import show

        show(result, console())
        console().print(f"{directory}: sweep.html, sweep.json and the models", markup=False, soft_wrap=True)
    for point in result.points:
        if point.error is not None:
            print_error(f"Error: {point.name}: {point.error}")
    raise typer.Exit(result.exit_code)


def _values(option: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise typer.BadParameter(f"{option} needs values, with commas between.")
    return found
