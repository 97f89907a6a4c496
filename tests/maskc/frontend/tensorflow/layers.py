"""One model for every layer of Keras, with its variants side by side."""

from collections.abc import Callable
from typing import Any

from tests.maskc.frontend.tensorflow.cases import (
    IMAGE,
    PICTURE,
    SEQUENCE,
    VOLUME,
    Case,
    adaptive,
    attention,
    each,
    global_pooling,
    merge,
    padded,
    pixels,
    pooling,
    recurrent,
    tokens,
    unchanged,
)

NOISE = ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D")
# By what they are given.
AUGMENTATION: dict[tuple[float, ...], str] = {
    (): "AugMix CutMix MixUp RandAugment RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
    "RandomPerspective",
    (0.2,): "RandomBrightness RandomContrast RandomHue RandomRotation RandomSaturation RandomSharpness RandomZoom",
    (0.2, 0.2): "RandomShear RandomTranslation",
    (0.5,): "RandomColorDegeneration RandomGrayscale RandomInvert",
    (4,): "RandomPosterization",
    (5, 6): "RandomCrop",
}

CASES: dict[str, Case] = {
    # Core
    "Activation": each(SEQUENCE, lambda k: k.Activation("relu"), lambda k: k.Activation("gelu")),
    "Dense": Case(
        ((4,), SEQUENCE, (3, 5, 4), (None, None, 4)),
        lambda k, a, b, c, d: [
            k.Dense(3)(a),
            k.Dense(3, use_bias=False)(b),
            k.Dense(3, activation="gelu")(c),
            k.Dense(3, activation="relu")(d),
            k.Dense(5)(k.Dense(3)(d)),
        ],
    ),
    "EinsumDense": Case(
        ((4,), SEQUENCE, (5, 3, 4)),
        lambda k, a, b, c: [
            k.EinsumDense("ab,bc->ac", output_shape=3, bias_axes="c")(a),
            k.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d")(b),
            k.EinsumDense("abc,cde->abde", output_shape=(None, 2, 3), bias_axes="de")(b),
            k.EinsumDense("abcd,cde->abe", output_shape=(None, 5), bias_axes="e")(c),
            k.EinsumDense("...x,xy->...y", output_shape=5)(c),
            k.EinsumDense("abc,bd->adc", output_shape=(3, None))(b),
            k.EinsumDense("abcd,bde->acbe", output_shape=(3, 5, 2))(c),
        ],
    ),
    "Embedding": each(
        (5,), lambda k: k.Embedding(9, 3), lambda k: k.Embedding(9, 3, mask_zero=True), dtype="int32", draw=tokens(9)
    ),
    "ReversibleEmbedding": Case(
        ((5,),),
        lambda k, x: (lambda table: [table(x), table(table(x), reverse=True)])(k.ReversibleEmbedding(9, 4)),
        dtype="int32",
        draw=tokens(9),
    ),
    "Lambda": each(SEQUENCE, lambda k: k.Lambda(lambda x: x * 2 + 1)),
    "Identity": each(SEQUENCE, lambda k: k.Identity()),
    "Masking": Case(
        (SEQUENCE,),
        lambda k, x: [k.Masking(0.0)(x), k.GlobalAveragePooling1D()(k.Masking(0.0)(x))],
        draw=padded,
    ),
    "ActivityRegularization": each(SEQUENCE, lambda k: k.ActivityRegularization(0.1)),
    "Wrapper": each(SEQUENCE, lambda k: k.SpectralNormalization(k.Dense(3))),
    "SpectralNormalization": each(SEQUENCE, lambda k: k.SpectralNormalization(k.Conv1D(3, 2))),
    # Activations
    "ReLU": each(
        SEQUENCE, lambda k: k.ReLU(), lambda k: k.ReLU(6.0), lambda k: k.ReLU(2.0, negative_slope=0.1, threshold=0.5)
    ),
    "LeakyReLU": each(SEQUENCE, lambda k: k.LeakyReLU(), lambda k: k.LeakyReLU(0.1)),
    "PReLU": Case(
        (SEQUENCE, IMAGE), lambda k, a, b: [k.PReLU()(a), k.PReLU(shared_axes=[1, 2])(b), k.PReLU(shared_axes=[1])(b)]
    ),
    "ELU": each(SEQUENCE, lambda k: k.ELU(), lambda k: k.ELU(0.5)),
    "Softmax": each(SEQUENCE, lambda k: k.Softmax(), lambda k: k.Softmax(axis=1), lambda k: k.Softmax(axis=(1, 2))),
    # Convolutions
    "Conv1D": each(
        (9, 4),
        lambda k: k.Conv1D(6, 3),
        lambda k: k.Conv1D(6, 3, padding="same", strides=2, activation="relu"),
        lambda k: k.Conv1D(6, 3, padding="causal", dilation_rate=2),
        lambda k: k.Conv1D(6, 2, groups=2, padding="causal"),
        lambda k: k.Conv1D(6, 3, padding="same", dilation_rate=2, use_bias=False),
    ),
    "Conv2D": Case(
        (IMAGE, (4, 9, 8), (None, None, 4)),
        lambda k, x, first, free: [
            k.Conv2D(6, 3)(x),
            k.Conv2D(6, (2, 3), padding="same", strides=2)(x),
            k.Conv2D(6, 3, padding="same", dilation_rate=2)(x),
            k.Conv2D(6, 3, dilation_rate=(1, 2), use_bias=False)(x),
            k.Conv2D(6, 3, groups=2, padding="same")(x),
            k.Conv2D(8, 3, groups=4, strides=2)(x),
            k.Conv2D(6, 3, data_format="channels_first")(first),
            k.Conv2D(6, 3, data_format="channels_first", groups=2, padding="same", strides=2)(first),
            k.Conv2D(6, 3, padding="same", strides=2)(free),
            k.Conv2D(6, 3, padding="same", groups=2, dilation_rate=2)(free),
        ],
    ),
    "Conv3D": each(
        VOLUME,
        lambda k: k.Conv3D(6, 3),
        lambda k: k.Conv3D(6, (3, 2, 1), padding="same", strides=2),
        lambda k: k.Conv3D(6, 2, groups=2),
        lambda k: k.Conv3D(6, 2, dilation_rate=2),
    ),
    "DepthwiseConv1D": each(
        (9, 4),
        lambda k: k.DepthwiseConv1D(3),
        lambda k: k.DepthwiseConv1D(3, padding="same", strides=2, depth_multiplier=2),
        lambda k: k.DepthwiseConv1D(3, dilation_rate=2),
        lambda k: k.DepthwiseConv1D(3, padding="same", dilation_rate=2),
    ),
    "DepthwiseConv2D": Case(
        (IMAGE, (4, 9, 8), (None, None, 4)),
        lambda k, x, first, free: [
            k.DepthwiseConv2D(3)(x),
            k.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=3)(x),
            k.DepthwiseConv2D((3, 2), padding="same", dilation_rate=2)(x),
            k.DepthwiseConv2D(3, dilation_rate=2)(x),
            k.DepthwiseConv2D(3, data_format="channels_first", padding="same")(first),
            k.DepthwiseConv2D(3, padding="same", strides=2)(free),
        ],
    ),
    "SeparableConv1D": each(
        (9, 4), lambda k: k.SeparableConv1D(6, 3), lambda k: k.SeparableConv1D(6, 3, padding="same", strides=2)
    ),
    "SeparableConv2D": each(
        IMAGE,
        lambda k: k.SeparableConv2D(6, 3),
        lambda k: k.SeparableConv2D(6, 3, padding="same", strides=2, depth_multiplier=2),
        lambda k: k.SeparableConv2D(6, 3, padding="same", dilation_rate=2),
    ),
    "Conv1DTranspose": each(
        SEQUENCE,
        lambda k: k.Conv1DTranspose(3, 3),
        lambda k: k.Conv1DTranspose(3, 3, strides=2, padding="same"),
        lambda k: k.Conv1DTranspose(3, 2, strides=3),
    ),
    "Conv2DTranspose": Case(
        ((5,), (4, 5, 4), (4, 4, 5), (None, None, 4)),
        lambda k, code, x, first, free: [
            k.Conv2DTranspose(3, 3, strides=2, padding="same")(k.Reshape((4, 4, 3))(k.Dense(48)(code))),
            k.Conv2DTranspose(3, 4, strides=2, padding="same")(k.Reshape((-1, 4, 3))(k.Dense(48)(code))),
            k.Conv2DTranspose(3, 3)(x),
            k.Conv2DTranspose(3, (3, 4), strides=2, padding="same")(x),
            k.Conv2DTranspose(3, 3, strides=2)(x),
            k.Conv2DTranspose(3, 2, strides=3)(x),
            k.Conv2DTranspose(3, 2, strides=3, padding="same")(x),
            k.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=0)(x),
            k.Conv2DTranspose(3, 3, data_format="channels_first", strides=2, padding="same")(first),
            k.Conv2DTranspose(3, 3, strides=2, padding="same")(free),
            k.Conv2DTranspose(3, 4, strides=3)(free),
        ],
    ),
    "Conv3DTranspose": each(
        (3, 4, 3, 2),
        lambda k: k.Conv3DTranspose(3, 3),
        lambda k: k.Conv3DTranspose(3, 3, strides=2, padding="same"),
        lambda k: k.Conv3DTranspose(3, 2, strides=3, padding="same"),
    ),
    # Pooling
    **{
        (name := f"{of}{kind}Pooling{rank}D"): case(rank, name)
        for of, case in {"": pooling, "Global": global_pooling, "Adaptive": adaptive}.items()
        for kind in ("Max", "Average")
        for rank in (1, 2, 3)
    },
    # Recurrent
    "SimpleRNN": recurrent("SimpleRNN"),
    "GRU": recurrent("GRU", reset_after=False, recurrent_activation="hard_sigmoid"),
    "LSTM": recurrent("LSTM", recurrent_activation="hard_sigmoid"),
    "SimpleRNNCell": each(SEQUENCE, lambda k: k.RNN(k.SimpleRNNCell(3))),
    "GRUCell": each(SEQUENCE, lambda k: k.RNN(k.GRUCell(3))),
    "LSTMCell": each(SEQUENCE, lambda k: k.RNN(k.LSTMCell(3), return_sequences=True)),
    "StackedRNNCells": each(SEQUENCE, lambda k: k.RNN(k.StackedRNNCells([k.GRUCell(3), k.LSTMCell(2)]))),
    "RNN": each((None, 4), lambda k: k.RNN([k.LSTMCell(3), k.SimpleRNNCell(2)], return_sequences=True)),
    "Bidirectional": each(
        SEQUENCE,
        lambda k: k.Bidirectional(k.LSTM(3)),
        lambda k: k.Bidirectional(k.GRU(3, return_sequences=True)),
        lambda k: k.Bidirectional(k.SimpleRNN(3, return_sequences=True), merge_mode="sum"),
    ),
    "TimeDistributed": each(
        (3, 6, 6, 2),
        lambda k: k.TimeDistributed(k.Conv2D(3, 3)),
        lambda k: k.TimeDistributed(k.Dense(3)),
        lambda k: k.TimeDistributed(k.Flatten()),
    ),
    "ConvLSTM1D": each((3, 6, 2), lambda k: k.ConvLSTM1D(3, 3), lambda k: k.ConvLSTM1D(3, 2, padding="same")),
    "ConvLSTM2D": each((3, 6, 5, 2), lambda k: k.ConvLSTM2D(3, 3, return_sequences=True)),
    "ConvLSTM3D": each((2, 4, 4, 4, 2), lambda k: k.ConvLSTM3D(3, 2)),
    # Attention
    "Attention": Case(
        ((5, 4), (7, 4)),
        lambda k, q, v: attention(k, "Attention", q, v, use_scale=True, score_mode="concat"),
    ),
    "AdditiveAttention": Case(
        ((5, 4), (7, 4)), lambda k, q, v: attention(k, "AdditiveAttention", q, v, use_scale=False)
    ),
    "MultiHeadAttention": Case(
        ((5, 8), (7, 6), (None, 8), (3, 4, 6)),
        lambda k, q, v, free, grid: [
            k.MultiHeadAttention(2, 4)(q, q),
            k.MultiHeadAttention(2, 4, value_dim=3, output_shape=5, use_bias=False)(q, v),
            k.MultiHeadAttention(2, 4)(q, q, use_causal_mask=True),
            k.MultiHeadAttention(2, 4)(free, free),
            k.MultiHeadAttention(2, 3, attention_axes=(1, 2))(grid, grid),
            k.MultiHeadAttention(1, 3, attention_axes=(1,))(grid, grid),
        ],
    ),
    "GroupedQueryAttention": Case(
        ((5, 8),),
        lambda k, x: [k.GroupQueryAttention(4, 4, 2)(x, x), k.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=True)],
    ),
    # Normalisation
    "BatchNormalization": Case(
        (SEQUENCE, IMAGE),
        lambda k, a, b: [
            k.BatchNormalization()(a),
            k.BatchNormalization(scale=False)(b),
            k.BatchNormalization(axis=1, center=False)(b),
            k.BatchNormalization()(k.Conv2D(3, 3, use_bias=False)(b)),
            k.BatchNormalization()(k.Conv2DTranspose(3, 3, use_bias=False)(b)),
            k.BatchNormalization()(k.DepthwiseConv2D(3, depth_multiplier=2)(b)),
        ],
    ),
    "LayerNormalization": Case(
        (SEQUENCE, IMAGE),
        lambda k, a, b: [
            k.LayerNormalization()(a),
            k.LayerNormalization(axis=1)(a),
            k.LayerNormalization(axis=(1, 2))(b),
            k.LayerNormalization(scale=False, center=False)(b),
        ],
    ),
    "RMSNormalization": Case((SEQUENCE, IMAGE), lambda k, a, b: [k.RMSNormalization()(a), k.RMSNormalization()(b)]),
    "GroupNormalization": Case(
        (SEQUENCE, IMAGE),
        lambda k, a, b: [
            k.GroupNormalization(2)(a),
            k.GroupNormalization(-1)(b),
            k.GroupNormalization(1, scale=False)(b),
            k.GroupNormalization(3, axis=1)(b),
        ],
    ),
    "UnitNormalization": each(SEQUENCE, lambda k: k.UnitNormalization(), lambda k: k.UnitNormalization(axis=1)),
    # Merging
    **{name: merge(name) for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")},
    "Concatenate": Case(
        (SEQUENCE, SEQUENCE), lambda k, a, b: [k.Concatenate()([a, b]), k.Concatenate(axis=1)([a, b, a])]
    ),
    "Dot": Case(
        (SEQUENCE, (4, 6), SEQUENCE),
        lambda k, a, b, c: [
            k.Dot(axes=(2, 1))([a, b]),
            k.Dot(axes=1)([a, c]),
            k.Dot(axes=2, normalize=True)([a, c]),
        ],
    ),
    # Shape
    "Flatten": Case((IMAGE, (4, 3, 2)), lambda k, a, b: [k.Flatten()(a), k.Flatten(data_format="channels_first")(b)]),
    "Reshape": each(
        IMAGE, lambda k: k.Reshape((72, 4)), lambda k: k.Reshape((-1, 2, 2)), lambda k: k.Reshape((8, 9, 4))
    ),
    "Permute": each(IMAGE, lambda k: k.Permute((3, 1, 2)), lambda k: k.Permute((2, 1, 3))),
    "RepeatVector": each((4,), lambda k: k.RepeatVector(3)),
    "Cropping1D": each((7, 4), lambda k: k.Cropping1D(1), lambda k: k.Cropping1D((0, 2))),
    "Cropping2D": each(IMAGE, lambda k: k.Cropping2D(1), lambda k: k.Cropping2D(((0, 2), (1, 0)))),
    "Cropping3D": each(VOLUME, lambda k: k.Cropping3D(1), lambda k: k.Cropping3D(((0, 2), (1, 0), (0, 1)))),
    "ZeroPadding1D": each((7, 4), lambda k: k.ZeroPadding1D(1), lambda k: k.ZeroPadding1D((0, 2))),
    "ZeroPadding2D": each(
        IMAGE, lambda k: k.ZeroPadding2D(1), lambda k: k.ZeroPadding2D(((0, 2), (1, 0)), data_format="channels_first")
    ),
    "ZeroPadding3D": each(VOLUME, lambda k: k.ZeroPadding3D(1), lambda k: k.ZeroPadding3D(((0, 2), (1, 0), (0, 1)))),
    "UpSampling1D": each((5, 4), lambda k: k.UpSampling1D(3)),
    "UpSampling2D": Case(
        (PICTURE, (None, None, 3)),
        lambda k, x, free: [
            k.UpSampling2D(2)(x),
            k.UpSampling2D((2, 3), interpolation="bilinear")(x),
            k.UpSampling2D(2, data_format="channels_first")(x),
            k.UpSampling2D(2, interpolation="bicubic")(x),
            k.UpSampling2D(2)(free),
        ],
    ),
    "UpSampling3D": each((2, 3, 2, 2), lambda k: k.UpSampling3D(2), lambda k: k.UpSampling3D((1, 2, 3))),
    # Preprocessing of numbers
    "Rescaling": each(SEQUENCE, lambda k: k.Rescaling(1 / 255, offset=-0.5), lambda k: k.Rescaling([0.1, 1, 2, 3])),
    "Normalization": each(
        SEQUENCE,
        lambda k: k.Normalization(mean=[0.1, 1.0, 2.0, 3.0], variance=[1.0, 2.0, 0.5, 3.0]),
        lambda k: k.Normalization(mean=0.5, variance=2.0, axis=None, invert=True),
    ),
    "Discretization": each(
        (4,),
        lambda k: k.Discretization([-1.0, 0.0, 0.5]),
        lambda k: k.Discretization([-1.0, 0.0, 0.5], output_mode="one_hot"),
        lambda k: k.Discretization([-1.0, 0.0, 0.5], output_mode="multi_hot"),
        lambda k: k.Discretization([-1.0, 0.0, 0.5], output_mode="count"),
        draw=lambda rng, shape: rng.integers(-4, 4, shape) / 2,
    ),
    "CategoryEncoding": each(
        (5,),
        lambda k: k.CategoryEncoding(6, output_mode="multi_hot"),
        lambda k: k.CategoryEncoding(6, output_mode="one_hot"),
        lambda k: k.CategoryEncoding(6, output_mode="count"),
        dtype="int32",
        draw=tokens(6),
    ),
    "IntegerLookup": each(
        (5,),
        lambda k: k.IntegerLookup(vocabulary=[3, 5, 7]),
        lambda k: k.IntegerLookup(vocabulary=[3, 5, 7], num_oov_indices=0, mask_token=None, output_mode="multi_hot"),
        lambda k: k.IntegerLookup(vocabulary=[3, 5, 7], output_mode="one_hot"),
        dtype="int64",
        draw=lambda rng, shape: rng.choice([3, 5, 7], shape),
    ),
    # Preprocessing of images
    "Resizing": Case(
        (PICTURE,),
        lambda k, x: [
            k.Resizing(5, 7)(x),
            k.Resizing(16, 15, interpolation="nearest")(x),
            k.Resizing(6, 6, crop_to_aspect_ratio=True)(x),
            k.Resizing(12, 12, pad_to_aspect_ratio=True)(x),
            k.Resizing(12, 13, interpolation="bicubic")(x),
            k.Resizing(4, 5, interpolation="area")(x),
        ],
        draw=pixels,
    ),
    "CenterCrop": each(PICTURE, lambda k: k.CenterCrop(4, 6), lambda k: k.CenterCrop(12, 12), draw=pixels),
    "AutoContrast": each(PICTURE, lambda k: k.AutoContrast(), draw=pixels),
    "Solarization": each(PICTURE, lambda k: k.Solarization(addition_factor=0.2, threshold_factor=0.5), draw=pixels),
    "MelSpectrogram": each((400,), lambda k: k.MelSpectrogram(num_mel_bins=8, fft_length=64, sequence_stride=32)),
    "STFTSpectrogram": each((200, 1), lambda k: k.STFTSpectrogram(frame_length=32, frame_step=16, fft_length=32)),
    "Pipeline": each(PICTURE, lambda k: k.Pipeline([k.Rescaling(1 / 255), k.RandomFlip()]), draw=pixels),
    # Noise and augmentation, which do nothing at inference
    "SpatialDropout2D": each(IMAGE, lambda k: k.SpatialDropout2D(0.5)),
    "SpatialDropout3D": each(VOLUME, lambda k: k.SpatialDropout3D(0.5)),
    **{name: unchanged(SEQUENCE, name, 0.5) for name in NOISE},
    **{name: unchanged(PICTURE, name, *given) for given, names in AUGMENTATION.items() for name in names.split()},
    "RandomColorJitter": each(PICTURE, lambda k: k.RandomColorJitter(brightness_factor=0.1), draw=pixels),
    "ContrastLimitedAdaptiveHistogramEqualization": each(
        (16, 16, 3), lambda k: k.ContrastLimitedAdaptiveHistogramEqualization(tile_grid_size=(2, 2)), draw=pixels
    ),
}


