"""`maskc flops`."""

from __future__ import annotations

from maskc.cli import shared_options as shared
from maskc.cli.command import command
from maskc.cli.output import console, print_json
from maskc.inspection.options import ReadOptions


@command(rules=True)
def flops(model: shared.Model, options: ReadOptions, as_json: shared.Json = False) -> None:
    """Count FLOPs, multiply-accumulates and parameters.

    Prints the input sizes used for counting first; --at counts at others.
    With --masks, the count is that of the model compiled with these masks.

    Example: maskc flops model.onnx
    """
    from maskc.inspection.flops import flops as run

    cost = run(model, options.masks, shapes=options.shapes, at=options.at, signature=options.signature)
    if as_json:
        from maskc.results.json_values import plain

        print_json({"model": str(model)} | plain(cost))
        return
    from maskc.report.terminal import show_cost

    show_cost(cost, console())
