"""`maskc explain`."""

from __future__ import annotations

from maskc.cli import shared_options as option
from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_json, warn


@app.command(epilog=EXIT_CODES)
def explain(
    model: option.Model,
    masks: option.Masks = None,
    shape: option.Shape = None,
    signature: option.Signature = None,
    target: option.Targeting = "any",
    adapters: option.Adapting = option.Adapters.auto,
    align: option.Aligning = "auto",
    align_for: option.AlignFor = None,
    rules: option.Rules = None,
    trust: option.Trust = False,
    timeout: option.Timeout = None,
    memory: option.Memory = None,
    as_json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = False,
    debug: option.Debug = False,
) -> None:
    """Show which operators keep masked channels alive, and why.

    Says what to do about it. Takes the options of compile and writes nothing.

    Example: maskc explain model_dir
    """
    from maskc.compilation.compile import explain as run
    from maskc.compilation.options import parse_align
    from maskc.frontend.custom_rules import load
    from maskc.frontend.input_sizes import parse

    load(rules or ())
    result = run(
        model,
        masks,
        shapes=parse(shape or ()),
        signature=signature,
        adapters=adapters.value,
        align=parse_align(align),
        align_for=align_for,
        target=target,
    )
    warn(result.warnings)
    if as_json:
        told = result.to_json()
        print_json({key: told[key] for key in ("model", "channels", "masked", "held", "widths", "notes", "warnings")})
        return
    from maskc.report.terminal import show_explanation

    show_explanation(result.document(), console(), masks=masks is not None)
