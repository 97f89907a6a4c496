"""`maskc flops`."""

from __future__ import annotations

from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import console, print_json
from maskc.cli.shared_options import (
    At,
    Debug,
    Json,
    Masks,
    Memory,
    Model,
    Quiet,
    Rules,
    Shape,
    Signature,
    Timeout,
    Trust,
    Verbose,
)


@app.command(epilog=EXIT_CODES)
def flops(
    model: Model,
    masks: Masks = None,
    shape: Shape = None,
    at: At = None,
    signature: Signature = None,
    rules: Rules = None,
    trust: Trust = False,
    timeout: Timeout = None,
    memory: Memory = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Count FLOPs, multiply-accumulates and parameters.

    The sizes that it is counted at are said first; --at counts at others.
    With --masks, the count is that of the model compiled with these masks.

    Example: maskc flops model.onnx
    """
    from maskc.frontend.custom_rules import load
    from maskc.frontend.input_sizes import parse, parse_at
    from maskc.inspection.flops import flops as run

    load(rules or ())
    cost = run(model, masks, shapes=parse(shape or ()), at=parse_at(at or ()), signature=signature)
    if as_json:
        from maskc.results.json_values import plain

        print_json({"model": str(model)} | plain(cost))
        return
    from maskc.report.terminal import show_cost

    show_cost(cost, console())
