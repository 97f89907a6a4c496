"""MaskNet against its definition in numpy, its configuration, saving, and how it prunes and compiles."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import maskc
from maskc.errors import InputError
from maskc.train import MaskLayer, PruningOptimizer
from maskc.train.mask_layer import mask_layers
from maskc.train.models.masknet import MaskBlock, MaskBlockConfig, MaskNet, MaskNetConfig, MlpConfig
from tests.marks import before_releases

BLOCK = {"output_size": 6, "aggregation_size": 7, "input_layer_norm": True}
MLP = {"layer_sizes": [8, 5, 1]}


def config(parallel: bool, mlp: Any = MLP, **block: Any) -> MaskNetConfig:
    first, second = {**BLOCK, **block}, {**BLOCK, "output_size": 9, "input_layer_norm": False, **block}
    return MaskNetConfig(mask_blocks=[first, second], mlp=mlp, use_parallel=parallel)


def network(settings: MaskNetConfig, dtype: str | None = None) -> Any:
    inputs = keras.Input((10,))
    return keras.Model(inputs, MaskNet(settings, dtype=dtype, name="net")(inputs))


def scatter(model: Any) -> Any:
    """Moves every weight but masks and signals away from its initial value."""
    rng = np.random.default_rng(1)
    kept = {id(weight) for layer in mask_layers(model) for weight in layer.weights}
    for weight in model.weights:
        if id(weight) not in kept:
            weight.assign(np.abs(weight.numpy() + rng.normal(0, 0.2, weight.shape)))
    return model


def drop(model: Any) -> Any:
    """Sets about half of each mask to zero."""
    rng = np.random.default_rng(2)
    for layer in mask_layers(model):
        layer.mask.assign(np.maximum(rng.random(layer.mask.shape) < 0.5, np.arange(layer.mask.shape[0]) == 0))
    return model


def dense(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ layer.kernel.numpy() + layer.bias.numpy()


def norm(layer: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * layer.gamma.numpy() + layer.beta.numpy()


def block_by_hand(block: MaskBlock, net: np.ndarray, guide: np.ndarray) -> np.ndarray:
    masks = {name: layer.mask.numpy() for name, layer in block.masks.items()}
    if block.config.input_layer_norm:
        net = norm(block.input_norm, net)
    aggregation = np.maximum(dense(block.aggregation, guide), 0) * masks["aggregation"]
    hidden = dense(block.hidden, net * dense(block.projection, aggregation)) * masks["hidden"]
    output = norm(block.output_norm, hidden)
    return (np.maximum(output, 0) if block.config.activation else output) * masks["output"]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_it_computes_its_definition(parallel: bool, activation: str | None) -> None:
    model = drop(scatter(network(config(parallel, activation=activation))))
    net = model.get_layer("net")
    x = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    first, second = net.blocks
    if parallel:
        shared = np.concatenate([block_by_hand(first, x, x), block_by_hand(second, x, x)], axis=-1)
    else:
        shared = block_by_hand(second, block_by_hand(first, x, x), x)
    y = shared
    denses = [step for step in net.mlp.steps if isinstance(step, keras.layers.Dense)]
    masks = [step for step in net.mlp.steps if isinstance(step, MaskLayer)]
    for layer, mask in zip(denses[:-1], masks, strict=True):
        y = np.maximum(dense(layer, y), 0) * mask.mask.numpy()
    outputs = model(x)
    assert set(outputs) == {"output", "shared_layer"}
    np.testing.assert_allclose(outputs["shared_layer"], shared, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["output"], dense(denses[-1], y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parallel", [True, False])
def test_without_an_mlp_the_output_is_the_shared_layer(parallel: bool) -> None:
    outputs = MaskNet(config(parallel, mlp=None))(np.ones((3, 10), np.float32))
    assert outputs["shared_layer"].shape == (3, 15 if parallel else 9)
    np.testing.assert_array_equal(outputs["output"], outputs["shared_layer"])


@pytest.mark.parametrize("parallel", [True, False])
def test_it_is_saved_and_loaded(parallel: bool, tmp_path: Path) -> None:
    mlp = {**MLP, "batch_norm": {"affine": False}, "dropout": {"rate": 0.2}, "final_layer_activation": True}
    model = drop(scatter(network(config(parallel, mlp=mlp))))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("net").config == model.get_layer("net").config
    x = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x)["output"], model(x)["output"])


def test_masks_are_on_what_may_shrink_and_not_on_the_output() -> None:
    model = network(config(True))
    sizes = sorted(layer.mask.shape[0] for layer in mask_layers(model))
    # Aggregations of 7 and 7; hidden layers and outputs of 6 and 9; 8 and 5 in the MLP.
    assert sizes == sorted([7, 7, 6, 6, 9, 9, 8, 5])
    bare = keras.Input((10,))
    assert mask_layers(keras.Model(bare, MaskNet(config(True), prunable=False)(bare))) == []


def test_it_computes_in_half_precision_where_asked() -> None:
    model = network(config(False), dtype="mixed_bfloat16")
    assert model.get_layer("net").blocks[0].hidden.kernel.dtype == "float32"
    assert model.output["output"].dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [False, *before_releases(True)])
def test_pruned_networks_compile_to_the_flops_the_optimizer_believes(parallel: bool, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10,))
    net = MaskNet(config(parallel, mlp={**MLP, "batch_norm": {}}), name="net")
    model = keras.Model(inputs, net(inputs)["output"])
    x = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    y = (x[:, :1] * x[:, 1:2] > 0).astype(np.float32)
    optimizer = PruningOptimizer(keras.optimizers.Adam(1e-2), prune_every=1, flops_target=0.5)
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=16, epochs=12, verbose=0)
    assert optimizer.reached
    model.export(tmp_path / "model", verbose=False)
    compiled = maskc.compile(tmp_path / "model", align="none", verify=True)
    compiled.save(tmp_path / "model.onnx")
    assert compiled.report.verification is not None
    assert compiled.report.verification.passed
    assert maskc.flops(tmp_path / "model.onnx").flops == optimizer.flops


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"output_size": 0, "aggregation_size": 4, "input_layer_norm": True}, "output_size"),
        ({"output_size": 4, "input_layer_norm": True}, "either reduction_factor or aggregation_size"),
        ({**BLOCK, "reduction_factor": 2.0}, "either reduction_factor or aggregation_size"),
        ({**BLOCK, "size": 3}, "size"),
    ],
)
def test_wrong_configurations_are_refused(wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError, match=where):
        MaskBlockConfig(**wrong)


def test_wrong_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text('{"mask_blocks": [{"output_size": 4, "aggregation_size": -1, "input_layer_norm": true}]}')
    with pytest.raises(InputError, match=r"net.json: the field 'mask_blocks.0.aggregation_size': .* greater than 0\."):
        MaskNetConfig.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        MlpConfig.read(tmp_path / "missing.yaml")


def test_a_reduction_that_leaves_nothing_is_refused() -> None:
    block = MaskBlock({"output_size": 4, "reduction_factor": 0.1, "input_layer_norm": False})
    with pytest.raises(InputError, match="leaves no aggregation of 5 channels"):
        block(np.ones((2, 5), np.float32), np.ones((2, 5), np.float32))
