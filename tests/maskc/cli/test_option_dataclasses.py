"""Options of the command line, which are made of the fields of dataclasses."""

from dataclasses import fields

import pytest
import typer

from maskc.cli import app
from maskc.compilation.options import CompileOptions
from maskc.inspection.option_fields import options_of
from maskc.inspection.options import ReadOptions
from maskc.verification.options import VerifyOptions
from passes.adapters.placement import POLICIES
from passes.targets import registry
from tests.maskc.command import maskc, refused

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "kind", "left_out"),
    [
        ("compile", CompileOptions, set()),
        ("explain", CompileOptions, {"at", "align_seconds"}),
        ("verify", ReadOptions, set()),
        ("verify", VerifyOptions, set()),
        ("flops", ReadOptions, set()),
        ("diff", ReadOptions, {"masks"}),
        ("check", ReadOptions, {"signature"}),
    ],
)
def test_each_field_is_an_option_with_its_help_and_default(command: str, kind: type, left_out: set[str]) -> None:
    given = {parameter.name: parameter for parameter in COMMANDS[command].params}
    options = options_of(kind)
    assert options.keys() <= {field.name for field in fields(kind)}
    for name, option in options.items():
        assert (name in given) == (name not in left_out)
        if name in given:
            assert (given[name].help, given[name].default) == (option.help, option.default)


def test_words_that_are_written_twice_are_those_of_the_compiler() -> None:
    """The command line does not import the compiler to show its help."""
    assert CompileOptions().target == registry.DEFAULT
    shown = maskc("compile", "--help").stdout
    assert f"--adapters <{'|'.join(POLICIES)}>" in shown


def test_values_are_parsed_before_the_command_runs() -> None:
    refused(maskc("compile", "nowhere.onnx", "--align", "wide"), 2, "align", "wide")
    refused(maskc("flops", "nowhere.onnx", "--shape", "x"), 2, "NAME=1x3x224x224")
    refused(maskc("flops", "nowhere.onnx", "--at", "x=n"), 2, "must be numbers")
