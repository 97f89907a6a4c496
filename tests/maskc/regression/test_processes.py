"""`maskc check` with models in several processes."""

from pathlib import Path

import pytest

from tests.maskc import build
from tests.maskc.command import process
from tests.maskc.regression.edits import edit, unmask

# The operator of `build.custom`, less what its rule does.
RULE = """import os, passes
@passes.register("Fancy", domain="com.example")
class Fancy(passes.Elementwise):
    """


@pytest.mark.slow
def test_models_are_compiled_side_by_side_with_the_same_result(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    done = [process("check", "--jobs", jobs, "--json") for jobs in (1, 2)]
    assert [each.returncode for each in done] == [1, 1], done[1].stderr
    assert done[0].stdout == done[1].stdout


@pytest.mark.slow
def test_rules_reach_every_process(repository: Path) -> None:
    Path("rules.py").write_text(f"{RULE}def fold(self, node, facts, operands):\n        return operands[0]\n")
    models = [build.save(build.custom(), repository / "models" / f"{name}.onnx") for name in "cd"]
    assert process("check", "--update", "--rules", "rules.py", *models).returncode == 0
    assert process("check", "--jobs", 2, "--rules", "rules.py", *models).returncode == 0
    without = process("check", "--jobs", 2, *models)
    assert without.returncode == 1 and "Of 2 models, 2 regressed." in without.stdout
    assert "layer 'first' has 16 channels and had 8" in without.stdout


@pytest.mark.slow
def test_rules_that_are_missing_are_told_once(repository: Path) -> None:
    for jobs in (1, 2):
        done = process("check", "--jobs", jobs, "--rules", "gone.py")
        assert done.returncode == 2
        assert (done.stdout + done.stderr).count("gone.py does not exist") == 1


@pytest.mark.slow
def test_a_process_that_dies_keeps_no_other_model_from_being_checked(repository: Path) -> None:
    model = build.save(build.custom(), repository / "models" / "c.onnx")
    Path("rules.py").write_text(f"{RULE}pass\n")
    assert process("check", "--update", "--jobs", 1, "--rules", "rules.py", model).returncode == 0
    Path("rules.py").write_text(f"{RULE}def reads(self, node, facts):\n        os._exit(9)\n")
    done = process("check", "--jobs", 2, "--rules", "rules.py")
    assert done.returncode == 5
    assert "died (exit code 9)" in done.stdout + done.stderr
    assert "Of 3 models, 1 could not be checked" in done.stdout


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_keras_file_in_a_process_of_its_own(repository: Path) -> None:
    import keras

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    kernel, bias = model.get_layer("hidden").get_weights()
    for name, dead in (("before", 3), ("after", 2)):
        kernel[:, :dead], kernel[:, dead:] = 0, 1
        model.get_layer("hidden").set_weights([kernel, bias])
        model.save(repository / f"{name}.keras")
    (repository / "before.keras").rename(repository / "m.keras")
    assert process("check", "--update", "m.keras").returncode == 0
    assert process("check", "--jobs", 2).returncode == 0
    (repository / "after.keras").rename(repository / "m.keras")
    done = process("check", "--jobs", 2)
    assert done.returncode == 1, done.stderr
    assert "channel 2 is no longer masked" in done.stdout and "has 4 channels and had 3" in done.stdout
