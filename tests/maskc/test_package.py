"""The package as a whole: what importing it costs, what it exports, how fast and how quiet the command is."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import typer

import maskc as api
from maskc import cli
from tests.maskc import build
from tests.maskc.command import ROOT, maskc, process, succeeded

_COMMANDS = ("compile", "verify", "explain", "flops", "diff", "check", "sweep", "train", "demo", "version")


def loaded(code: str, *modules: str) -> dict[str, bool]:
    """Which modules a fresh process has loaded after running some code."""
    ending = f"\nimport sys, json; print(json.dumps({{name: name in sys.modules for name in {modules!r}}}))"
    done = process(code=code + ending)
    assert done.returncode == 0, done.stderr
    result: dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_importing_is_cheap() -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "tensorflow", "keras", "passes")
    assert not any(loaded("import maskc, maskc.cli", *heavy).values())


def _folder_of_a_user(directory: Path) -> Path:
    """A script in a directory that has a package `passes` of its own, with modules by names that ours has, too."""
    build.save(build.mlp(), directory / "m.onnx")
    (directory / "passes").mkdir()
    for name in ("__init__", "errors", "model"):
        (directory / "passes" / f"{name}.py").write_text(f"MINE = {name!r}\n")
    script = directory / "script.py"
    script.write_text(
        """
import sys

first = "first" in sys.argv
if first:
    import passes.model
import maskc

assert maskc.compile("m.onnx").report.after.flops < maskc.flops("m.onnx").flops
from maskc import passes as ours

assert ours is maskc.passes and callable(ours.shrink)
if not first and "wheel" in sys.argv:
    import passes.model
if "passes" in globals():
    assert (passes.MINE, passes.model.MINE) == ("__init__", "model")
"""
    )
    return script


@pytest.mark.slow
@pytest.mark.parametrize("order", ["first", "last"])
def test_a_users_folder_of_passes_hides_nothing(tmp_path: Path, order: str) -> None:
    command = [sys.executable, _folder_of_a_user(tmp_path), order]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=60)


@pytest.mark.slow
def test_a_wheel_has_the_passes_inside(tmp_path: Path) -> None:
    """It takes no name but `maskc`, so that a user's `passes` stays theirs, imported before it or after it."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("maskc", "passes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", installed, source], check=True, timeout=120)
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"maskc", "bin"}
    for order in ("first", "last"):
        (folder := tmp_path / order).mkdir()
        command = [sys.executable, _folder_of_a_user(folder), order, "wheel"]
        environment = os.environ | {"PYTHONPATH": str(installed)}
        subprocess.run(command, env=environment, cwd=folder, check=True, timeout=60)


def test_nothing_but_a_model_of_tensorflow_imports_it(tmp_path: Path) -> None:
    source = str(build.save(build.mlp(), tmp_path / "m.onnx"))
    code = f"""
import maskc
from maskc.cli import app
assert maskc.verify({source!r}, {source!r}).passed
maskc.flops({source!r})
try:
    app(["compile", {source!r}])
except SystemExit as end:
    assert not end.code
"""
    names = ("tensorflow", "keras", "tf2onnx", "onnxruntime")
    assert loaded(code, *names) == dict.fromkeys(names, False) | {"onnxruntime": True}
    assert (tmp_path / "m.compiled.onnx").is_file()


def test_exports() -> None:
    for name in api.__all__:
        assert getattr(api, name) is not None
    assert set(api.__all__) <= set(dir(api))
    for error in (api.InputError, api.NotEquivalentError, api.UnavailableError):
        assert issubclass(error, api.MaskcError)
    with pytest.raises(AttributeError):
        api.nothing  # noqa: B018


