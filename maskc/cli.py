"""The `maskc` command: parsing and printing, nothing else.

The heavy imports are inside the commands, so that `maskc --help` answers at once.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from maskc import progress
from maskc.errors import MaskcError
from maskc.report.bars import Bars, Volume

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = (
    "Exit codes: 0 good; 1 the check failed (not equivalent, FLOPs given back, or less reduction than asked); "
    "2 unusable input or arguments; 3 something needed is not installed or not usable here."
)


class Provider(StrEnum):
    """Where ONNX Runtime runs the models."""

    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"
    auto = "auto"


class Adapters(StrEnum):
    """Where known constants are put back for the operators that must see them."""

    auto = "auto"
    always = "always"
    never = "never"


class Method(StrEnum):
    """What tells how much a channel is worth."""

    fisher = "fisher"
    taylor = "taylor"
    magnitude = "magnitude"
    random = "random"


class Schedule(StrEnum):
    """How the number of pruned channels grows."""

    one_shot = "one-shot"
    linear = "linear"
    cubic = "cubic"


class Tie(StrEnum):
    """Whether channels that only go together are pruned together."""

    auto = "auto"
    none = "none"


# How much the command at hand prints, by -q and -v.
_volume = Volume()
_EITHER = "-q and -v cannot both be given"


class _Command(TyperGroup):
    """The command group, ending with a plain sentence and the contract's exit code whatever happens."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> Any:
        """Run a command line; exits the process."""
        words = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        _volume.quiet = _volume.verbose = False
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a sign that the terminal lacks is no reason to fail
                stream.reconfigure(errors="replace")
        try:
            with warnings.catch_warnings():
                # They are from libraries, about themselves; what a user should know is told in plain words.
                if "--debug" not in words:
                    warnings.simplefilter("ignore")
                with Bars(_volume, opening=_versions) as bars, progress.listening(bars):
                    result = super().main(words, *positional, **options)
            code = result if isinstance(result, int) else 0
        except typer.TyperException as error:
            code = _fail(_usage(error), 2, error, words)
        except typer.Abort:
            code = 130
        except MaskcError as error:
            code = _fail(str(error), error.exit_code, error, words)
        except MemoryError as error:
            code = _fail(f"There is not enough memory ({error}).", 2, error, words)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".:")[:300]
            code = _fail(
                f"maskc failed unexpectedly ({reason}). Run it again with --debug to see where.",
                2,
                error,
                words,
            )
        sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "maskc"
    return f"{message.rstrip('.')}. See `{command} --help`."


def _fail(message: str, code: int, error: Exception, words: Sequence[str]) -> int:
    """Tell what is wrong on stderr, and on stdout as well where JSON is expected there."""
    if "--debug" in words:
        traceback.print_exception(error)
    message = " ".join(message.split())
    print(f"Error: {message}", file=sys.stderr)
    if "--json" in words:
        _print_json({"error": message, "exit_code": code})
    return code


def _set_quiet(value: bool) -> bool:
    if value and _volume.verbose:
        raise typer.BadParameter(_EITHER)
    _volume.quiet = _volume.quiet or value
    return value


def _set_verbose(value: bool) -> bool:
    if value and _volume.quiet:
        raise typer.BadParameter(_EITHER)
    _volume.verbose = _volume.verbose or value
    return value


def _versions() -> str:
    from maskc.report.terminal import versions

    return versions()


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings if not _volume.quiet else ():
        print(f"Warning: {warning}", file=sys.stderr)


def _console() -> Console:
    from maskc.report.terminal import console

    return console(quiet=_volume.quiet)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


