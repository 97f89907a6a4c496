"""TFRecords and feature specifications: what a model is given, in which order, and what does not fit."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from maskc.errors import InputError
from maskc.train import FeatureSpec, Records, write_records
from maskc.train.data.parsing import model_inputs

SPEC = FeatureSpec(
    features={
        "age": {"kind": "dense"},
        "place": {"kind": "dense", "shape": (2,), "type": "int", "default": 3},
        "genres": {"kind": "sparse", "size": 4, "values": "strength"},
        "user": {"kind": "categorical", "size": 5},
        "gender": {"kind": "categorical", "vocabulary": ["F", "M"]},
        "code": {"kind": "categorical", "vocabulary": [20, 10], "default": 10},
        "title": {"kind": "categorical", "buckets": 7},
        "zone": {"kind": "categorical", "buckets": 7, "type": "int"},
        "history": {"kind": "sequence", "vocabulary": ["a", "b"], "length": 3},
        "clicks": {"kind": "sequence", "size": 9, "length": 2, "keep": "first"},
    },
    label="liked",
    weight="importance",
)
FULL: dict[str, Any] = {
    "age": 1.5,
    "place": [4, 5],
    "genres": [1, 3, 1],
    "strength": [1.0, 2.0, 0.5],
    "user": 4,
    "gender": "M",
    "code": 20,
    "title": "Heat",
    "zone": 12,
    "history": ["a", "?", "b", "b"],
    "clicks": [8, 0, 1],
    "liked": 1.0,
    "importance": 0.5,
}
SPARE: dict[str, Any] = {
    **{key: value for key, value in FULL.items() if key not in ("place", "code")},
    "genres": [],
    "strength": [],
    "gender": "?",
    "history": ["b"],
    "clicks": [],
}


def test_every_kind_of_feature_becomes_what_the_specification_says(tmp_path: Path) -> None:
    assert write_records(tmp_path / "a.tfrecord", [FULL, SPARE]) == 2
    (batch,) = list(Records(tmp_path / "a.tfrecord", SPEC, 2, shuffle=0)(0))
    inputs, label, weight = batch
    expected = {
        "age": [[1.5], [1.5]],
        "place": [[4, 5], [3, 3]],
        "genres": [[0, 1.5, 0, 2], [0, 0, 0, 0]],
        "user": [4, 4],
        "gender": [2, 0],
        "code": [1, 2],
        "history": [[1, 3, 3], [3, 0, 0]],
        "clicks": [[9, 1], [0, 0]],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(inputs[name], values, err_msg=name)
    # FarmHash of "Heat" and of "12": fixed for all time, since trained embeddings depend on it.
    np.testing.assert_array_equal(inputs["title"], [6, 6])
    np.testing.assert_array_equal(inputs["zone"], [3, 3])
    np.testing.assert_array_equal(label, [[1], [1]])
    np.testing.assert_array_equal(weight, [0.5, 0.5])
    for name, tensor in model_inputs(SPEC).items():
        assert tensor.dtype == inputs[name].dtype.name, name
        assert tensor.shape[1:] == inputs[name].shape[1:], name


def test_depths_are_what_an_embedding_needs() -> None:
    depths = {name: feature.depth for name, feature in SPEC.features.items() if hasattr(feature, "depth")}
    assert depths == {"user": 5, "gender": 3, "code": 3, "title": 7, "zone": 7, "history": 4, "clicks": 10}


NUMBERS = FeatureSpec(
    features={"number": {"kind": "categorical", "size": 1000}}, label={"name": "label", "type": "int"}
)


def numbered(path: Path, start: int, count: int) -> None:
    write_records(path, [{"number": start + i, "label": i} for i in range(count)])


def order(dataset: Any) -> list[int]:
    return [int(number) for inputs, _ in dataset for number in inputs["number"]]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_order_depends_on_seed_and_epoch_alone(tmp_path: Path, suffix: str) -> None:
    for part in range(3):
        numbered(tmp_path / f"{part}.tfrecord{suffix}", 20 * part, 20)
    pattern = tmp_path / f"*.tfrecord{suffix}"
    records = Records(pattern, NUMBERS, 7, shuffle=30, seed=1)
    epochs = [order(records(epoch)) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs == [order(Records(pattern, NUMBERS, 7, shuffle=30, seed=1)(epoch)) for epoch in range(3)]
    assert order(Records(pattern, NUMBERS, 7, shuffle=30, seed=2)(0)) != epochs[0]
    assert order(records(1, skip=4)) == epochs[1][28:]
    assert order(Records(pattern, NUMBERS, 7, shuffle=0)(1)) == list(range(60))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"user": 5}, "user", "holds 5 where the specification says 0 to 4"),
        ({"clicks": [-1]}, "clicks", "holds -1 where the specification says 0 to 8"),
        ({"genres": [4, 1, 1]}, "genres", "holds 4 where the specification says 0 to 3"),
        ({"age": float("nan")}, "age", "holds a value that is not a finite number"),
        ({"age": [1.0, 2.0]}, "age", "has 2 values where the specification says 1"),
        ({"age": []}, "age", "is missing"),
        ({"history": [1]}, "history", "holds whole numbers where the specification says strings"),
        ({"strength": [1.0]}, "strength", "has 1 values and 'genres' has 3"),
        ({"liked": 1}, "liked", "holds whole numbers where the specification says floating-point numbers"),
        ({"importance": []}, "importance", "is missing"),
    ],
)
def test_records_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], field: str, told: str) -> None:
    """Among the first hundred, which are looked at before, and those that are met while reading."""
    path = tmp_path / "bad.tfrecord"
    write_records(path, [SPARE, SPARE, {**FULL, **change}])
    with pytest.raises(InputError, match=rf"bad\.tfrecord, record 2: the field '{field}' {told}"):
        Records(path, SPEC)
    write_records(path, [*[SPARE] * 120, {**FULL, **change}])
    records = Records(path, SPEC, 8)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        list(records(0))
    explained = records.explain(raised.value)
    assert str(explained).startswith(f"{path}, record 120: the field '{field}' {told}")


def test_a_misspelt_name_is_missing_everywhere(tmp_path: Path) -> None:
    write_records(tmp_path / "a.tfrecord", [{"hist": [1], "y": 1.0}] * 3)
    spec = FeatureSpec(features={"history": {"kind": "sequence", "size": 3, "length": 2}}, label="y")
    with pytest.raises(InputError, match="none of the first 3 records has the field 'history'"):
        Records(tmp_path / "a.tfrecord", spec)


def test_files_that_are_no_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tfrecord").write_bytes(b"this is a text file, whatever it is called")
    with pytest.raises(InputError, match=r"a\.tfrecord is not a TFRecord file, or it is damaged after record 0"):
        Records(tmp_path / "a.tfrecord", SPEC)
    with pytest.raises(InputError, match="There is no file"):
        Records(tmp_path / "*.missing", SPEC)
    with tf.io.TFRecordWriter(str(tmp_path / "b.tfrecord")) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(InputError, match=r"b\.tfrecord, record 0: it is not a tf\.train\.Example"):
        Records(tmp_path / "b.tfrecord", SPEC)


def test_files_that_change_after_they_were_looked_at_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    numbered(path, 0, 3)
    records = Records(path, NUMBERS)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"a\.tfrecord is not a TFRecord file, or it is damaged after record"):
        records.count_batches()
    path.unlink()
    with pytest.raises(InputError, match=r"a\.tfrecord cannot be read: [^{]*No such file or directory\.$"):
        records.count_batches()
    path.mkdir()
    with pytest.raises(InputError, match=r"a\.tfrecord cannot be read: [^{]*Is a directory\.$"):
        records.count_batches()


def test_seeds_epochs_and_batches_are_counted_from_0(tmp_path: Path) -> None:
    numbered(tmp_path / "a.tfrecord", 0, 3)
    with pytest.raises(InputError, match="seed must be a whole number of at least 0, not -1"):
        Records(tmp_path / "a.tfrecord", NUMBERS, seed=-1)
    for name in ("epoch", "skip"):
        with pytest.raises(InputError, match=f"{name} must be a whole number of at least 0, not -1"):
            Records(tmp_path / "a.tfrecord", NUMBERS)(**{name: -1})


@pytest.mark.parametrize("value", [2**63, 10**400, None, object()], ids=["2^63", "10^400", "None", "an object"])
def test_what_records_have_no_room_for_is_not_written(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"'number' cannot be written: .* neither a text nor a number of 64 bits"):
        write_records(tmp_path / "a.tfrecord", [{"number": value}])


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError, match="it is not a file that could be replaced"):
            write_records(path, [])
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    numbered(tmp_path / "a.tfrecord", 0, 3)

    def failing() -> Any:
        yield {"number": 1, "label": 0}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_records(tmp_path / "a.tfrecord", failing())
    with pytest.raises(InputError, match="'number' cannot be written"):
        write_records(tmp_path / "a.tfrecord", [{"number": object()}])
    assert order(Records(tmp_path / "a.tfrecord", NUMBERS, shuffle=0)(0)) == [0, 1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tfrecord"]


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        ({"kind": "categorical"}, "exactly one of size, vocabulary and buckets"),
        ({"kind": "categorical", "size": 3, "buckets": 2}, "exactly one of size, vocabulary and buckets"),
        ({"kind": "categorical", "vocabulary": ["a", "a"]}, "has a value twice"),
        ({"kind": "categorical", "size": 3, "default": "x"}, "default must be a whole number"),
        ({"kind": "sequence", "size": 3}, "length"),
        ({"kind": "vector"}, "kind"),
        ({"kind": "categorical", "size": 3, "default": 3}, "default must be from 0 to 2"),
        ({"kind": "dense", "default": float("nan")}, "finite number"),
        ({"kind": "dense", "type": "int", "default": float("inf")}, "finite number"),
        ({"kind": "dense", "shape": [0]}, "greater than 0"),
        ({"kind": "sparse", "size": 3, "values": "y"}, "'y' is used twice"),
    ],
)
def test_wrong_specifications_are_refused(feature: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        FeatureSpec(features={"x": feature}, label="y")


def test_specifications_are_read_from_yaml_and_json(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(SPEC.model_dump_json())
    assert FeatureSpec.read(tmp_path / "spec.json") == SPEC
    (tmp_path / "spec.yaml").write_text("features:\n  age: {kind: dense}\n  who: {kind: categorical}\nlabel: y\n")
    with pytest.raises(InputError, match=r"spec.yaml: the field 'features.who.categorical': give exactly one of"):
        FeatureSpec.read(tmp_path / "spec.yaml")
    (tmp_path / "spec.yaml").write_text("features: {")
    with pytest.raises(InputError, match="is not YAML"):
        FeatureSpec.read(tmp_path / "spec.yaml")
