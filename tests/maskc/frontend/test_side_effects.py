"""SavedModels that do more than compute are found before TensorFlow runs them, and refused unless they are trusted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc.frontend.tensorflow.importing import import_tensorflow
from tests.maskc.command import compile_refused, maskc, succeeded

pytestmark = pytest.mark.tensorflow

Effect = Callable[[Any, Any, Path], Any]


def written(tf: Any, x: Any, path: Path) -> Any:
    tf.io.write_file(str(path), "written by a model")
    return x


def printed(tf: Any, x: Any, path: Path) -> Any:
    tf.print("printed by a model", output_stream=f"file://{path}")
    return x


def checkpointed(tf: Any, x: Any, path: Path) -> Any:
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    return x


def in_python(tf: Any, x: Any, path: Path) -> Any:
    result = tf.py_function(lambda value: value, [x], tf.float32)
    result.set_shape(x.shape)
    return result


def shown(tf: Any, x: Any, path: Path) -> Any:
    tf.print("to the terminal")
    return x


def filled(tf: Any, x: Any, path: Path) -> Any:
    return x + tf.reduce_sum(tf.zeros([2**20, 2**10]))


def saved(directory: Path, effect: Effect, path: Path, initializing: bool = False) -> Path:
    """A SavedModel whose signature has an effect, or that has it when it is loaded."""
    tf = import_tensorflow()

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.Variable(np.ones((4, 2), np.float32))

        @tf.function(input_signature=[tf.TensorSpec([2, 4], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def scores(self, x: Any) -> Any:
            return {"scores": (x if initializing else effect(tf, x, path)) @ self.w}

        @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
        def another(self) -> Any:
            return effect(tf, tf.zeros([2, 4]), path)

    module = Module()
    signatures = {"serving_default": module.scores} | ({"another": module.another} if initializing else {})
    tf.saved_model.save(module, directory, signatures=signatures)
    return directory


@pytest.mark.parametrize("effect", [written, printed, checkpointed, in_python])
def test_what_reaches_out_is_refused(tmp_path: Path, effect: Effect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASKC_TRUST", raising=False)
    (tmp_path / "models").mkdir()
    source = saved(tmp_path / "models" / "m", effect, tmp_path / "effect")
    compile_refused(source, "does more than compute", "use --trust")
    assert not list(tmp_path.glob("effect*"))


def test_anywhere_in_it(tmp_path: Path) -> None:
    """Loading runs what a SavedModel says that it needs for that."""
    source = saved(tmp_path / "m", written, tmp_path / "effect", initializing=True)
    compile_refused(source, "does more than compute", "(WriteFile)")


def test_what_is_trusted_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKC_TRUST", "0")  # and what the option sets is taken back
    source = saved(tmp_path / "m", written, tmp_path / "effect")
    succeeded("compile", source, "-o", tmp_path / "out.onnx", "--trust")
    assert (tmp_path / "effect").read_text() == "written by a model"


def test_a_constant_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    source = saved(tmp_path / "models" / "m", filled, tmp_path / "effect")
    compile_refused(source, "(Fill) makes a constant of 1,073,741,824 elements")


def test_what_is_printed_to_the_terminal_is_no_harm(tmp_path: Path) -> None:
    assert maskc("compile", saved(tmp_path / "m", shown, tmp_path / "effect"), "--no-verify").exit_code == 0
