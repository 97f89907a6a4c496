"""`maskc compile` to the formats of TensorFlow, which need a Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from maskc.cli.output import console, print_json
from maskc.cli.shared_options import Limits
from maskc.inspection.options import option, options_of

Format = Literal["onnx", "keras", "saved_model", "tflite"]


@dataclass(frozen=True, kw_only=True)
class TensorFlowOptions:
    """Options of the format that is written, and of how a TFLite model stores numbers."""

    format: Format | None = option(
        None,
        "What to write: onnx, keras, saved_model or tflite; by default what the name after -o asks for, else ONNX. The "
        "others need a .keras file, and keep its layers and their names.",
        metavar="FORMAT",
    )
    quantize: Literal["none", "float16", "dynamic", "int8"] | None = option(
        None,
        "Of .tflite: float16 weights, dynamic (weights in 8 bits), or int8 (activations as well, with --data).",
        metavar="HOW",
    )
    data: Path | None = option(
        None, "Examples that int8 measures ranges on, an array for each input.", metavar="FILE.npz"
    )

    def chosen(self, output: Path | None) -> str:
        """The format: the one asked for, or that of the output's name, if the other options are of it."""
        by_name = output.suffix[1:] if output and output.suffix in (".keras", ".tflite") else "onnx"
        format = self.format or by_name
        if format != "tflite" and (self.quantize or self.data):
            raise typer.BadParameter("--quantize and --data are for .tflite.")
        return format


# The options that mean something where no ONNX is written.
_OWN = {"models", "output", "verify", "as_json", "quiet", "verbose", "debug"}
_OWN |= {*options_of(TensorFlowOptions), *options_of(Limits)}


def run(
    context: typer.Context,
    models: Sequence[Path],
    output: Path | None,
    options: TensorFlowOptions,
    *,
    verify: bool,
    as_json: bool,
) -> None:
    """Write the smaller Keras model of one with masks, in one of TensorFlow's formats."""
    format = options.chosen(output)
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in _OWN:
            raise typer.BadParameter(f"{parameter.opts[0]} is for ONNX only, and not for --format {format}.")
    if len(models) > 1 or output is None:
        raise typer.BadParameter(f"--format {format} takes one model, and needs -o with what to write.")
    from maskc.frontend.tensorflow.importing import import_tensorflow

    import_tensorflow()
    from maskc.report.terminal import show_figures
    from maskc.train.shrinking.write import compile_to

    if (options.quantize == "int8") != (options.data is not None):
        raise typer.BadParameter("--quantize int8 needs examples in --data, and nothing else does.")
    found = compile_to(models[0], output, format, verify, options.quantize or "none", options.data)
    if as_json:
        print_json({"model": str(models[0]), "output": str(output), "format": format, **found.to_json()})
        return
    out = console()
    show_figures(models[0], output, found.before, found.after, out)
    if verify:
        out.print("Verified in TensorFlow: the outputs match.")
    if found.run is not None:
        out.print(
            f"In TFLite, one thread: {found.run.before:.3g} ms before, {found.run.after:.3g} ms now; outputs "
            f"within {found.run.error:.1e} of their scale.",
            soft_wrap=True,
        )
