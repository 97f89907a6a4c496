"""A file that ONNX Runtime has optimised and saved compiles to what the file from before does."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from maskc.frontend import runtime_shapes
from passes import Policy, fix_sizes, shrink
from passes.model.graph_to_onnx import exported
from passes.sizes.prepare import checked
from tests.generators.architectures import ARCHITECTURES, SYMBOLS, Masks, Net, build
from tests.generators.check import assert_same_function
from tests.generators.measure import mask_layers
from tests.generators.running import random_feeds, required_inputs
from tests.models.test_published import MODELS, Published
from tests.passes.text import optimised

FIXTURES = Path(__file__).parents[3] / "fixtures"
LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
NEAR = 0.01

# Its layers are of few channels, where computing constants and restoring them cost about the same: a multiplication
# that ONNX Runtime has folded decides between them. Restored always, as much is left of both.
CLOSE = "ch_ppocr_mobile_v2.0_cls_infer"


levels = pytest.mark.parametrize("level", LEVELS)


def runs(model: onnx.ModelProto) -> bool:
    try:
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def compare(source: onnx.ModelProto, level: str, folder: Path, adapters: Policy = "auto") -> onnx.ModelProto:
    """Compile both, as they are read; returns the optimised one's result, which computes what its source does."""
    source, saved = runtime_shapes.noted(source), runtime_shapes.noted(optimised(source, folder, LEVELS[level]))
    expected, found = shrink(source, adapters=adapters).report, shrink(saved, adapters=adapters)
    assert found.report.before.flops <= expected.before.flops
    assert found.report.after.flops == pytest.approx(expected.after.flops, rel=NEAR)
    return found.model


@levels
@pytest.mark.parametrize("name", ["digits.onnx", "masknet.onnx", "transformer.onnx"])
def test_a_fixture(name: str, level: str, tmp_path: Path) -> None:
    compare(onnx.load(FIXTURES / name), level, tmp_path)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(f"{node.domain}.{node.op_type}" for node in model.graph.node)


@pytest.mark.parametrize("name", ["digits.onnx", "masknet.onnx", "transformer.onnx"])
def test_what_is_decomposed_is_fused_again(name: str, tmp_path: Path) -> None:
    """So nothing is slower for it."""
    saved = optimised(onnx.load(FIXTURES / name), tmp_path, LEVELS["extended"])
    assert any(op.startswith("com.microsoft") for op in operators(saved))
    decomposed = exported(checked(saved), saved)
    assert not any(op.startswith("com.microsoft") for op in operators(decomposed))
    assert operators(optimised(decomposed, tmp_path, LEVELS["extended"])) == operators(saved)


@pytest.mark.slow
@levels
@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("*.onnx")))
def test_every_fixture(name: str, level: str, tmp_path: Path) -> None:
    source = onnx.load(FIXTURES / name)
    assert_same_function(source, compare(source, level, tmp_path))


# The generators write some operators as they were up to opset 17; before that, LayerNormalization is ONNX Runtime's.
@pytest.mark.slow
@pytest.mark.parametrize(("opset", "level"), [(13, "extended"), (17, "basic")])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.__name__)
def test_architectures(architecture: Callable[[Net], None], opset: int, level: str, tmp_path: Path) -> None:
    net = build(architecture, Masks(seed=1), opset=opset)
    source = net.model()
    if not runs(source):
        pytest.skip("an operator that this opset does not have")
    assert_same_function(source, compare(source, level, tmp_path), symbols=SYMBOLS, ranges=net.ranges)


@pytest.mark.slow
@levels
@pytest.mark.parametrize("published", MODELS, ids=lambda p: Path(p.file).stem)
def test_published_models(published: Published, level: str, tmp_path: Path) -> None:
    found = published.load()
    (info,) = required_inputs(found)
    fixed = fix_sizes(found, {info.name: published.sizes})
    source, _ = mask_layers(fixed, seed=1)
    made = compare(source, level, tmp_path, "always" if Path(published.file).stem == CLOSE else "auto")
    assert_same_function(source, made, cases=[random_feeds(fixed, 0, ranges={info.name: (0, 256)})])
