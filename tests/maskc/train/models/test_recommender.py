"""The ranking model that a specification and a configuration make, and the other ways to name a model."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import from_model
from maskc.train import FeatureSpec, Records, write_records
from maskc.train.mask_layer import mask_layers
from maskc.train.models.builders import load_model
from maskc.train.models.recommender import MeanEmbedding, RankerConfig, ranker

SPEC = FeatureSpec(
    features={
        "image": {"kind": "dense", "shape": (2, 3)},
        "tags": {"kind": "sparse", "size": 5},
        "user": {"kind": "categorical", "size": 7},
        "seen": {"kind": "sequence", "size": 4, "length": 3},
    },
    label="liked",
)
BLOCK: dict[str, Any] = {"output_size": 4, "aggregation_size": 3, "input_layer_norm": True}


def inputs(count: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(count, 2, 3)).astype(np.float32),
        "tags": rng.normal(size=(count, 5)).astype(np.float32),
        "user": rng.integers(0, 7, count).astype(np.int32),
        "seen": rng.integers(0, 5, (count, 3)).astype(np.int32),
    }


def test_every_kind_of_feature_is_read() -> None:
    model = ranker(RankerConfig(mask_blocks=[BLOCK], embedding_size=8, outputs=2), SPEC)
    assert model.get_layer("features").output.shape == (None, 6 + 8 + 8 + 8)
    given = inputs()
    before = model(given).numpy()
    assert before.shape == (2, 2)
    for name, values in given.items():
        changed = model({**given, name: (values + 1) % 5 if values.dtype == np.int32 else values + 1}).numpy()
        assert not np.allclose(changed, before), name


def test_fields_may_be_called_anything(tmp_path: Path) -> None:
    fields = ["hours per week", "user/id", "Füße", "_private", "2nd", "class", "self", "a", "a_embedding", "masknet"]
    spec = FeatureSpec(features={field: {"kind": "categorical", "size": 3} for field in fields}, label="y")
    model = ranker(RankerConfig(mask_blocks=[BLOCK], embedding_size=2, outputs=2), spec)
    names = ["hours_per_week", "user_id", "F__e", "arg__private", "arg_2nd", "class_", "self_", *fields[-3:]]
    assert list(model.input) == names == list(spec.inputs.values())
    write_records(tmp_path / "train.tfrecord", [dict.fromkeys(fields, 2) | {"y": 1.0}])
    ((given, _),) = Records(tmp_path / "train.tfrecord", spec)(0)
    assert model(given).shape == (1, 2)
    assert sorted(from_model(model).inputs) == sorted(names)
    with pytest.raises(InputError, match="inputs for both 'user id' and 'user_ID': rename one"):
        FeatureSpec(features={key: {"kind": "dense"} for key in ["user id", "user_ID"]}, label="y")


def test_an_mlp_that_ends_in_the_outputs_needs_nothing_behind_it() -> None:
    model = ranker(RankerConfig(mask_blocks=[BLOCK], mlp={"layer_sizes": [5, 1]}), SPEC)
    assert model.layers[-1].name == "masknet"
    assert model.output_shape == (None, 1)


def test_means_of_embeddings_leave_padding_out() -> None:
    layer = MeanEmbedding(5, 3)
    means = layer(np.array([[1, 4, 0], [0, 0, 0]], np.int32)).numpy()
    table = layer.embedding.embeddings.numpy()
    np.testing.assert_allclose(means, [(table[1] + table[4]) / 2, np.zeros(3)], rtol=1e-6)


def test_models_are_named_by_configuration_file_or_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RankerConfig(mask_blocks=[BLOCK, BLOCK], use_parallel=True, embedding_size=4)
    (tmp_path / "net.json").write_text(config.model_dump_json())
    model = load_model(str(tmp_path / "net.json"), SPEC)
    assert len(mask_layers(model)) == 6
    model.save(tmp_path / "net.keras")
    again = load_model(str(tmp_path / "net.keras"))
    np.testing.assert_array_equal(again(inputs()), model(inputs()))
    (tmp_path / "building.py").write_text(
        "import keras\n"
        "from maskc.train import ranker, RankerConfig\n"
        f"CONFIG = RankerConfig.model_validate({config.model_dump()!r})\n"
        "def with_spec(spec):\n    return ranker(CONFIG, spec)\n"
        "def without():\n    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])\n"
        "def wrong():\n    return 3\n"
        "def failing():\n    raise ValueError('no such thing')\n"
    )
    assert set(load_model(f"{tmp_path}/building.py:with_spec", SPEC).input) == set(SPEC.features)
    assert load_model(f"{tmp_path}/building.py:without").output_shape == (None, 1)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(load_model("building:without"), keras.Model)
    with pytest.raises(InputError, match="gave a int, and not a Keras model"):
        load_model(f"{tmp_path}/building.py:wrong")
    with pytest.raises(InputError, match="failed: ValueError: no such thing"):
        load_model(f"{tmp_path}/building.py:failing")
    with pytest.raises(InputError, match="no function 'missing'"):
        load_model(f"{tmp_path}/building.py:missing")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("net.onnx", "is not known: give a .yaml"),
        ("nowhere.py:build", "nowhere.py does not exist"),
        ("nowhere.module:build", "cannot be imported: ModuleNotFoundError"),
        ("nowhere.keras", r"nowhere\.keras does not exist"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_models_that_are_not_there_are_told(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_model(name, SPEC)


def test_a_configuration_that_leaves_no_aggregation_is_told(tmp_path: Path) -> None:
    config = RankerConfig(mask_blocks=[{**BLOCK, "aggregation_size": None, "reduction_factor": 0.001}])
    (tmp_path / "net.json").write_text(config.model_dump_json())
    with pytest.raises(InputError, match=r"net\.json: .*leaves no aggregation of 54 channels"):
        load_model(str(tmp_path / "net.json"), SPEC)
