"""Trained models that other people publish inside Python packages, with random masks behind every layer.

A package that is not installed is skipped. None of them is a dependency of the tests.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from passes import shrink
from tests.generators.check import (
    assert_exact,
    assert_explained,
    assert_same_function,
    assert_well_formed,
    random_feeds,
    required_inputs,
    with_sizes,
)
from tests.generators.measure import least_macs, mask_layers


@dataclass(frozen=True)
class Published:
    """A model file in a package; `sizes` are those of its input's axes where they are symbolic."""

    package: str
    file: str
    sizes: tuple[int, ...]
    most: float  # MACs left over the least possible

    def path(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"the package {self.package} is not installed")
        path = Path(spec.submodule_search_locations[0]) / self.file
        if not path.exists():
            pytest.skip(f"this version of {self.package} has no {self.file}")
        return path


MODELS = (
    Published("basic_pitch", "saved_models/icassp_2022/nmp.onnx", (1,), 1.02),
    Published("magika", "models/standard_v3_3/model.onnx", (1,), 2.05),
    Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 64, 96), 1.1),
    Published("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 64), 0.6),
    Published("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 48), 1.1),
)


@pytest.mark.slow
@pytest.mark.parametrize("published", MODELS, ids=lambda p: Path(p.file).stem)
def test_random_masks_behind_every_layer(published: Published) -> None:
    source = onnx.load(published.path())
    (info,) = required_inputs(source)
    ranges = {info.name: (0, 256)}
    sizes = {
        dim.dim_param: size
        for dim, size in zip(info.type.tensor_type.shape.dim, published.sizes, strict=False)
        if dim.dim_value <= 0
    }
    masked, kept = mask_layers(source, seed=1)
    shrunk = shrink(masked)
    assert_well_formed(masked, shrunk.model)
    assert_explained(shrunk.report)
    symbols = {name: (size, size + 32 if size > 1 else 3) for name, size in sizes.items()}
    assert_same_function(masked, shrunk.model, samples=1, symbols=symbols, ranges=ranges)

    fixed = with_sizes(masked, sizes)
    feeds = [random_feeds(fixed, seed, sizes, ranges) for seed in range(3)]
    assert assert_exact(fixed, cases=feeds[:1])
    left, least = shrink(fixed).report.after.macs, least_macs(fixed, kept, feeds)
    print(f"{published.file}: {left} MACs left, {least} at least, {left / least:.2f}")
    assert left <= published.most * least