def test_version() -> None:
    assert maskc("--version").stdout == f"maskc {api.__version__}\n"
    assert process("--version").stdout == f"maskc {api.__version__}\n"
    lines = maskc("version").stdout.splitlines()
    assert lines[0] == f"maskc {api.__version__}" and f"numpy {np.__version__}" in lines
    assert json.loads(maskc("version", "--json").stdout)["numpy"] == np.__version__


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = process("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
    assert "_MASKC_COMPLETE" in script and "maskc" in script
    asked = {"bash": {"COMP_WORDS": "maskc ver", "COMP_CWORD": "1"}}
    given = asked.get(shell, {"_TYPER_COMPLETE_ARGS": "maskc ver", "_TYPER_COMPLETE_FISH_ACTION": "get-args"})
    done = process(_MASKC_COMPLETE=f"complete_{shell}", **given)
    assert "verify" in done.stdout and "version" in done.stdout and "compile" not in done.stdout, done


@functools.cache
def helps(width: int) -> dict[str, str]:
    """What each command says with --help on a terminal of this width."""
    code = f"""
import json
from typer.testing import CliRunner
from maskc.cli import app
helps = {{name: CliRunner().invoke(app, [*name.split(), "--help"]).stdout for name in {("", *_COMMANDS)!r}}}
print(json.dumps(helps))
"""
    said: dict[str, str] = json.loads(process(code=code, COLUMNS=str(width)).stdout)
    return said


@pytest.mark.slow
@pytest.mark.parametrize("command", ["", *_COMMANDS])
@pytest.mark.parametrize("width", [80, 120, 160])
def test_help_cuts_no_word(command: str, width: int) -> None:
    """Every word of the help and every option stands on one line, and every command says what it does in full."""
    text = helps(width)[command]
    shown, group = text.split(), typer.main.get_command(cli.app)
    told = group.commands[command] if command else group  # type: ignore[attr-defined]
    for parameter in told.params:
        options = [name for name in parameter.opts if name.startswith("-")]
        words = [*options, *(getattr(parameter, "help", None) or "").split()]
        assert not [word for word in words if not any(word in part for part in shown)], text
    assert max(map(len, text.splitlines())) <= width
    assert "list[" not in text and "<path>" not in text.partition("Options:")[0]
    if not command:
        assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_help_tells_the_exit_codes(command: str) -> None:
    for flag in ("--help", "-h"):
        words = " ".join(succeeded(*command.split(), flag).stdout.split())
        assert "Exit codes: 0 success; 1 a check failed" in words
    if not command:
        assert all(name in words for name in _COMMANDS)


@pytest.mark.slow
def test_terminals_without_unicode(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    done = process("compile", source, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "m.onnx -> " in done.stdout and "x\n" in done.stdout and "?" not in done.stdout


def test_help_tells_what_the_demo_needs() -> None:
    assert "Needs maskc[demo]." in maskc("demo", "--help").stdout


def test_help_names_every_option_of_the_contract() -> None:
    for command, options in {
        "compile": ("-o", "--masks", "--no-verify", "--report", "--json", "--debug"),
        "verify": (
            *("--provider", "--inputs", "--samples", "--seed", "--rtol", "--atol"),
            *("--min-reduction", "--json", "--debug"),
        ),
        "flops": ("--masks", "--json", "--debug"),
        "check": ("--baseline", "--update", "--tolerance", "--min-reduction", "--jobs", "--format", "--json"),
    }.items():
        text = maskc(command, "--help").stdout
        assert all(option in text for option in options)


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    # A module set to None is one that is not installed.
    code = f"""
import sys
sys.modules["tensorflow"] = None
from maskc.cli import app
app(["compile", {str(tmp_path / "saved")!r}])
"""
    done = process(code=code)
    assert done.returncode == 3, done.stderr
    assert "maskc[tensorflow]" in done.stderr and done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]


def test_the_readme_lists_the_versions_that_it_is_for() -> None:
    """From the oldest that pyproject.toml allows to that of constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = "\n".join((*project["dependencies"], *project["optional-dependencies"]["tensorflow"]))
    newest = (ROOT / "constraints.txt").read_text()
    told = (ROOT / "README.md").read_text().partition("For Python 3.11 to 3.13, ")[2].partition("(")[0]
    found = re.findall(r"(\w+) ([\d.]+)(?:\s+to\s+([\d.]+))?(?:,| and|\s|$)", told)
    assert {name for name, *_ in found} == {"numpy", "onnx", "onnxruntime", "tensorflow", "keras"}
    for name, first, last in found:
        assert re.search(rf"^{name}>={re.escape(first)}\b", lines, re.M), name
        assert re.search(rf"^{name}=={re.escape(last or first)}\.", newest, re.M), name


@pytest.mark.slow
def test_builds_of_onnx_runtime_that_overwrite_each_other(tmp_path: Path) -> None:
    """Both are named once, with what to type; and where the module is broken, what is left of it."""
    source, site = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "site"
    path = os.pathsep.join((str(ROOT), str(site)))
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (site / f"{name}-9.9.dist-info").mkdir(parents=True)
        (site / f"{name}-9.9.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    both = process("compile", source, "--report", tmp_path / "r.html", PYTHONPATH=path)
    assert both.returncode == 0 and both.stderr.count("have overwritten each other") == 1, both.stderr
    assert "`pip uninstall -y onnxruntime-gpu onnxruntime`, then `pip install onnxruntime-gpu`." in both.stderr
    (site / "onnxruntime").mkdir()
    (site / "onnxruntime" / "__init__.py").write_text("")
    (site / "onnxruntime-9.9.dist-info" / "METADATA").unlink()
    (site / "onnxruntime-9.9.dist-info").rmdir()
    broken = process("compile", source, PYTHONPATH=os.pathsep.join((str(site), str(ROOT))))
    assert broken.returncode == 3 and broken.stderr.count("\n") == 1
    assert "Type `pip install --force-reinstall --no-deps onnxruntime-gpu`." in broken.stderr


def test_a_folder_of_the_users_in_the_place_of_onnx_runtime(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("")
    done = process("compile", source, PYTHONPATH=os.pathsep.join((str(tmp_path), str(ROOT))))
    assert done.returncode == 3 and f"Rename {tmp_path}/onnxruntime, which hides the installed one." in done.stderr


SAID = "import maskc, os; print(maskc.verify('{0}', '{0}').passed, os.environ['ORT_DISABLE_TELEMETRY'])"


@pytest.mark.slow
def test_nothing_is_left_in_the_users_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody turns it on that ONNX Runtime reports its use."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    source, home = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "home"
    home.mkdir()
    result = process("compile", source, HOME=str(home))
    assert (result.returncode, result.stderr) == (0, "")
    assert list(home.rglob("*")) == []
    assert process(code=SAID.format(source), HOME=str(home), ORT_DISABLE_TELEMETRY="0").stdout == "True 0\n"