# Layers that are parts of others or only run something else, and so have no case of their own.
NOT_LAYERS = {
    "InputLayer": "declares an input; every case has one",
    "Layer": "the base class",
    "FlaxLayer": "runs another framework",
    "JaxLayer": "runs another framework",
    "TorchModuleWrapper": "runs another framework",
    "TFSMLayer": "runs a SavedModel, and is not saved with its model",
    "MaxNumBoundingBoxes": "takes bounding boxes, which are no tensor",
    "Equalization": "Keras cannot build a functional model with it",
}


def _text(layer: Callable[[Any], Any]) -> Case:
    return Case(((1,),), lambda k, x: [layer(k)(x)], dtype="string")


# Layers without an ONNX form, with what the refusal must name.
REFUSED: dict[str, tuple[Case, str]] = {
    "Hashing": (_text(lambda k: k.Hashing(8, name="culprit")), "StringToHashBucketFast"),
    "HashedCrossing": (
        Case(((1,), (1,)), lambda k, a, b: [k.HashedCrossing(8, name="culprit")([a, b])], dtype="string"),
        "SparseCross",
    ),
    "StringLookup": (
        _text(lambda k: k.StringLookup(vocabulary=["a", "b"], num_oov_indices=3, name="culprit")),
        "StringToHashBucketFast",
    ),
    "TextVectorization": (_text(lambda k: k.TextVectorization(vocabulary=["a"], name="culprit")), "StringSplitV2"),
}
