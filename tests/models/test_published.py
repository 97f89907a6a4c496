"""Trained models that other people publish inside Python packages, with random masks behind every layer.

A package that is not installed is skipped. None of them is a dependency of the tests.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc
from passes import count, fix_sizes, shrink
from passes.model.declarations import dims_of
from tests.generators.check import assert_exact, assert_same_function
from tests.generators.form import assert_explained, assert_well_formed
from tests.generators.measure import least_macs, mask_layers
from tests.generators.running import random_feeds, required_inputs


@dataclass(frozen=True)
class Published:
    """A model file in a package; `sizes` are those of its input's axes."""

    package: str
    file: str
    sizes: tuple[int, ...]
    most: float  # MACs left over the least possible
    most_always: float  # the same where constants are always restored by adapters

    def several(self, info: onnx.ValueInfoProto) -> list[tuple[int, ...]]:
        """Sizes of the input to run it at: axes without a size of their own once more, each larger than before."""
        fixed = [dim.dim_value > 0 for dim in info.type.tensor_type.shape.dim]
        more = [1 if axis == 0 else 32 for axis in range(len(self.sizes))]
        larger = tuple(s if f else s + m for s, f, m in zip(self.sizes, fixed, more, strict=True))
        return [self.sizes, larger]

    def load(self) -> onnx.ModelProto:
        """The model; the test is skipped where the package or this version of it does not have it."""
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec is not None else None
        path = Path(folders[0]) / self.file if folders else None
        if path is None or not path.exists():
            pytest.skip(f"no {self.file} of the package {self.package} is installed")
        return onnx.load(path)


MODELS = (
    Published("basic_pitch", "saved_models/icassp_2022/nmp.onnx", (1, 43844, 1), 1.02, 1.02),
    Published("magika", "models/standard_v3_3/model.onnx", (1, 2048), 1.02, 1.02),
    Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96), 1.1, 1.0),
    Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 64), 0.8, 0.8),
    Published("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192), 1.65, 0.95),
)


@pytest.mark.slow
@pytest.mark.parametrize("published", MODELS, ids=lambda p: Path(p.file).stem)
def test_random_masks_behind_every_layer(published: Published) -> None:
    source = published.load()
    (info,) = required_inputs(source)
    ranges = {info.name: (0, 256)}
    masked, kept = mask_layers(source, seed=1)
    shrunk = shrink(masked)
    assert_well_formed(masked, shrunk.model)
    assert_explained(shrunk.report)
    cases = [random_feeds(fix_sizes(source, {info.name: sizes}), 0, ranges=ranges) for sizes in published.several(info)]
    assert_same_function(masked, shrunk.model, cases=cases)
    sizes = {info.name: published.sizes}
    opened, closed = count(fix_sizes(shrunk.model, sizes)).macs, shrink(fix_sizes(masked, sizes)).report.after.macs
    print(f"{published.file}: {opened / closed:.4f} of the MACs left with fixed sizes are left with open ones")
    assert opened <= 1.02 * closed

    fixed, _ = mask_layers(fix_sizes(source, {info.name: published.sizes}), seed=1)
    feeds = [random_feeds(fixed, seed, ranges=ranges) for seed in range(3)]
    assert assert_exact(fixed, cases=feeds[:1])
    least = least_macs(fixed, kept, feeds)
    for policy, most in (("auto", published.most), ("always", published.most_always)):
        smaller = shrink(fixed, adapters=policy)
        assert_same_function(fixed, smaller.model, cases=feeds)
        left = smaller.report.after.macs
        print(f"{published.file}, {policy}: {left} MACs left, {least} at least, {left / least:.3f}")
        assert left <= most * least


@pytest.mark.slow
@pytest.mark.openvino
@pytest.mark.parametrize("opened", [True, False], ids=["open", "fixed"])
@pytest.mark.parametrize("published", MODELS, ids=lambda p: Path(p.file).stem)
def test_the_same_function_in_openvino(published: Published, opened: bool) -> None:
    source = published.load()
    (info,) = required_inputs(source)
    sizes = published.several(info) if opened else [published.sizes]
    cases = [random_feeds(fix_sizes(source, {info.name: s}), 0, ranges={info.name: (0, 256)}) for s in sizes]
    masked, _ = mask_layers(source if opened else fix_sizes(source, {info.name: published.sizes}), seed=1)
    makers = {node.output[0]: node for node in masked.graph.node}
    for output in masked.graph.output:  # what half of the channels leave is 0 or 1 after these, whatever the input
        if makers[output.name].op_type in ("Sigmoid", "Softmax"):
            masked.graph.node.remove(makers[output.name])
            output.name = makers[output.name].input[0]
    for target in ("any", "openvino"):
        compiled = shrink(masked, target=target).model
        for feeds in cases:  # of the size that is declared, and of a larger one
            result = maskc.verify(masked, compiled, provider="openvino", inputs=feeds, samples=2)
            assert result.equivalent, (target, *result.reasons, *result.notes)


CRNN = Published("ddddocr", "common_old.onnx", (1, 1, 64, 160), 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("open_width", [True, False])
def test_a_mask_after_the_last_product_of_a_text_recogniser(open_width: bool) -> None:
    """It reads a computed Reshape, and the output is declared as a matrix where it has three axes."""
    source = CRNN.load()
    keep = np.random.default_rng(0).random(8210) < 0.5
    source.graph.initializer.append(onnx.numpy_helper.from_array(keep.astype(np.float32), "keep"))
    last = source.graph.node.pop()
    source.graph.node.append(onnx.helper.make_node("Mul", [last.input[0], "keep"], ["kept"]))
    last.input[0] = "kept"
    source.graph.node.append(last)
    feeds = [random_feeds(fix_sizes(source, {"input1": (1, 1, 64, width)}), 0) for width in (160, 96)]
    if not open_width:
        source, feeds = fix_sizes(source, {"input1": CRNN.sizes}), feeds[:1]
    result = shrink(source)
    assert_same_function(source, result.model, cases=feeds)
    assert result.report.before.params - result.report.after.params > 4_000_000
    assert dims_of(result.model.graph.output[0])[1:] == [1, 8210]
    assert open_width == any("is declared as [1, seqlen]" in note for note in result.report.notes)
