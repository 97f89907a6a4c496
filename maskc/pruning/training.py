"""Training of a masked ONNX graph towards what its source computes: with fixed masks, or removing channels on the way.

Needs TensorFlow: it is imported with this file, which is to be imported where training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]

#: begins a pass over the data: batches by input name, of few shapes, since each shape is compiled; what is no input of
#: the model, as labels are, goes to the loss
Batches = Callable[[], Iterator[Mapping[str, Array]]]
#: of the outputs by name and the batch by name: what is to become small, for each example, float32 `(batch,)`
Loss = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Progress:
    """How far training is.

    share: from 0 to 1. loss: a moving average. flops: as the cost model counts them at the present masks; None where
    masks are fixed.
    """

    seconds: float
    share: float
    loss: float
    flops: int | None = None


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Trained:
    """What training made of a model.

    model: the one given, with trained values in place of its own. masks: by name of the graph input. flops: of the
    compiled graph at these masks. reached: whether they are no more than was asked for, which an interrupted run may
    not come to. loss: a moving average at the end.
    """

    model: onnx.ModelProto
    masks: dict[str, Array]
    flops: int
    reached: bool
    loss: float


def finetune(
    model: onnx.ModelProto,
    batches: Batches,
    teacher: onnx.ModelProto,
    *,
    masks: Mapping[str, Array] | None = None,
    minutes: float | None = None,
    epochs: float | None = None,
    inner: Sequence[str] = (),
    loss: Loss | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_progress: Listener | None = None,
) -> onnx.ModelProto:
    """The model with weights trained towards the outputs of the teacher.

    On KeyboardInterrupt training stops, and what it made so far is returned.

    model: a masked model, or a compiled one. masks: of a model whose masks are inputs, 0/1 [channels] each. minutes,
    epochs: how long; whichever is over first. inner: tensors of the same name and shape in both models that are to
    agree, too. loss: what is to become small in place of the difference from the teacher's outputs.

    Raises InputError where an operator of the model has no rule (`from_onnx`), and where the loss is no number.
    """
    raise NotImplementedError


def prune_gradually(
    gated: onnx.ModelProto,
    masks: Mapping[str, Array],
    groups: Mapping[str, NDArray[np.int64]],
    batches: Batches,
    teacher: onnx.ModelProto,
    *,
    flops: int,
    minutes: float | None = None,
    epochs: float | None = None,
    inner: Sequence[str] = (),
    loss: Loss | None = None,
    learning_rate: float = 1e-3,
    min_channels: int = 1,
    ramp: float = 0.5,
    seed: int = 0,
    on_progress: Listener | None = None,
) -> Trained:
    """Removes the channels that matter least per FLOP while the others are trained towards the outputs of the teacher.

    On KeyboardInterrupt training stops, and what it made so far is returned.

    gated: a model whose masks are graph inputs of shape [channels]. masks: where to begin, 0/1 by name of the input.
    groups: of the entries of each mask, numbered from 0, those that go together; -1 for entries that stay. flops: of
    the compiled graph, to be reached. minutes, epochs: how long in all. inner, loss: as for `finetune`. min_channels:
    that each mask keeps. ramp: the share of the time in which channels are removed.

    Raises InputError as `finetune`, and where the target cannot be reached.
    """
    raise NotImplementedError
