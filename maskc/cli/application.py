"""Entry point of the command line: error messages, exit codes, `--version`."""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from maskc import progress
from maskc.cli import supervision
from maskc.cli.output import print_error, print_json, volume, warn
from maskc.cli.shared_options import Debug, Quiet, Verbose
from maskc.cli.standard_streams import outlived
from maskc.compilation.signal_handling import unwinding
from maskc.errors import FaultError, InputError, InstallationWarning, MaskcError, PruningWarning, StoppedError, telling
from maskc.report.bars import ProgressBars

EXIT_CODES = (
    "Exit codes: 0 success; 1 a check failed (outputs differ, FLOPs rose, or the reduction is less than asked for); "
    "2 invalid input or arguments; 3 a required package or device is missing; "
    "4 verify is inconclusive: a difference might not show; 5 maskc failed unexpectedly, or crashed; "
    "6 --timeout or --memory was exceeded."
)


class _Command(TyperGroup):
    """The command group, ending with a plain sentence and the contract's exit code whatever happens."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, whose help calls arguments by their names and not by their types in Python."""
        command = super().get_command(ctx, cmd_name)
        for parameter in command.params if command is not None else ():
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None  # type: ignore[attr-defined]
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named; the name of a file in its place is told apart from a slip of the pen."""
        if args[0] not in self.commands and Path(args[0]).exists():
            raise typer.BadParameter(f"'{args[0]}' is no command. Did you mean `maskc compile {args[0]}`?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C is told as errors are, and other signals by who supervises this process."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise StoppedError(signal.SIGINT) from error

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> Any:
        """Run a command line; exits the process."""
        words = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        volume.quiet = volume.verbose = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a sign that the terminal lacks is no reason to fail
                stream.reconfigure(errors="maskc")
        with outlived():
            code = self._run(words, positional, options)
            supervision.over()
            sys.exit(code)

    def _run(self, words: list[str], positional: Sequence[Any], options: Mapping[str, Any]) -> int:
        """Run a command; returns the exit code."""
        try:
            with warnings.catch_warnings():
                # They are from libraries, about themselves; what a user should know is told in plain words.
                if "--debug" not in words:
                    warnings.simplefilter("ignore")
                    for told in (InstallationWarning, PruningWarning):
                        warnings.simplefilter("always", told)
                    warnings.showwarning = lambda message, *_: warn([str(message)])
                if "" in words:  # of a variable of the shell that is not set; a path without a name is this directory
                    raise InputError(
                        "An argument is empty, as of a variable that is not set: give it, or leave it out."
                    )
                with telling(), unwinding(), ProgressBars(volume, opening=_versions) as bars, progress.listening(bars):
                    result = super().main(words, *positional, **options)
                    sys.stdout.flush()
            return result if isinstance(result, int) else 0
        except typer.TyperException as error:
            return _fail(self._usage(error, words), 2, error, words)
        except typer.Abort:
            return 130
        except MaskcError as error:
            return _fail(str(error), error.exit_code, error, words)
        except Exception as error:
            if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
                # what is still to be printed, which the interpreter tries again when it ends, goes nowhere
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
                return _fail(f"What is printed cannot be written: {error.strerror}.", 2, error, words)
            from maskc.frontend import custom_rules

            if theirs := custom_rules.failure(error):
                return _fail(str(theirs), theirs.exit_code, error, words)
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:300]
            blamed = " A rule that returns what it should not may be why." * any(w.startswith("--rules") for w in words)
            message = f"maskc failed unexpectedly ({reason}).{blamed} Run it again with --debug to see where."
            return _fail(message, FaultError.exit_code, error, words)

    def _usage(self, error: typer.TyperException, words: Sequence[str]) -> str:
        message = " ".join(error.format_message().replace("Value error, ", "").split())
        for theirs, ours in _NUMBERS.items():
            message = message.replace(theirs, ours)
        context = getattr(error, "ctx", None)
        named = " ".join(["maskc", *[word for word in words if word in self.commands][:1]])
        command = named if context is None else context.command_path
        return message if message.endswith("?") else f"{message.rstrip('.')}. See `{command} --help`."


# How signs are written where an encoding lacks them, as those of Windows do.
_SIGNS = {"→": "->", "×": "x", "÷": "/", "…": "..."}


def _spelt(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("maskc", _spelt)

# What pydantic says of a value, and what one understands.
_NUMBERS = {
    "Input should be a valid number, unable to parse string as a number": "it must be a number",
    "Input should be a valid integer, unable to parse string as an integer": "it must be a whole number",
    "Input should be greater than or equal to 0": "it must be 0 or more",
}

# What a system says of a file that takes no more, behind a redirected stdout for instance.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _fail(message: str, code: int, error: Exception, words: Sequence[str]) -> int:
    """Tell what is wrong on stderr, and on stdout as well where JSON is expected there."""
    if "--debug" in words:
        traceback.print_exception(error)
    message = " ".join(message.split())
    print_error(f"Error: {message}")
    if "--json" in words:
        print_json({"error": message, "exit_code": code})
    return code


def tell_end(message: str, code: int) -> int:
    """Tell how a process of the command ended that could not tell it; returns the exit code."""
    with outlived():
        return _fail(message, code, ChildProcessError(message), [word for word in sys.argv[1:] if word != "--debug"])


def _versions() -> str:
    from maskc.results.environment import installed_versions

    return ", ".join(f"{name} {number}" for name, number in installed_versions().items())


app = typer.Typer(
    name="maskc",
    cls=_Command,
    help=(
        "Compiles networks trained with channel masks into smaller dense ONNX models that compute the same "
        "function, and checks numerically that the outputs match."
    ),
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its columns cut words and the names of options at 80 columns
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _maskc(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    if version:
        from maskc.results.environment import __version__

        print(f"maskc {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)
