"""Commands made of functions, with an option for each field of a dataclass parameter."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand

from maskc.cli import supervision
from maskc.cli.application import EXIT_CODES, app
from maskc.cli.output import alone_on_stdout
from maskc.cli.shared_options import Debug, Limits, Quiet, Rules, Verbose, share
from maskc.inspection.options import Option, options_of

_VOLUME = {"quiet": Quiet, "verbose": Verbose, "debug": Debug}
# These stand last in the help.
_PRINTING = ("as_json", *_VOLUME)

Function = TypeVar("Function", bound=Callable[..., None])


class Parsed(NamedTuple):
    """How a command parses an option of a dataclass: `Annotated[SweepOptions, Parsed("targets", function)]`."""

    name: str
    parse: Callable[[str], Any]


class Without(NamedTuple):
    """The option of a dataclass that a command does not have: `Annotated[ReadOptions, Without("masks")]`."""

    name: str


class _Group(NamedTuple):
    """A dataclass, and those of its options that a command has."""

    kind: type
    options: dict[str, Option]

    def taken_from(self, given: dict[str, Any]) -> Any:
        """The dataclass with the values of a command line, from which they are removed; None is what was not given."""
        values = {name: value for name in self.options if (value := given.pop(name)) is not None}
        for name, value in values.items():
            if (parse := self.options[name].parse) is not None:
                values[name] = parse(value)
        return self.kind(**values)


class _Command(TyperCommand):
    """A command that refuses a second file where one is read, of which the first would go unread."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for name, count in Counter(each.name for each in order if not getattr(each, "multiple", True)).items():
            option = next(each for each in order if each.name == name)
            if count > 1 and "FILE" in str(option.metavar):
                raise typer.BadParameter(f"{max(option.opts, key=len)} takes one file, and is given {count} times", ctx)
        return super().parse_args(ctx, args)


def command(*, limits: bool = True, rules: bool = False) -> Callable[[Function], Function]:
    """Register a function as the command of its name.

    Options that all commands have are added and, with `limits`, those on time, memory and trust, and with `rules`
    that for a user's code. They work by themselves: the function does not get them. A command with limits is run once
    more after a crash.
    """
    shared = [
        *(_parameters_of(options_of(Limits)) if limits else ()),
        *([_parameter("rules", Rules, None)] if rules else ()),
        *(_parameter(name, hint, False) for name, hint in _VOLUME.items()),
    ]

    def register(function: Function) -> Function:
        groups: dict[str, _Group] = {}
        parameters = sorted([*_parameters(function, groups), *shared], key=lambda each: each.name in _PRINTING)

        @functools.wraps(function)
        def run(**given: Any) -> None:
            if limits:
                supervision.repeat_after_crash()
            with alone_on_stdout() if given.get("as_json") else nullcontext():
                if rules and given["rules"]:
                    from maskc.frontend.custom_rules import load

                    load(given["rules"])
                for parameter in shared:
                    del given[parameter.name]
                function(**{name: group.taken_from(given) for name, group in groups.items()}, **given)
            supervision.over()

        # typer reads these, instead of those of the function
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(cls=_Command, epilog=EXIT_CODES)(run)
        return function

    return register


def _parameters(function: Function, groups: dict[str, _Group]) -> Iterator[inspect.Parameter]:
    """The parameters of a function; one that is a dataclass of options is put into `groups`, and gives its options."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, *details = get_args(hints[name]) or (hints[name],)
        left_out = {detail.name for detail in details if isinstance(detail, Without)}
        options = {key: option for key, option in options_of(kind).items() if key not in left_out}
        for detail in details:
            if isinstance(detail, Parsed):
                options[detail.name] = replace(options[detail.name], parse=detail.parse)
        if options:
            groups[name] = _Group(kind, options)
            yield from _parameters_of(options)
        else:
            yield _parameter(name, hints[name], parameter.default)


def _parameters_of(options: Mapping[str, Option]) -> Iterator[inspect.Parameter]:
    for name, option in options.items():
        parser = share if option.details.get("metavar") == "SHARE" else None
        details = typer.Option(*option.flags, help=option.help, parser=parser, **option.details)
        default = None if option.default == () else option.default  # typer gives None for no values
        yield _parameter(name, Annotated[option.kind, details], default)


def _parameter(name: str, hint: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
