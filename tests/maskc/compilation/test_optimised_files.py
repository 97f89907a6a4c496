"""Files that ONNX Runtime has optimised and saved, given to the commands."""

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from tests.generators.architectures import Masks, build, convnext
from tests.maskc.command import maskc, refused
from tests.passes.text import optimised

FIXTURES = Path(__file__).parents[3] / "fixtures"
LEVELS = ort.GraphOptimizationLevel


def saved(source: Path, level: LEVELS, folder: Path) -> Path:
    """The file as ONNX Runtime saves it at this level."""
    optimised(onnx.load(source), folder, level)
    return folder / "optimised.onnx"


def test_operators_that_only_onnx_runtime_has_in_the_domain_of_the_standard(tmp_path: Path) -> None:
    """LayerNormalization before opset 17, and the one without a mean, which the ONNX checker refuses."""
    onnx.save(build(convnext, Masks(), opset=13).model(), tmp_path / "m.onnx")
    source = saved(tmp_path / "m.onnx", LEVELS.ORT_ENABLE_EXTENDED, tmp_path)
    operators = {node.op_type for node in onnx.load(source).graph.node if not node.domain}
    assert {"LayerNormalization", "SimplifiedLayerNormalization"} <= operators
    result = maskc("compile", source, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0 and "Verified" in result.stdout, result.stderr
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)


def test_layers_have_the_names_that_they_had(tmp_path: Path) -> None:
    source = FIXTURES / "resnet.onnx"
    result = maskc("diff", source, saved(source, LEVELS.ORT_ENABLE_EXTENDED, tmp_path))
    assert "gone" not in result.stdout and "1.00×" in result.stdout


@pytest.mark.parametrize("command", ["compile", "flops", "explain"])
def test_one_laid_out_for_a_machine_is_refused(command: str, tmp_path: Path) -> None:
    source = saved(FIXTURES / "resnet.onnx", LEVELS.ORT_ENABLE_ALL, tmp_path)
    if not any(node.domain == "com.microsoft.nchwc" for node in onnx.load(source).graph.node):
        pytest.skip("ONNX Runtime has no layout of its own for this processor")
    output = ["-o", tmp_path / "out.onnx"] if command == "compile" else []
    refused(maskc(command, source, *output), 2, "laid the model out for one machine", "ORT_ENABLE_EXTENDED")
    assert not (tmp_path / "out.onnx").exists()
