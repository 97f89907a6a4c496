"""benchmarks/pruning.py measures what it says: its parts, a small run, and the page made of its record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import maskc
from benchmarks import pruning
from benchmarks.sections import pruned_models
from tests.passes.text import model

SMALL = pruning.Settings(
    side=32,
    alpha=0.1,
    examples=100,
    batch=16,
    train_steps=3,
    target=0.97,
    burn_in=2,
    prune_every=2,
    tune_steps=2,
    round_batches=1,
)


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise for digits, 300 of them."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(300, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 300)
    monkeypatch.setattr(pruning.datasets, "mnist", lambda: (images, labels))


@pytest.mark.usefixtures("digits")
def test_all_phases_take_the_examples_that_are_not_held_out(tmp_path: Path) -> None:
    pruning.prepare(SMALL, 0, tmp_path)
    with np.load(tmp_path / "data.npz") as data:
        assert data["images"].shape == (100, 32, 32) and data["images"].max() > 200
        assert data["known"] == 80
        assert data["train"].shape == (3, 16) and data["tune"].shape == (2, 16)
        assert np.bincount(data["prune"].ravel()).tolist() == [2] * 80
        assert len(np.unique(data["train"])) == 48


@pytest.mark.usefixtures("digits")
def test_a_directory_is_of_one_kind_of_run(tmp_path: Path) -> None:
    pruning.prepare(SMALL, 0, tmp_path)
    before = (tmp_path / "data.npz").read_bytes()
    pruning.prepare(SMALL, 0, tmp_path)
    assert (tmp_path / "data.npz").read_bytes() == before
    with pytest.raises(SystemExit, match="other settings"):
        pruning.prepare(replace(SMALL, batch=8), 0, tmp_path)


@pytest.mark.usefixtures("digits")
def test_seeds_are_collected_that_were_measured_alike(tmp_path: Path) -> None:
    for seed, settings in enumerate((SMALL, SMALL, replace(SMALL, batch=8))):
        pruning.prepare(settings, seed, tmp_path / f"seed-{seed}")
        (tmp_path / f"seed-{seed}" / "figures.json").write_text(json.dumps({"trained": {"accuracy": seed}}))
    assert pruning.collected(SMALL, tmp_path) == {f"{seed}": {"trained": {"accuracy": seed}} for seed in (0, 1)}


def test_images_are_scaled_between_the_centres_of_pixels() -> None:
    image = np.array([[[0, 1], [0, 1]]], np.float32)
    assert pruning._scaled(image, 4)[0, 0].tolist() == [0, 64, 191, 255]  # as tf.image.resize has it


@pytest.mark.usefixtures("digits")
def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, cut = [], [True]

    def stage(name: str) -> Any:
        def make(*_: Any) -> dict[str, Any]:
            if name == "tuned" and cut.pop():
                raise KeyboardInterrupt
            done.append(name)
            return {"of": name}

        return make

    for name in ("trained", "pruned", "tuned"):
        monkeypatch.setattr(pruning, name, stage(name))
    saved: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        pruning.measure(SMALL, 0, tmp_path, lambda: saved.append(list(pruning.read(tmp_path))), torch=False)
    cut.append(False)
    pruning.measure(SMALL, 0, tmp_path, lambda: saved.append(list(pruning.read(tmp_path))), torch=False)
    assert done == ["trained", "pruned", "tuned"]
    assert saved == [["trained"], ["trained", "maskc, pruned"], ["trained", "maskc, pruned", "maskc, tuned"]]


@pytest.mark.usefixtures("digits")
def test_both_layouts_of_images_are_judged_alike(tmp_path: Path) -> None:
    """A matrix product of the flattened image, channels first; and of the image with them last, turned."""
    pruning.prepare(SMALL, 0, tmp_path)
    weight = np.random.default_rng(0).normal(size=(3 * 32 * 32, 10)).astype(np.float32)
    for name, shape, turned in (
        ("first", "n,3,32,32", "t = Identity(x)"),
        ("last", "n,32,32,3", "t = Transpose<perm=[0,3,1,2]>(x)"),
    ):
        body = f"{turned} f = Flatten(t) y = MatMul(f, w)"
        onnx.save(model(f"(float[{shape}] x) => (float[n,10] y)", body, w=weight), tmp_path / f"{name}.onnx")
    first, last = (pruning.judged(tmp_path / f"{name}.onnx", tmp_path) for name in ("first", "last"))
    with np.load(tmp_path / "data.npz") as data:
        pixels = np.repeat(data["images"][80:, np.newaxis] / np.float32(127.5) - 1, 3, axis=1).reshape(20, -1)
        expected = np.mean((pixels @ weight).argmax(-1) == data["labels"][80:])
    assert first["accuracy"] == last["accuracy"] == pytest.approx(expected)
    assert first["flops"] == maskc.flops(tmp_path / "first.onnx").flops


def test_the_table_has_a_row_for_each_way_that_is_done() -> None:
    seconds = {"preparing": 1.0, "deciding": 2.0, "training": 3.0}
    results = {
        "trained": {"seconds": 9, "flops": 1000, "accuracy": 0.9},
        "maskc, pruned": seconds | {"rounds": 1234, "updates": 1250, "flops": 190, "accuracy": 0.5},
        "maskc, tuned": {"seconds": 7, "flops": 200, "accuracy": 0.8},
        "twin": {"flops": 2000, "error": 1e-6, "accuracy": 0.9},
        "Torch-Pruning, pruned": seconds | {"rounds": 56, "updates": 0, "flops": 500, "accuracy": 0.4},
    }
    record = {"date": "", "settings": json.loads(json.dumps(vars(SMALL))), "results": {"7": results}}
    made = pruned_models.pruning(record | {"versions": {}, "peers": {}})
    assert "| 7, maskc | 0.200 | 1,234 | 1,250 | 1.0 | 2.0 | 3.0 | 0.500 | 0.800 | 7 |" in made
    assert "1e-06" in made and "| 7, Torch-Pruning" not in made
    results["Torch-Pruning, tuned"] = {"seconds": 6, "flops": 500, "accuracy": 0.7}
    made = pruned_models.pruning(record | {"versions": {}, "peers": {}})
    assert "| 7, Torch-Pruning | 0.250 | 56 | 0 | 1.0 |" in made


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.usefixtures("digits")
def test_one_group_goes_at_a_time_until_the_target_is_reached(tmp_path: Path) -> None:
    """The stages of maskc, on a network smaller than a MobileNetV2 can be."""
    import keras

    settings = replace(SMALL, target=0.6)
    pruning.prepare(settings, 0, tmp_path)
    layers = [keras.layers.Conv2D(n, 3, 2, activation="relu") for n in (8, 16)]
    network = keras.Sequential([keras.Input((32, 32, 3)), *layers, keras.layers.Flatten(), keras.layers.Dense(10)])
    whole = pruning._stored(network, tmp_path, "trained")
    pruned = pruning.pruned(settings, 0, tmp_path)
    assert 0.4 * whole["flops"] < pruned["flops"] <= 0.6 * whole["flops"]
    assert pruned["entries before"] == 24 and pruned["rounds"] == pruned["entries"] < 24
    assert pruned["updates"] == settings.burn_in + settings.prune_every * pruned["rounds"]
    assert min(pruned[part] for part in ("preparing", "training", "deciding")) > 0
    tuned = pruning.tuned(settings, 0, tmp_path)
    assert tuned["flops"] == pruned["flops"] and tuned["seconds"] > 0
    before, after = (pruning.logits(tmp_path / f"maskc-{name}.onnx", tmp_path) for name in ("pruned", "tuned"))
    assert before.shape == (20, 10) and np.abs(before - after).max() > 1e-3
