"""`maskc sweep`."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import Parsed, Without, command
from maskc.cli.output import console, print_error, print_json
from maskc.inspection.options import ReadOptions
from maskc.pruning.options import SweepOptions


def _values(option: str, text: str) -> list[str]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise typer.BadParameter(f"{option} needs values, with commas between.")
    return found


def _shares(text: str) -> list[float]:
    return [shared.share(part) for part in _values("--targets", text)]


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
    options: Annotated[SweepOptions, Parsed("targets", _shares)],
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
    reading: Annotated[ReadOptions, Without("masks")],
    verify: shared.Verify = True,
    jobs: shared.Jobs = None,
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
    from maskc.pruning.sweeps.run import swept

    load(rules or ())
    given = {"align": align, "adapters": adapters, "target": target}
    axes = [
        [(name, parse_align(word) if name == "align" else word) for word in _values(f"--{name}", words)]
        for name, words in given.items()
        if words is not None
    ]
    directory = output or default_output(models[0]).with_suffix("").with_suffix(".sweep")
    policies = [dict(pairs) for pairs in itertools.product(*axes)]
    options = dataclasses.replace(
        options, policies=policies, reading=reading, verify=verify, jobs=jobs, rules=rules or ()
    )
    result = swept(models, directory, options)
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
