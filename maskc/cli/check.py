"""`maskc check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from maskc.cli import shared_options as shared
from maskc.cli.command import command
from maskc.cli.output import console, print_error, volume, write
from maskc.inspection.options import ReadOptions


def _tolerance(text: str | float) -> float:
    """A share; one of 100% and more is seldom meant, so it needs the sign."""
    value = shared.share(text)
    if value >= 1 and isinstance(text, str) and not text.endswith("%"):
        raise typer.BadParameter(
            f"{text} is {value:.0%} of the FLOPs: write {text}% or {value / 100:g}, or {value:.0%}"
        )
    return value


@command()
def check(
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL", help="The models to check; by default all of the baseline.")
    ] = None,
    *,
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="The baseline file; see docs/ci.md.")] = Path(
        "flops.json"
    ),
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline again; models named are added to it.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop", help="With --update: models whose files are gone leave the baseline.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(metavar="F", parser=_tolerance, help="How far FLOPs may rise above the baseline, 0.01 or 1%."),
    ] = 0.0,
    min_reduction: Annotated[
        float | None, typer.Option(metavar="F", help="Fail when FLOPs before divided by FLOPs after is less than this.")
    ] = None,
    jobs: shared.Jobs = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT[=FILE]",
            help=(
                "What to print: table, markdown, junit, github or json. With a file it is written there and the "
                "table still printed; may be repeated."
            ),
        ),
    ] = None,
    options: ReadOptions,
    adapters: Annotated[
        Literal["auto", "always", "never"] | None,
        typer.Option(help="With --update: how the models named are compiled, as for compile."),
    ] = None,
    rules: shared.Rules = None,
    as_json: shared.Json = False,
) -> None:
    """Compile models again and fail if FLOPs increased.

    Also fails if a masked channel was removed before and is kept now, or if
    outputs no longer match the source.

    The baseline is a file to commit. It records the FLOPs of each model and how
    it is compiled and counted: pass --masks, --shape, --signature, --at and
    --adapters once, with --update.

    Examples: maskc check --update models/*.onnx

    maskc check --format github --format junit=check.xml
    """
    from maskc.regression import check as regress
    from maskc.regression import output_formats
    from maskc.regression.baseline import read
    from maskc.regression.findings import Limits

    if not update and (options != ReadOptions() or adapters or drop):
        raise typer.BadParameter(
            "--masks, --shape, --signature, --at, --adapters and --drop change the baseline: give them with --update."
        )
    named = models or ()
    if taken := [name for name in named if name.suffix == ".json"]:
        raise typer.BadParameter(f"{taken[0]} is no model: a baseline is given as `--baseline {taken[0]}`.")
    how: dict[str, Any] = {"limits": Limits(tolerance, min_reduction), "jobs": jobs, "rules": rules or ()}
    words = [*(formats or ()), *(["json"] if as_json else ())]
    known = read(baseline).files() if words and baseline.exists() else ()
    masks = () if options.mask_file is None else (options.mask_file,)
    targets = output_formats.targets(words, (baseline, *named, *masks, *known))
    changed = False
    if update:
        outcomes, changed = regress.update(
            baseline,
            named,
            masks=options.mask_file,
            shapes=options.shapes,
            signature=options.signature,
            at=options.at,
            adapters=adapters,
            drop=drop,
            **how,
        )
    else:
        outcomes = regress.check(baseline, named, **how)
    output_formats.write_all(outcomes, targets, console(), write)
    if volume.quiet:
        for line in output_formats.failures(outcomes):
            print_error(f"Error: {line}")
    elif update:
        print_error(f"{baseline} {'was written' if changed else 'is unchanged'}.")
    raise typer.Exit(regress.exit_code(outcomes))
