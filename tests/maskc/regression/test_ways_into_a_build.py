"""`maskc check` as a build meets it: the pytest fixture, the action, the hook for pre-commit, and their page."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.maskc.command import ROOT, maskc, process
from tests.maskc.regression.edits import edit, unmask


def with_command(directory: Path) -> dict[str, str]:
    """An environment in which `maskc` is this one."""
    shim = directory / "bin" / "maskc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maskc "$@"\n')
    shim.chmod(0o755)
    return os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)


def pytest_in(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "maskc.pytest_plugin", "-p", "no:cacheprovider", *arguments]
    # No other plugins: they take longer than the test.
    return run(command, directory, os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})


@pytest.mark.slow
def test_the_pytest_fixture(repository: Path) -> None:
    (repository / "pytest.ini").write_text("[pytest]\n")
    (repository / "tests").mkdir()
    (repository / "tests" / "test_flops.py").write_text(
        "def test_a(maskc_check):\n    (outcome,) = maskc_check('models/a.onnx', min_reduction=1.2)\n"
        "    assert outcome.passed\n"
        "def test_all(maskc_check):\n    assert len(maskc_check()) == 2\n"
    )
    done = pytest_in(repository)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
    edit(repository / "models" / "a.onnx", unmask(3))
    done = pytest_in(repository)
    assert done.returncode == 1 and "2 failed" in done.stdout
    assert "channel 3 is no longer masked" in done.stdout and "has 9 channels and had 8" in done.stdout
    summary = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    assert [" - Failed: models/a.onnx: FLOPs rose" in line for line in summary] == [True, True]
    (repository / "pytest.ini").write_text("[pytest]\nmaskc_baseline = other.json\n")
    done = pytest_in(repository, "-k", "test_all")
    assert "There is no baseline" in done.stdout and "other.json" in done.stdout


@pytest.mark.slow
def test_the_plugin_is_found_where_maskc_is_installed(repository: Path) -> None:
    """Both ways in at once as well: by the entry point and by `-p`."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = repository / "site" / "maskc_plugin-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: maskc-plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items()))
    (repository / "test_it.py").write_text("def test_all(maskc_check):\n    assert len(maskc_check()) == 2\n")
    (repository / "pytest.ini").write_text("[pytest]\n")
    path = os.pathsep.join((str(ROOT), str(installed.parent)))
    for arguments in ((), ("-p", "maskc.pytest_plugin")):
        done = run([sys.executable, "-m", "pytest", *arguments], repository, os.environ | {"PYTHONPATH": path})
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_is_an_entry_point_and_cheap() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["pytest11"].values()) == ["maskc.pytest_plugin"]
    code = "import maskc.pytest_plugin, sys; print([m for m in ('numpy', 'onnx', 'rich') if m in sys.modules])"
    assert process(code=code).stdout.strip() == "[]"


def action() -> Any:
    return yaml.safe_load((ROOT / "action.yml").read_text())


def run_action(directory: Path, environment: dict[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    """The step of the action that checks, run as GitHub runs it."""
    described = action()
    given = {name: str(value["default"]) for name, value in described["inputs"].items()} | inputs
    step = described["runs"]["steps"][-1]
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match.group(1)], text)
        for name, text in step["env"].items()
    }
    assert not any("${{" in text for text in variables.values()) and step["shell"] == "bash"
    assert "${{" not in step["run"], "inputs reach the shell as variables only"
    variables["GITHUB_STEP_SUMMARY"] = str(directory / "summary.md")
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return run(command, directory, environment | variables)


@pytest.mark.slow
def test_the_action(repository: Path) -> None:
    described = action()
    assert described["runs"]["using"] == "composite"
    steps = described["runs"]["steps"]
    assert all(step["shell"] == "bash" and step["name"] for step in steps)
    environment = with_command(repository)
    done = run_action(repository, environment)
    assert done.returncode == 0, done.stderr
    assert "none regressed" in (repository / "summary.md").read_text()
    edit(repository / "models" / "a.onnx", unmask(3))
    (repository / "summary.md").write_text("What another step wrote.\n")
    inputs = {"models": "models/a.onnx models/b.onnx", "min-reduction": "1", "jobs": "1", "junit": "check.xml"}
    done = run_action(repository, environment, **inputs)
    assert done.returncode == 1
    assert done.stdout.startswith("::error file=models/a.onnx") and "channel 3 is no longer masked" in done.stdout
    summary = (repository / "summary.md").read_text()
    assert summary.startswith("What another step wrote.\n") and "**regressed**" in summary
    assert ElementTree.parse(repository / "check.xml").getroot().get("failures") == "1"
    assert run_action(repository, environment, tolerance="50%").returncode == 0