app = typer.Typer(
    name="maskc",
    cls=_Command,
    help=(
        "Compiles networks trained with channel masks into smaller dense ONNX models that compute the same "
        "function, and checks that they do."
    ),
    epilog=EXIT_CODES,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="An .onnx file, a .keras file or a SavedModel directory.", show_default=False),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=(
            "More masks: an .npz or .safetensors file of 1-D arrays of 0 and 1. Keys are `tensor` or "
            "`tensor@axis` for tensors of the ONNX graph; without an axis it is 1 for rank 3 and more and "
            "the last one otherwise."
        ),
        show_default=False,
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=1x3x224x224",
        help=(
            "Fix the symbolic sizes of an input; may be given for several. `?` leaves a size as it is, a name calls "
            "it so. With commas, as in NAME=?,128, names may have an x in them."
        ),
        show_default=False,
    ),
]
Rules = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE.py",
        help="Python code with rules for custom operators; may be given several times.",
        show_default=False,
    ),
]
Adapting = Annotated[
    Adapters,
    typer.Option(
        help=(
            "Where an operator must see channels that are constant: put them back there if that is cheaper than "
            "computing them, put them back wherever it saves FLOPs, or compute them."
        )
    ),
]
Reports = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE.html|FILE.json",
        help="Write a report: a page to look at, or data. May be given for both.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_set_quiet, help="Print errors only; the exit code tells the rest.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_set_verbose, help="Tell each step on stderr, and how long it took.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def _maskc(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    if version:
        from maskc import __version__

        print(f"maskc {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command(epilog=EXIT_CODES)
def compile(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT.onnx",
            help="Where to write. By default beside the input, under its name with .compiled.onnx.",
            show_default=False,
        ),
    ] = None,
    masks: Masks = None,
    shape: Shape = None,
    adapters: Adapting = Adapters.auto,
    rules: Rules = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare with the input before anything is written.")
    ] = True,
    report: Reports = None,
    bench: Annotated[
        bool | None,
        typer.Option(
            "--bench/--no-bench",
            help="Measure the latency of both on the CPU, which takes seconds. By default for an .html report.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compile a model with masked channels into a smaller one that computes the same function.

    Masks are found by their zeros, wherever they are: as multiplications,
    folded into weights, or as filters that training drove to zero. The result
    is compared with the input in ONNX Runtime (and with TensorFlow, if the
    input is a TensorFlow model), and nothing is written if they differ.

    Example: maskc compile model_dir -o small.onnx
    """
    from maskc.compiler import compile_file, default_output
    from maskc.rules import load
    from maskc.sizes import parse

    load(rules or ())
    target = output or default_output(model)
    result = compile_file(
        model,
        target,
        masks,
        shapes=parse(shape or ()),
        adapters=adapters.value,
        verify=verify,
        reports=report or (),
        bench=bench,
    )
    _warn(result.warnings)
    if as_json:
        _print_json(result.to_json())
        return
    from maskc.report.terminal import show_compilation, show_reports

    show_compilation(result, _console())
    show_reports(report or (), _console())


@app.command(epilog=EXIT_CODES)
def verify(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REFERENCE",
            help="The model to be equal to: an .onnx file, a .keras file or a SavedModel directory.",
            show_default=False,
        ),
    ],
    compiled: Annotated[
        Path,
        typer.Argument(metavar="COMPILED", help="The compiled model, an .onnx file.", show_default=False),
    ],
    masks: Masks = None,
    shape: Shape = None,
    provider: Annotated[
        Provider,
        typer.Option(help="Where to run: the CPU, CUDA or TensorRT (and nothing else), or CUDA where it can be used."),
    ] = Provider.cpu,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Real data to compare on as well, by input name: a file, or a directory of them.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="How many random inputs to compare on.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random inputs.")] = 0,
    rtol: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help=(
                "Error allowed, relative to the largest value of the output. By default 8 roundings times the "
                "square root of the output's depth, at most 1e-5, or 1e-12 if all is float64 and 1e-3 if any is "
                "half precision; ten times that against TensorFlow."
            ),
            show_default=False,
        ),
    ] = None,
    atol: Annotated[float, typer.Option(metavar="F", help="Error allowed in any case.")] = 0.0,
    min_reduction: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Fail when FLOPs before divided by FLOPs after is less than this.",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help=(
                "Compare in double precision as well, in the reference evaluator of ONNX, which tells errors of "
                "logic from rounding. By default as far as that takes a few seconds."
            ),
            show_default=False,
        ),
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to write, if the models differ, the smallest parts of both that do, and an input.",
            show_default=False,
        ),
    ] = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure the latency of both, side by side, on the provider.")
    ] = False,
    report: Reports = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Check that a compiled model computes the same function as its reference.

    Both are run in ONNX Runtime on the same random inputs, of several kinds
    and batch sizes, and all outputs are compared. Where the reference is a
    TensorFlow model, TensorFlow's own outputs are compared too. An error above
    the tolerance passes only if rounding the reference's own weights moves its
    output about as far; that is said. If the models differ, the first tensor
    where they part is named, with the node that makes it.

    Example: maskc verify model_dir model_dir.compiled.onnx --min-reduction 4
    """
    from maskc.equivalence import verify as run
    from maskc.sizes import parse

    result = run(
        reference,
        compiled,
        masks=masks,
        shapes=parse(shape or ()),
        provider=provider.value,
        inputs=inputs,
        samples=samples,
        seed=seed,
        rtol=rtol,
        atol=atol,
        min_reduction=min_reduction,
        exact=exact,
        dump=dump,
        bench=bench,
        reports=report or (),
    )
    if as_json:
        from maskc.report.compilation import verification_json

        _print_json({"reference": str(reference), "compiled": str(compiled)} | verification_json(result))
    else:
        from maskc.report.terminal import show_reports, show_verification

        show_verification(result, _console())
        show_reports(report or (), _console())
    if not result.passed:
        if as_json or _volume.quiet:
            print(f"Error: {result.reasons[0]}", file=sys.stderr)
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def explain(
    model: Model,
    masks: Masks = None,
    shape: Shape = None,
    adapters: Adapting = Adapters.auto,
    rules: Rules = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Say which operators hold masked channels that would stay, why, and what to do.

    Takes what compile takes, and writes nothing.

    Example: maskc explain model_dir
    """
    from maskc.compiler import explain as run
    from maskc.rules import load
    from maskc.sizes import parse

    load(rules or ())
    result = run(model, masks, shapes=parse(shape or ()), adapters=adapters.value)
    _warn(result.warnings)
    if as_json:
        told = result.to_json()
        _print_json({key: told[key] for key in ("model", "channels", "masked", "held", "notes", "warnings")})
        return
    from maskc.report.terminal import show_explanation

    show_explanation(result, _console())


@app.command(epilog=EXIT_CODES)
def flops(
    model: Model,
    masks: Masks = None,
    shape: Shape = None,
    rules: Rules = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Count the FLOPs, multiply-accumulates and parameters of a model as it stands.

    Counts are for one example; sizes that are not known count as 1, and
    --shape fixes them. With --masks, the count is that of the model compiled
    with these masks.

    Example: maskc flops model.onnx
    """
    from maskc.compiler import flops as run
    from maskc.rules import load
    from maskc.sizes import parse

    load(rules or ())
    cost = run(model, masks, shapes=parse(shape or ()))
    if as_json:
        from maskc.report.compilation import plain

        _print_json({"model": str(model)} | plain(cost))
        return
    from maskc.report.terminal import show_cost

    show_cost(cost, _console())


@app.command(epilog=EXIT_CODES)
def diff(
    before: Annotated[
        Path,
        typer.Argument(metavar="A", help="An .onnx file, a .keras file or a SavedModel directory.", show_default=False),
    ],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one of these.", show_default=False)],
    every: Annotated[
        bool, typer.Option("--all", help="Show the layers that are the same as well; --json always has them.")
    ] = False,
    shape: Shape = None,
    rules: Rules = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show two models side by side, layer by layer: channels, FLOPs, parameters, and what else is not the same.

    A layer is a node that multiplies and accumulates. Layers are matched by
    the names of their nodes, and where the names differ by their order and
    what they are like. Nothing is run or compiled: whether both compute the
    same function, verify tells. Ends with 0 whether they differ or not.

    Example: maskc diff model.onnx model.compiled.onnx
    """
    from maskc.report.diff import diff as run
    from maskc.rules import load
    from maskc.sizes import parse

    load(rules or ())
    result = run(before, after, shapes=parse(shape or ()))
    if as_json:
        _print_json(result.to_json())
        return
    from maskc.report.terminal import show_diff

    show_diff(result, _console(), every)


@app.command(epilog=EXIT_CODES)
def check(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="The models to check; by default all of the baseline."),
    ] = None,
    baseline: Annotated[Path, typer.Option(metavar="FILE", help="The baseline, see docs/ci.md.")] = Path("flops.json"),
    update: Annotated[
        bool, typer.Option("--update", help="Write the baseline again; models named are added to it.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(metavar="F", help="FLOPs allowed above the baseline: 0.01 is one percent.")
    ] = 0.0,
    min_reduction: Annotated[
        float | None,
        typer.Option(
            metavar="F", help="Fail when FLOPs before divided by FLOPs after is less than this.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="How many models to compile at a time; by default one for each core.", show_default=False
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT[=FILE]",
            help=(
                "What to print: table, markdown, junit, github or json. With a file it is written there and the "
                "table still printed; may be given several times."
            ),
            show_default=False,
        ),
    ] = None,
    masks: Masks = None,
    shape: Shape = None,
    adapters: Annotated[
        Adapters | None,
        typer.Option(help="With --update: how the models named are compiled, as for compile.", show_default=False),
    ] = None,
    rules: Rules = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compile models again and fail if FLOPs are above the baseline, or a masked channel that went now stays.

    The baseline is a file to commit. It holds what each model costs and how
    it is compiled: --masks, --shape and --adapters are given once, with
    --update. A model that is no longer equivalent fails as well.

    Examples: maskc check --update models/*.onnx

    maskc check --format github --format junit=check.xml
    """
    from maskc import regress
    from maskc.findings import Limits
    from maskc.report import regressions
    from maskc.sizes import parse

    if not update and (masks or shape or adapters):
        raise typer.BadParameter("--masks, --shape and --adapters are kept in the baseline: give them with --update.")
    targets = regressions.targets([*(formats or ()), *(["json"] if as_json else ())], (baseline, *(models or ())))
    limits = Limits(tolerance, min_reduction)
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    changed = False
    if update:
        outcomes, changed = regress.update(
            baseline,
            models or (),
            masks=masks,
            shapes=parse(shape or ()),
            adapters=adapters.value if adapters else None,
            limits=limits,
            jobs=jobs,
            rules=rules or (),
        )
    else:
        outcomes = regress.check(baseline, models or (), limits=limits, jobs=jobs, rules=rules or ())
    for name, file in targets:
        if file is not None:
            regressions.write(outcomes, name, file)
        elif name == "table":
            regressions.show(outcomes, _console())
        else:
            sys.stdout.write(regressions.FORMATS[name](outcomes))
    if _volume.quiet:
        for line in regressions.failures(outcomes):
            print(f"Error: {line}", file=sys.stderr)
    elif update:
        print(f"{baseline} {'was written' if changed else 'stays as it is'}.", file=sys.stderr)
    raise typer.Exit(regress.exit_code(outcomes))


@app.command(epilog=EXIT_CODES)
def train(
    model: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:NAME",
            help=(
                "The function that builds the model, which has masks (or package.module:NAME); it is given the feature "
                "specification if it has a parameter. Or a .yaml or .json file that configures a MaskNet, or a .keras "
                "file."
            ),
            show_default=False,
        ),
    ],
    features: Annotated[
        Path,
        typer.Option(
            metavar="SPEC",
            help="What the records hold, a .yaml or .json file; see docs/trainer.md.",
            show_default=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(metavar="FILES", help="TFRecord files to train on, or a pattern; may be given several times."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Where checkpoints, summaries and, in `model`, the results go.",
            show_default=False,
        ),
    ],
    validation: Annotated[
        list[str] | None,
        typer.Option(metavar="FILES", help="TFRecord files that are held out; may be given several times."),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="How often to go through the data.")] = 1,
    fine_tune: Annotated[
        int, typer.Option(metavar="N", min=0, help="Epochs to train what is left, after pruning.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Examples in a batch.")] = 128,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="Keras's name of the optimizer.")] = "adam",
    learning_rate: Annotated[
        float | None, typer.Option(metavar="F", help="By default that of the optimizer.", show_default=False)
    ] = None,
    loss: Annotated[
        str, typer.Option(metavar="NAME", help="Keras's name of the loss; cross-entropies take logits.")
    ] = "binary_crossentropy",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Keras's name of a metric; may be given several times. By default auc or accuracy, as fits the loss.",
            show_default=False,
        ),
    ] = None,
    pruning_iter: Annotated[
        int,
        typer.Option("--pruning.iter", metavar="N", help="A feature is pruned every so many updates."),
    ] = 5000,
    pruning_burn_in: Annotated[
        int,
        typer.Option("--pruning.burn_in", metavar="N", help="Updates before pruning starts."),
    ] = 100_000,
    pruning_flops_target: Annotated[
        float,
        typer.Option(
            "--pruning.flops_target",
            metavar="F",
            help="FLOPs per example at which pruning stops; up to 1, a fraction of those without masks.",
        ),
    ] = 250_000,
    pruning_decay: Annotated[
        float,
        typer.Option(
            "--pruning.decay",
            metavar="F",
            help="Of the moving average of pruning signals: 0.9999 averages over about 10,000 updates.",
        ),
    ] = 0.9999,
    method: Annotated[Method, typer.Option(help="By what the feature to prune is chosen.")] = Method.fisher,
    schedule: Annotated[
        Schedule | None,
        typer.Option(
            help="Prune along a schedule over --ramp updates, and not one feature at a time.", show_default=False
        ),
    ] = None,
    ramp: Annotated[int, typer.Option(metavar="N", min=0, help="Updates that a schedule takes.")] = 0,
    tie: Annotated[
        Tie, typer.Option(help="Prune features that only go together as one, or each on its own.")
    ] = Tie.auto,
    teacher: Annotated[
        Path | None,
        typer.Option(metavar="FILE.keras", help="Distill from this model, the unpruned one say.", show_default=False),
    ] = None,
    alpha: Annotated[float, typer.Option(metavar="F", help="The teacher's share of the loss.")] = 0.5,
    temperature: Annotated[float, typer.Option(metavar="F", help="That logits are divided by for the teacher.")] = 2.0,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Stop after so many epochs without a better --monitor; they count once the target is reached.",
            show_default=False,
        ),
    ] = None,
    monitor: Annotated[str, typer.Option(metavar="NAME", help="The metric for early stop.")] = "val_loss",
    shuffle: Annotated[
        int, typer.Option(metavar="N", min=0, help="Examples to choose the next one from; 0 keeps the order.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the weights, the shuffling and random pruning.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(metavar="N", min=1, help="Updates between checkpoints.")] = 1000,
    summary_every: Annotated[int, typer.Option(metavar="N", min=1, help="Updates between summaries.")] = 100,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where an earlier run in the same directory was.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train a model with masks on TFRecords while pruning it, and compile what is left.

    An interrupted run goes on exactly where it was when the command is given
    again. Afterwards OUTPUT/model holds the SavedModel, a .keras file, the
    compiled and verified ONNX model, and a manifest of masks and FLOPs;
    `tensorboard --logdir OUTPUT` shows how it went.

    Example: maskc train --model net.yaml --features spec.yaml --data
    'train-*.tfrecord' -o run --pruning.iter 10 --pruning.burn_in 1000
    --pruning.flops_target 0.1
    """
    from maskc.frontend.tensorflow import import_tensorflow

    import_tensorflow()
    from maskc.report.training import show_training
    from maskc.train.command import Arguments
    from maskc.train.command import train as run
    from maskc.train.loop import Interrupted

    pruning = {
        "pruning_iter": pruning_iter,
        "pruning_burn_in": pruning_burn_in,
        "pruning_flops_target": pruning_flops_target,
        "pruning_decay": pruning_decay,
        "method": method.value,
        "schedule": schedule.value if schedule else None,
        "ramp": ramp,
        "tie": tie.value,
        "seed": seed,
    }
    arguments = Arguments(
        model,
        features,
        data,
        output,
        validation=validation or (),
        epochs=epochs,
        fine_tune=fine_tune,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        loss=loss,
        metrics=metric or (),
        teacher=teacher,
        alpha=alpha,
        temperature=temperature,
        patience=patience,
        monitor=monitor,
        shuffle=shuffle,
        seed=seed,
        pruning=pruning,
        checkpoint_every=checkpoint_every,
        summary_every=summary_every,
    )
    try:
        result = run(arguments, resume)
    except Interrupted as interrupted:
        print(f"Interrupted: the same command goes on from {output}.", file=sys.stderr)
        raise typer.Exit(130) from interrupted
    _warn(result.exported.report.warnings)
    if as_json:
        _print_json(result.to_json())
    else:
        show_training(result, _console())
    if not result.reached:
        print(
            f"Error: Training ended after {result.steps:,} updates, before pruning reached its target. Give more "
            "--epochs, or a smaller --pruning.iter or --pruning.burn_in.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def demo(
    directory: Annotated[
        Path, typer.Option("--directory", "-d", metavar="DIR", help="Where to put the models.")
    ] = Path("demo"),
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    r"""Train, prune, compile and verify a small network on real data, and print what it gained.

    Needs maskc\[demo]. Takes a few minutes on two cores.
    """
    from maskc.demo import run, show

    show(run(directory), _console())


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
