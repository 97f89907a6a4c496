"""The smaller Keras model computes the same, keeps its layers, and leaves the compiler nothing more to remove."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from maskc.errors import NotEquivalentError, PruningWarning
from maskc.train import MaskedMultiHeadAttention, MaskLayer, SelectChannels, prunable, shrink
from maskc.train.cost import compiled_flops
from maskc.train.mask_layer import mask_layers
from maskc.train.shrinking import check_outputs
from maskc.train.shrinking.known_channels import known_channels
from maskc.train.shrinking.shrink import rounded_up
from tests.marks import before_releases, often
from tests.maskc.train.shrinking.networks import NETWORKS, data, halve, kinds_of_convolutions, made, recommender, u_net

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore::maskc.errors.PruningWarning")]


def outputs(model: Any, inputs: Any) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in keras.tree.flatten(model(inputs, training=False))]


def error(model: Any, small: Any) -> float:
    """The largest error over the scale of an output."""
    inputs = data(model)
    pairs = zip(outputs(model, inputs), outputs(small, inputs), strict=True)
    return max(float(np.abs(x - y).max() / (np.abs(x).max() or 1)) for x, y in pairs)


def names(model: Any) -> set[str]:
    return {layer.name for layer in model._flatten_layers(include_self=False) if not isinstance(layer, MaskLayer)}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_the_smaller_model_is_the_same_function(network: Callable[[], Any]) -> None:
    model = made(network)
    small = shrink(model)
    assert error(model, small) < 1e-5
    assert small.count_params() < model.count_params()
    assert not mask_layers(small)
    assert compiled_flops(small) <= 1.03 * compiled_flops(model)
    # attention layers make some when they are called
    assert {name for name in names(model) - names(small) if not name.startswith(("dropout", "softmax"))} == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    often(NETWORKS, [network for network in NETWORKS if network not in (recommender, kinds_of_convolutions)]),
    ids=lambda network: network.__name__,
)
def test_masks_may_stay(network: Callable[[], Any]) -> None:
    """And what is left of them may be pruned, and go in turn."""
    model = made(network)
    small = shrink(model, keep_masks=True)
    assert error(model, small) < 1e-5
    assert {layer.name for layer in mask_layers(small)} == {layer.name for layer in mask_layers(model)}
    halve(small, np.random.default_rng(1))
    assert error(small, shrink(small)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV3Small", *before_releases("DenseNet121", "ResNet50V2")])
def test_published_architectures(name: str) -> None:
    make = getattr(keras.applications, name)
    model = prunable(make(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None))
    halve(model, np.random.default_rng(0))
    small = shrink(model)
    assert error(model, small) < 1e-5
    assert compiled_flops(small) <= 1.03 * compiled_flops(model)


def chain() -> Any:
    inputs = x = keras.Input((16, 16, 3))
    for name in ("first", "second"):
        x = layers.Conv2D(8, 3, padding="same", name=name)(x)
        x = MaskLayer()(layers.ReLU()(layers.BatchNormalization(name=f"{name}_norm")(x)))
    return keras.Model(inputs, layers.Dense(5, name="head")(layers.Flatten()(x)), name="chain")


def test_layers_have_as_many_channels_as_their_masks_leave() -> None:
    model = made(chain)
    small = shrink(model)
    assert [small.get_layer(name).filters for name in ("first", "second")] == [4, 4]
    assert small.get_layer("first_norm").gamma.shape == (4,)
    assert small.get_layer("head").kernel.shape == (16 * 16 * 4, 5)
    kept = np.flatnonzero(mask_layers(model)[0].mask)
    np.testing.assert_array_equal(
        small.get_layer("first").kernel, np.asarray(model.get_layer("first").kernel)[..., kept]
    )
    assert error(model, small) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("keep_masks", [False, True])
def test_widths_are_rounded_up(keep_masks: bool, tmp_path: Any) -> None:
    """By channels that stay masked, in training as well."""
    model = made(chain)
    small = shrink(model, keep_masks, round_to=3)
    assert [small.get_layer(name).filters for name in ("first", "second")] == [6, 6]
    assert [int(np.sum(layer.mask)) for layer in mask_layers(small)] == [4, 4] * keep_masks
    assert error(model, small) < 1e-5
    small.save(tmp_path / "small.keras")
    inputs = data(model)
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(model(inputs, training=True), loaded(inputs, training=True), rtol=1e-4, atol=1e-4)
    assert [shrink(model, round_to=10).get_layer(name).filters for name in ("first", "second")] == [4, 4]  # of 8
    with pytest.warns(
        PruningWarning, match=r"has lost no channel: .*, or widths are rounded up to as many as before\."
    ):
        shrink(model, round_to=8, verify=False)


@pytest.mark.slow
@pytest.mark.parametrize("network", [u_net, kinds_of_convolutions, recommender], ids=lambda network: network.__name__)
def test_rounded_networks_are_the_same_function(network: Callable[[], Any]) -> None:
    model = made(network)
    small = shrink(model, round_to=5)
    assert error(model, small) < 1e-5
    assert shrink(model).count_params() < small.count_params() < model.count_params()
    assert compiled_flops(small) <= 1.03 * compiled_flops(model)


@pytest.mark.slow
def test_a_model_that_was_not_pruned_is_told() -> None:
    """A custom loop has no end at which a `PruningOptimizer` could say so."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(MaskLayer()(keras.layers.Dense(10)(inputs))))
    for keep_masks in (False, True):
        with pytest.warns(PruningWarning, match="has lost no channel: none is masked") as caught:
            shrink(model, keep_masks)
        assert [warning.filename for warning in caught if warning.category is PruningWarning] == [__file__]
    mask_layers(model)[0].mask.assign([1] * 7 + [0] * 3)
    with warnings.catch_warnings(action="error", category=PruningWarning):
        shrink(model, keep_masks=True)  # which then has as many weights as the layers had, with those of the mask
    model.quantize("int8")
    with pytest.warns(PruningWarning, match="has lost no channel: there is no rule .* before it is quantized"):
        assert error(model, shrink(model)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("keep_masks", [False, True])
@pytest.mark.parametrize("heads", [[1, 0, 1, 0], [0, 0, 0, 0], [0.5, 0, 1, 0]], ids=str)
def test_masks_on_heads(heads: list[float], keep_masks: bool) -> None:
    """Some go with the heads, and others stay: of attention whose scores are read, or on an axis of a user's own."""
    inputs = keras.Input((5, 8))
    x = MaskedMultiHeadAttention(4, 3)(inputs, inputs)
    x, scores = MaskedMultiHeadAttention(4, 3)(x, x, return_attention_scores=True)
    x = MaskLayer(axis=-2)(layers.EinsumDense("abc,cde->abde", (None, 4, 2))(x))
    model = keras.Model(inputs, [layers.Dense(2)(x), scores])
    for layer in mask_layers(model):
        layer.mask.assign(heads)
    with contextlib.nullcontext() if keep_masks else pytest.warns(PruningWarning, match="keeps the channels of '"):
        small = shrink(model, keep_masks)
    assert error(model, small) < 1e-5
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("size", [5, 8])
def test_attention_with_a_mask_of_numbers_and_on_several_axes(size: int) -> None:
    """A mask is none of the keys, also where it has as many columns as these have channels."""

    def network() -> Any:
        inputs, steps = keras.Input((size, 6)), keras.Input((size, size))
        x = MaskLayer()(layers.Dense(8, activation="relu")(inputs))
        x = MaskedMultiHeadAttention(4, 3)(x, x, attention_mask=steps)
        x = MaskLayer()(layers.Dense(8, activation="relu")(keras.ops.expand_dims(x, 1)))
        return keras.Model([inputs, steps], layers.Dense(2)(MaskedMultiHeadAttention(4, 3)(x, x)))

    model = made(network)
    small = shrink(model)
    assert error(model, small) < 1e-5
    assert not mask_layers(small) and small.count_params() < 0.6 * model.count_params()


def test_widths_that_are_fast_add_few_channels() -> None:
    widths = {3: 3, 13: 13, 30: 30, 31: 32, 47: 48, 60: 60, 65: 68, 129: 136, 250: 256}
    assert {width: rounded_up(width, "auto") for width in widths} == widths


def test_configurations_stay() -> None:
    inputs = keras.Input((8,), name="given")
    regularised = layers.Dense(6, kernel_regularizer=keras.regularizers.L2(0.1), name="hidden", dtype="mixed_bfloat16")
    x = MaskLayer()(regularised(inputs))
    model = made(lambda: keras.Model(inputs, layers.Dense(2, name="out")(x), name="net"))
    model.get_layer("hidden").trainable = False
    small = shrink(model)
    hidden = small.get_layer("hidden")
    assert (hidden.units, hidden.trainable, hidden.dtype_policy.name) == (3, False, "mixed_bfloat16")
    assert float(hidden.kernel_regularizer.l2) == pytest.approx(0.1)
    assert (small.name, [tensor.name for tensor in small.inputs], small.output_names) == ("net", ["given"], ["out"])


@pytest.mark.slow
def test_rounding_that_a_normalisation_lays_bare_is_no_difference() -> None:
    """Inputs hardly show beside an offset, so that what rounding does to them says nothing of what it does to sums."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    x = MaskLayer()(layers.Dense(512, activation="relu")(layers.Rescaling(1e-3, 1.0)(inputs)))
    norm = layers.BatchNormalization(epsilon=1e-12)
    model = keras.Model(inputs, norm(layers.Dense(8, name="last")(x)))
    mask_layers(model)[0].mask.assign(np.arange(512) % 2)
    given = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    sums = keras.Model(inputs, model.get_layer("last").output)(given).numpy()
    for spread in (1.0, 1e-1, 1e-2):
        norm.moving_mean.assign(sums.mean(0))
        norm.moving_variance.assign((spread * sums.std(0)) ** 2)
        weights = model.get_weights()
        small = shrink(model)
        np.testing.assert_equal(model.get_weights(), weights)
    small.get_layer("last").bias.assign_add(np.full(8, 1e-2, np.float32))
    with pytest.raises(NotEquivalentError):
        check_outputs.check_outputs(model, small, known_channels(model))


def test_a_mask_of_zeros_leaves_one_channel() -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(3)(MaskLayer()(layers.Dense(6, activation="relu")(inputs))))
    mask_layers(model)[0].mask.assign(np.zeros(6))
    small = shrink(model)
    np.testing.assert_array_equal(model(data(model)), small(data(model)))


def test_branches_with_different_masks_meet(tmp_path: Any) -> None:
    inputs = keras.Input((8,))
    parts = [MaskLayer()(layers.Dense(12)(inputs)) for _ in range(2)]
    model = made(lambda: keras.Model(inputs, layers.Dense(3)(layers.ReLU()(layers.Add()(parts)))))
    first, second = (np.asarray(layer.mask) != 0 for layer in mask_layers(model))
    assert (first != second).any()
    small = shrink(model)
    assert error(model, small) < 1e-5
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(small(data(model)), loaded(data(model)))
    selections = [layer for layer in loaded.layers if isinstance(layer, SelectChannels)]
    assert selections and all(len(layer.sources) == (first | second).sum() for layer in selections)


def test_constants_go_into_a_bias_where_there_was_none() -> None:
    inputs = keras.Input((8,))
    x = layers.Activation("sigmoid")(MaskLayer()(layers.Dense(6)(inputs)))  # a half where the mask is zero
    model = made(lambda: keras.Model(inputs, layers.Dense(3, use_bias=False, name="out")(x)))
    small = shrink(model)
    assert small.get_layer("out").use_bias and small.get_layer("out").kernel.shape == (3, 3)
    assert error(model, small) < 1e-5


def masked(x: Any) -> Any:
    return MaskLayer()(layers.Dense(8, activation="relu")(x))


def queries_and_values_with_masks_of_their_own(x: Any) -> Any:
    return layers.GroupQueryAttention(4, 4, 2)(masked(x), masked(x))


def normalised_steps(x: Any) -> Any:
    return layers.BatchNormalization(axis=1)(masked(x))


def called_at_several_widths(x: Any) -> Any:
    relu = layers.ReLU()
    return relu(layers.Dense(6)(relu(masked(x))))


def weights_of_low_rank(x: Any) -> Any:
    """With a factor other than 1, in a layer and in one that is part of another."""
    attention, dense = layers.MultiHeadAttention(2, 4), layers.Dense(8, activation="relu")
    x = MaskLayer()(dense(attention(x, x)))
    for layer in (dense, attention.query_dense):
        layer.enable_lora(2, lora_alpha=6)
        layer.lora_kernel_b.assign(keras.random.normal(layer.lora_kernel_b.shape, seed=0))
    return x


def with_a_state(x: Any) -> Any:
    return layers.SimpleRNN(4, stateful=True)(masked(x))


@pytest.mark.parametrize(
    "network",
    [
        *(queries_and_values_with_masks_of_their_own, normalised_steps, called_at_several_widths),
        *(weights_of_low_rank, with_a_state),
    ],
    ids=lambda network: network.__name__,
)
def test_the_smaller_layers_are_the_same_function(network: Callable[[Any], Any]) -> None:
    inputs = keras.Input(batch_shape=(3, 5, 8))
    model = made(lambda: keras.Model(inputs, layers.Dense(2)(network(inputs))))
    small = shrink(model)
    assert small.count_params() < model.count_params()
    assert error(model, small) < 1e-5


def test_layers_without_a_rule_are_given_all_channels() -> None:
    inputs = keras.Input((8,))
    x = MaskLayer()(layers.Dense(6, activation="relu")(inputs))
    x = layers.Lambda(lambda x: x[:, ::-1] * 2.0, name="unknown")(x)
    model = made(lambda: keras.Model(inputs, layers.Dense(3)(x)))
    small = shrink(model)
    assert small.get_layer("unknown").output.shape == (None, 6)
    assert error(model, small) < 1e-5


def test_a_mask_on_several_tensors_leaves_each_its_channels() -> None:
    inputs, mask = [keras.Input((4,)), keras.Input((4,))], MaskLayer()
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([mask(x) for x in inputs])))
    mask.mask.assign([1, 0, 0, 1])
    assert shrink(model).count_params() == 2 * 4 + 2


def test_a_model_without_channels_stays() -> None:
    inputs = keras.Input((4,), dtype="int32")
    small = shrink(keras.Model(inputs, layers.Reshape((2, 2))(inputs)))
    np.testing.assert_array_equal(small(np.arange(4)[None]), [[[0, 1], [2, 3]]])


def test_in_training_it_is_the_same_or_a_warning_names_the_layer(recwarn: pytest.WarningsRecorder) -> None:
    model = made(chain)
    small = shrink(model)
    assert not [warning for warning in recwarn if warning.category is PruningWarning]
    inputs = data(model)
    np.testing.assert_allclose(model(inputs, training=True), small(inputs, training=True), rtol=1e-4, atol=1e-4)

    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="after")(MaskLayer()(layers.Conv2D(6, 3)(inputs)))
    model = made(lambda: keras.Model(inputs, layers.Conv2D(3, 1)(x)))
    with pytest.warns(PruningWarning, match="after"):
        shrink(model)


def test_a_wrong_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(chain)
    check = check_outputs.check_outputs

    def broken(model: Any, small: Any, known: Any) -> None:
        kernel = small.get_layer("second").kernel
        kernel.assign(np.asarray(kernel) * 1.01)
        check(model, small, known)

    monkeypatch.setattr("maskc.train.shrinking.shrink.check_outputs", broken)
    with pytest.raises(NotEquivalentError, match="chain"):
        shrink(model)


def test_what_an_encoder_gives_beside_what_is_read_need_not_be_converted() -> None:
    """As a sample that is drawn around the mean, for which there is no operator of ONNX here."""

    class Sampling(layers.Layer):
        def call(self, mean: Any) -> Any:
            return mean + keras.random.normal(keras.ops.shape(mean))

    inputs = keras.Input((8,))
    mean = layers.Dense(3)(MaskLayer(name="mask")(layers.Dense(16, activation="relu", name="wide")(inputs)))
    encoder = keras.Model(inputs, [mean, Sampling()(mean)])
    model = keras.Model(inputs, layers.Dense(8)(encoder(inputs)[0]))
    encoder.get_layer("mask").mask.assign([1, 0] * 8)
    small = shrink(model)
    assert next(layer for layer in small.layers if isinstance(layer, keras.Model)).get_layer("wide").units == 8
    np.testing.assert_allclose(small(np.ones((2, 8))), model(np.ones((2, 8))), rtol=1e-5)


@pytest.mark.parametrize(("mode", "units"), [("concat", 6), ("sum", 6), ("mul", 8), (None, 6)])
def test_directions_keep_equally_many_units(mode: str | None, units: int) -> None:
    """Units that are zero in one direction are padding in the other, which multiplied they hide."""
    inputs = keras.Input((5, 3))
    both = layers.Bidirectional(layers.GRU(8, return_sequences=True, return_state=True), merge_mode=mode, name="both")
    means = [x if len(x.shape) == 2 else layers.GlobalAveragePooling1D()(x) for x in both(inputs)]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(means)))
    for layer, kept in ((both.forward_layer, 4), (both.backward_layer, 6)):
        for variable in layer.weights:
            variable.assign(np.where(np.arange(24) % 8 < kept, variable, 0))
    small = shrink(model)
    smaller = small.get_layer("both")
    assert smaller.forward_layer.units == smaller.backward_layer.units == units
    assert error(model, small) < 1e-5


def test_heads_written_by_hand_lose_sizes() -> None:
    """Channels that an EinsumDense has for each head, through products of tensors."""
    ops, inputs = keras.ops, keras.Input((5, 6))
    parts = [layers.EinsumDense("abc,cde->abde", (None, 2, 8), bias_axes="de", name=name) for name in ("q", "k", "v")]
    q, k, v = (part(inputs) for part in parts)
    mixed = ops.einsum("aqhd,akhd->ahqk", q, k)
    again = ops.matmul(ops.softmax(mixed), ops.transpose(v, (0, 2, 1, 3)))
    x = layers.EinsumDense("adbe,dec->abc", (None, 4), bias_axes="c", name="o")(again)
    model = keras.Model(inputs, x)
    for part, kept in zip(parts, (4, 4, 3), strict=True):
        for variable in part.weights:
            variable.assign(np.where(np.arange(8) < kept, variable + 0.1, 0))
    small = shrink(model)
    shapes = {name: small.get_layer(name).kernel.shape for name in ("q", "k", "v", "o")}
    assert shapes == {"q": (6, 2, 4), "k": (6, 2, 4), "v": (6, 2, 3), "o": (2, 3, 4)}
    assert error(model, small) < 1e-5
