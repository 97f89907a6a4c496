"""`maskc check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_error, volume
from maskc.cli.shared_options import (
    Adapters,
    At,
    Debug,
    Jobs,
    Json,
    Masks,
    Memory,
    Quiet,
    Rules,
    Shape,
    Timeout,
    Trust,
    Verbose,
)


@app.command(epilog=EXIT_CODES)
def check(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="The models to check; by default all of the baseline."),
    ] = None,
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="The baseline file; see docs/ci.md.")] = Path(
        "flops.json"
    ),
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline again; models named are added to it.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(metavar="F", help="How far FLOPs may rise above the baseline: 0.01 is one percent.")
    ] = 0.0,
    min_reduction: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Fail when FLOPs before divided by FLOPs after is less than this.", show_default=False
        ),
    ] = None,
    jobs: Jobs = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT[=FILE]",
            help=(
                "What to print: table, markdown, junit, github or json. With a file it is written there and the "
                "table still printed; may be repeated."
            ),
            show_default=False,
        ),
    ] = None,
    masks: Masks = None,
    shape: Shape = None,
    at: At = None,
    adapters: Annotated[
        Adapters | None,
        typer.Option(help="With --update: how the models named are compiled, as for compile.", show_default=False),
    ] = None,
    rules: Rules = None,
    trust: Trust = False,
    timeout: Timeout = None,
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compile models again and fail if FLOPs increased.

    Also fails if a masked channel was removed before and is kept now, or if
    outputs no longer match the source.

    The baseline is a file to commit. It records the FLOPs of each model and how
    it is compiled and counted: pass --masks, --shape, --at and --adapters once,
    with --update.

    Examples: maskc check --update models/*.onnx

    maskc check --format github --format junit=check.xml
    """
    from maskc.frontend.input_sizes import parse, parse_at
    from maskc.regression import check as regress
    from maskc.regression import output_formats
    from maskc.regression.findings import Limits

    if not update and (masks or shape or at or adapters):
        raise typer.BadParameter(
            "--masks, --shape, --at and --adapters are kept in the baseline: give them with --update."
        )
    targets = output_formats.targets([*(formats or ()), *(["json"] if as_json else ())], (baseline, *(models or ())))
    limits = Limits(tolerance, min_reduction)
    changed = False
    if update:
        outcomes, changed = regress.update(
            baseline,
            models or (),
            masks=masks,
            shapes=parse(shape or ()),
            at=parse_at(at or ()),
            adapters=adapters.value if adapters else None,
            limits=limits,
            jobs=jobs,
            rules=rules or (),
        )
    else:
        outcomes = regress.check(baseline, models or (), limits=limits, jobs=jobs, rules=rules or ())
    for name, file in targets:
        if file is not None:
            output_formats.write(outcomes, name, file)
        elif name == "table":
            output_formats.show(outcomes, console())
        else:
            sys.stdout.write(output_formats.FORMATS[name](outcomes))
    if volume.quiet:
        for line in output_formats.failures(outcomes):
            print_error(f"Error: {line}")
    elif update:
        print_error(f"{baseline} {'was written' if changed else 'is unchanged'}.")
    raise typer.Exit(regress.exit_code(outcomes))
