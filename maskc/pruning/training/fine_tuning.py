"""A pruned model trained towards its source, where that can be had."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import ModelProto

from maskc.errors import Terminated
from maskc.frontend.custom_rules import function_of
from maskc.progress import stage
from maskc.pruning.checkpoint import State
from maskc.pruning.data import Data, path_and_name
from maskc.pruning.options import PruneOptions

_TICKS = 1000  # of the progress


def fine_tuned(
    model: ModelProto,
    source: ModelProto,
    examples: Data,
    options: PruneOptions,
    saved: State | None = None,
    keep: Callable[[State], object] = lambda state: None,
) -> tuple[ModelProto, bool]:
    """The model after so many epochs or minutes as the options say; whether it was interrupted, and so after fewer.

    keep: called with states to go on from, of which `saved` is one.

    Raises InputError where an operator cannot be trained, and UnavailableError without TensorFlow.
    """
    over = False

    def keep_state(state: State, ended: bool) -> None:
        nonlocal over
        over = ended
        keep(state)

    try:
        from maskc.frontend.tensorflow.importing import import_tensorflow

        import_tensorflow()
        from maskc.pruning.training.loop import finetune

        loss = options.loss
        if isinstance(loss, str):
            loss = function_of(*path_and_name(loss, "--loss"))
        with stage("Training", _TICKS, slow=True) as training:

            def listen(seconds: float, share: float, loss: float) -> None:
                left = seconds / max(share, 1e-3) * (1 - share)
                note = f"loss {loss:.4g}, {max(1, math.ceil(left / 60))} min left"
                training.advance(int(share * _TICKS) - training.done, note=note)

            trained = finetune(
                model,
                examples.with_labels if loss else examples.used,
                source,
                minutes=options.minutes,
                epochs=options.epochs,
                loss=loss,
                seed=options.seed,
                on_progress=listen,
                saved=saved,
                on_state=keep_state,
            )
    except (KeyboardInterrupt, Terminated):  # before the first step
        return model, True
    return trained, not over