def test_installing_in_the_action(tmp_path: Path) -> None:
    """The step that installs, with a pip that says what it was asked for."""
    step = action()["runs"]["steps"][0]
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    for extras, words in (("", "-m pip install --quiet /action"), ("tensorflow", "/action[tensorflow]")):
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "EXTRAS": extras, "SOURCE": "/action"}
        done = run(["bash", "-c", step["run"]], tmp_path, environment)
        assert done.stdout.strip().endswith(words)


@pytest.mark.slow
def test_the_hook_for_pre_commit(repository: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "maskc-check" and hook["language"] == "python" and hook["pass_filenames"] is False
    models = ("models/a.onnx", "m/saved_model.pb", "m.keras", "masks.npz", "masks.safetensors", "ci/flops.json")
    assert tuple(name for name in (*models, "train.py", "onnx.md") if re.search(hook["files"], name)) == models
    command, environment = shlex.split(hook["entry"]), with_command(repository)
    assert run(command, repository, environment).returncode == 0
    edit(repository / "models" / "a.onnx", unmask(3))
    done = run(command, repository, environment)
    assert done.returncode == 1 and "channel 3 is no longer masked" in done.stdout


def test_the_revision_that_the_page_names_is_there() -> None:
    (example,) = (yaml.safe_load(block) for block in blocks() if "rev:" in block)
    inside = run(["git", "rev-parse", "--is-shallow-repository"], ROOT, dict(os.environ))
    if inside.stdout.strip() != "false":
        pytest.skip("no clone with its history")
    revision = example["repos"][0]["rev"]
    assert run(["git", "cat-file", "-e", f"{revision}:.pre-commit-hooks.yaml"], ROOT, dict(os.environ)).returncode == 0


@pytest.mark.slow
def test_pre_commit_runs_the_hook(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """pre-commit itself, with the hook from a repository as docs/ci.md has it, and the `maskc` that is here."""
    (example,) = (yaml.safe_load(block) for block in blocks() if "rev:" in block)
    away = tmp_path_factory.mktemp("away")
    ours = away / "maskc"
    ours.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", ours)
    environment = with_command(repository) | {
        "PRE_COMMIT_HOME": str(away / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    environment |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {key: value for key, value in environment.items() if key not in ("GIT_DIR", "GIT_INDEX_FILE")}

    def git(*arguments: str, cwd: Path = repository) -> str:
        done = run(["git", *arguments], cwd, environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for directory in (ours, repository):
        git("init", "-q", cwd=directory)
        git("add", ".", cwd=directory)
        git("commit", "-q", "-m", "first", cwd=directory)
    (source,) = example["repos"]
    source |= {"repo": str(ours), "rev": git("rev-parse", "HEAD", cwd=ours)}
    source["hooks"][0]["language"] = "system"  # instead of an environment that is installed for it
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(example))
    (repository / "notes.md").write_text("no model")
    git("add", ".pre-commit-config.yaml", "notes.md")
    hook = [sys.executable, "-m", "pre_commit", "run", "--color", "never"]
    done = run(hook, repository, environment)
    assert done.returncode == 0 and "Skipped" in done.stdout, done.stdout + done.stderr
    edit(repository / "models" / "b.onnx", lambda model: setattr(model, "producer_name", "another"))
    git("add", "models")
    done = run(hook, repository, environment)
    assert done.returncode == 0 and "Passed" in done.stdout, done.stdout + done.stderr
    edit(repository / "models" / "a.onnx", unmask(3))
    git("add", "models")
    done = run(hook, repository, environment)
    assert done.returncode == 1 and "Failed" in done.stdout and "channel 3 is no longer masked" in done.stdout


def blocks() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.S)


def test_the_examples_for_github_and_pre_commit_fit_the_files() -> None:
    workflow, hooks = (yaml.safe_load(block) for block in blocks())
    (step,) = (step for step in workflow["jobs"]["flops"]["steps"] if "maskc" in step["uses"])
    assert set(step["with"]) <= set(action()["inputs"])
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (used,) = hooks["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    assert maskc("check", "--help").exit_code == 0 and used["args"][0] in maskc("check", "--help").stdout
