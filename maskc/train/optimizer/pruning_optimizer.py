"""The Keras optimizer that prunes while another one trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from maskc.errors import InputError, MaskcError, warn
from maskc.inspection.options import from_arguments
from maskc.train.arguments import VARIABLES, check_kind, optimizer_of, refusing, restore, stored
from maskc.train.importance import METHODS, Gathering, Reduction, loss_reduction, statistic_of, update_scores
from maskc.train.keras_internals import check_trained, in_xla, on_all_replicas, outside_of_tracing, trained_variables
from maskc.train.mask_layer import MaskLayer, layer_of, mask_layers
from maskc.train.optimizer import fit_progress
from maskc.train.optimizer.step import act_when_due, differentiated, find_model, prune, settle_around_executions
from maskc.train.optimizer.wrapping import Wrapping, without_probes
from maskc.train.selection.pruner import Pruned, Pruner
from maskc.train.selection.savings import Rows
from maskc.train.selection.settings import FlopsWeight, Settings
from passes.errors.arguments import shown


@keras.saving.register_keras_serializable(package="maskc")
class PruningOptimizer(Wrapping):
    """Pruning around any Keras optimizer, after Theis et al. 2018 (arXiv 1801.05787).

    Every update goes to the wrapped optimizer, which never sees masks or scores. Beside it, the importance score of
    each mask entry follows its batches as an exponential moving average, and every `prune_every` updates the least
    important entries are set to zero, until the compiled model would have no more than `flops_target` FLOPs, or take no
    longer than `latency_target`. Nothing else changes a mask, and an entry that is zero stays zero.

    Args:
        optimizer: the Keras optimizer (or its name) that trains the other weights. Learning rate and schedules, weight
            decay, clipping, averaging and gradient accumulation are its own affair and never touch the masks.
        prune_every: updates between two prunings, counted from the end of the burn-in. By default a fiftieth of the
            ramp, or 100 if there is none.
        burn_in: updates before pruning starts.
        decay: of the moving average: `signal = decay · signal + (1 - decay) · statistic`.
        flops_target: FLOPs per example at which pruning stops; up to 1, a fraction of the FLOPs without
            masks. With 0 it stops when every mask is down to `min_channels`. There is no default.
        latency_target: instead of FLOPs the milliseconds per example at which pruning stops, as the table of a
            processor predicts them; up to 1, a fraction of those without masks. Channels of convolutions go in the
            blocks that kernels work on. At the target the latency is measured, if it is that of this processor.
        flops_weight: "auto" prunes the entry with the lowest score per FLOP (or nanosecond) that it saves, where what
            it would save beyond the target does not count; a number w, the one with the smallest `signal - w · FLOPs`.
        update_params: False prunes without training: the wrapped optimizer makes no updates.
        method: the importance score: "fisher", "taylor", "magnitude" or "random"; see `maskc.train.importance`.
        schedule: None prunes one entry (with those coupled to it) at a time, as Theis et al. do. "one-shot", "linear"
            and "cubic" (Zhu & Gupta 2017, arXiv 1710.01878) prune, every `prune_every` updates, as many as bring the
            FLOPs to where the schedule wants them; each round of that closes half of what is missing before savings are
            counted again. "auto" is "cubic" with `ramp`, or, if `prune_every` is not given either, over half of the
            updates that `fit` makes after the burn-in; where that is not known it is None.
        ramp: updates from the end of the burn-in until a linear or cubic schedule reaches the target.
        tie: "auto" prunes entries together that the compiler's analysis finds coupled (residual sums, depthwise and
            grouped convolutions, gates, attention heads), by the sum of their scores and what they save together;
            "none" each on its own. Layers that share `groups` lose entries together in either case.
        min_channels: the fewest channels that a mask keeps.
        round_to: prune so many channels of a mask at a time that it keeps a multiple of this, as kernels like: 8 for
            phones and tensor cores. Masks with fewer channels than that lose one at a time.
        seed: of the method "random".
        loss_reduction: "mean" or "sum", as the loss averages the examples of a batch or adds them up; the
            score does not depend on which. "auto" looks at the loss that the model was compiled with.
        sizes: of an example, to count FLOPs at, where the model's input leaves some open: `(224, 224, 3)`, or one for
            each input, in a list or by name.
        flops_before: FLOPs (or nanoseconds) without masks that a fraction and a schedule go by, where this model is
            what is left of a larger one; by default those of the model.
        target: the runtime that `latency_target` is for: "onnxruntime", "openvino", or by default "any".
        align_for: the processor, as for `maskc compile --align-for`; by default this one.
        model: the model whose FLOPs count. Needed in custom training loops; `fit` finds it.

    In a custom loop give `model` and `loss_reduction`, and call the model with `training=True`. For mixed
    precision with float16, Keras puts its `LossScaleOptimizer` around this optimizer by itself; in a custom
    loop, do the same. In a step that is compiled by XLA nothing can be decided: `fit` with `jit_compile=True` decides
    between executions, and a custom loop calls `prune_if_due` after each step.

    Under a distribution strategy scores are averaged over the replicas, so that n replicas of batch b prune what one
    of batch n · b would. The losses of the replicas must add up to that of the whole batch, as they do in `fit`.

    Example:
        >>> import keras
        >>> from maskc.train import PruningOptimizer
        >>> sgd = keras.optimizers.SGD(1e-3, momentum=0.9)
        >>> optimizer = PruningOptimizer(sgd, flops_target=0.2)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> model.fit(x, y)
        >>> optimizer.flops

    Raises:
        InputError: if an argument is out of range; later, before the first update, if the model has no
            masks, the target cannot be reached, the model or its loss's reduction cannot be found, or a mask
            layer is called more than once in a forward pass.
    """

    @refusing
    def __init__(
        self,
        optimizer: Any,
        prune_every: int | None = None,
        burn_in: int = 0,
        decay: float = 0.96,
        flops_target: float | None = None,
        flops_weight: FlopsWeight = "auto",
        update_params: bool = True,
        method: str = "fisher",
        *,
        schedule: Literal["auto", "one-shot", "linear", "cubic"] | None = "auto",
        ramp: int = 0,
        tie: Literal["auto", "none"] = "auto",
        min_channels: int = 1,
        round_to: int = 1,
        seed: int = 0,
        loss_reduction: Reduction | Literal["auto"] = "auto",
        sizes: Any = None,
        flops_before: int | None = None,
        latency_target: float | None = None,
        target: str = "any",
        align_for: str | None = None,
        model: keras.Model | None = None,
        name: str = "pruning_optimizer",
    ) -> None:
        if not isinstance(name, str) or "/" in name or not name.isprintable():
            raise InputError(f"name must be a name without a slash, not {shown(name)}.")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer_of(optimizer)
        if isinstance(self.inner_optimizer, (PruningOptimizer, keras.optimizers.LossScaleOptimizer)):
            raise InputError(
                f"PruningOptimizer cannot wrap a {type(self.inner_optimizer).__name__}; give it the "
                "optimizer inside (loss scaling goes around PruningOptimizer, not into it)."
            )
        self.settings = from_arguments(Settings, locals())
        self._model: Callable[[], Any] = lambda: model  # by a function, as Keras would track a model as part of this
        self.pruner: Pruner | None = None
        self._history: Rows = []
        self._counter: Any = None
        self._settled: int | None = None
        self.loaded_target: int | None = None  # of a model that was not trained since
        self._compiled_at: int | None = None  # the step of the last count with the weights of its moment
        self.watch = fit_progress.Watch(self)
        for layer in [] if model is None else mask_layers(model):
            layer.deliver_to(self)

    # What pruning did

    @property
    def flops(self) -> int | None:
        """FLOPs per example of the compiled model at its present masks; None before the first update, or with `ms`.

        Once the target is reached this is the count of a compilation with the present weights.
        """
        return self.settings.currency.figures(self.left_now()).get("flops")

    @property
    def ms(self) -> float | None:
        """The milliseconds that it is predicted to take instead, if there is a `latency_target`."""
        return self.settings.currency.figures(self.left_now()).get("ms")

    def left_now(self) -> int | None:
        """Returns what is left at the present masks, FLOPs or nanoseconds; None before the first update."""
        if not self.built or self.pruner is None:
            return self.counted
        step = int(self.updates.numpy())
        if self.reached and self._compiled_at != step:
            self.pruner.correct()
            self._compiled_at = step
        return self.present()

    @property
    def counted(self) -> int | None:
        """FLOPs (or nanoseconds) as they were counted at the last decision; None before the first update."""
        flops = int(self._flops.numpy()) if self.built else 0
        return flops if flops or self._history else None  # what is pruned may leave nothing to compute

    @property
    def reached(self) -> bool:
        """Whether the model is at the target, so that no more entries are pruned."""
        if self.pruner is None:  # a loaded model is found again when it is trained
            return self.built and self.loaded_target is not None and int(self._flops.numpy()) <= self.loaded_target
        return (flops := self.present()) is not None and self.pruner.ends_at(flops)

    @property
    def _target(self) -> int | None:
        """What is to be left; at the target it may be more, where that is as few as possible. None if nobody knows."""
        target = self.loaded_target if self.pruner is None else self.pruner.target
        return max(target or 0, int(self._flops.numpy())) if self.reached else target

    def present(self) -> int | None:
        """Returns FLOPs at the present masks, by the analysis; None where no model is known as yet."""
        if not self.built or self.pruner is None:
            return None
        self.settle()
        return self.pruner.at([layer.mask.numpy() for layer in self.masked_layers()])

    @property
    def history(self) -> tuple[Pruned, ...]:
        """The entries pruned so far, in order."""
        self.settle()
        names = self.pruner.names if self.pruner else [layer.name for layer in self.masked_layers()]
        figures = self.settings.currency.figures
        return tuple(Pruned(step, names[mask], channel, **figures(left)) for step, mask, channel, left in self._history)

    def left(self) -> dict[str, Any]:
        """Returns `flops`, or `ms`, as of the last decision, the target, and `channels` that masks keep: scalars."""
        masks = [tf.cast(tf.convert_to_tensor(layer.mask), tf.float32) for layer in self.masked_layers()]
        target, currency = tf.constant(self.prepare().target, tf.float64), self.settings.currency
        left = tf.cast(tf.convert_to_tensor(self._flops), tf.float64)
        figures = {currency.name: left / currency.scale, currency.target: target / currency.scale}
        return {**figures, "channels": tf.reduce_sum(tf.concat(masks, axis=0))}

    def was_restored(self) -> bool:
        """Returns whether entries of masks that had been pruned are ones again."""
        masks = [layer.mask.numpy() for layer in self.masked_layers()]
        return any(masks[mask][channel] for _, mask, channel, _ in self._history)

    def count_pruned(self) -> int:
        """Returns how many entries were pruned so far."""
        return len(self._history)

    def explain(self, error: Exception) -> MaskcError | None:
        """Returns what a decision failed at, which TensorFlow passes on as an error of its own; None if none did."""
        return None if self.pruner is None else self.pruner.failure

    def raise_failure(self) -> None:
        """Raises what a decision failed at, if any did."""
        if self.pruner is not None and self.pruner.failure is not None:
            raise self.pruner.failure

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the wrapped optimizer end a call of `fit`, and warns if no update in it came nearer to the target."""
        super().finalize_variable_values(var_list)
        if not self.reached:
            self.watch.finish()

    # One update

    @refusing
    def build(self, variables: Sequence[Any]) -> None:
        """Creates the state for a model's trainable variables. Raises InputError if no mask's score is among them."""
        if self.built or not variables:  # Keras knows none yet where it reads an .h5 file
            return
        if not any(layer_of(variable) for variable in variables):
            raise InputError(
                "PruningOptimizer found no mask to prune: put at least one maskc.train.MaskLayer into the model, leave "
                "it trainable, and in a custom loop give all of model.trainable_variables."
            )
        if self.inner_optimizer.built:
            check_trained(self.inner_optimizer, without_probes(variables))
        with outside_of_tracing():
            self.inner_optimizer.build(without_probes(variables))
            # Built in the middle of tracing, a variable would have no value before the traced step has run.
            with tf.init_scope():
                self._flops = self.add_variable(shape=(), dtype="int64", aggregation="only_first_replica", name="flops")
            super().build(variables)
        for layer in self.masked_layers():
            layer.deliver_to(self)

    @refusing
    def apply(self, grads: Iterable[Any], trainable_variables: Iterable[Any] | None = None) -> None:
        """Makes one update from the gradients of `trainable_variables`, and prunes when that is due."""
        if trainable_variables is None:
            if not self.built:
                raise InputError("Call build(model.trainable_variables), or give apply the variables.")
            trainable_variables = trained_variables(self)
        gradients, variables = list(grads), list(trainable_variables)
        if not 0 < len(variables) == len(gradients) or not all(isinstance(each, VARIABLES) for each in variables):
            raise InputError("apply needs a list of variables, and for each of them a gradient or None.")
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(variables)
        check_trained(self, variables)
        settle_around_executions(self.prepare(), self)
        pairs = list(zip(gradients, variables, strict=True))
        plain = [pair for pair in pairs if layer_of(pair[1]) is None]
        if self.settings.update_params and any(gradient is not None for gradient, _ in plain):
            self.inner_optimizer.apply(*(list(column) for column in zip(*plain, strict=True)))
        self._update_scores([(gradient, layer) for gradient, variable in pairs if (layer := layer_of(variable))])
        # Where data end without notice, a last step is begun and given up: what has no gradients is no update.
        tensors = [part for part in tf.nest.flatten(gradients, expand_composites=True) if tf.is_tensor(part)]
        with tf.control_dependencies(tensors):
            self.iterations.assign_add(1)
        if self._counter is not None:
            self._counter.assign_add(1)
        if in_xla():
            if self._settled is None:
                with tf.init_scope():
                    self._settled = int(self.updates.numpy())
            return
        # Copies of a variable can be set from inside of a condition only together, not by each replica.
        on_all_replicas(lambda: act_when_due(self.prepare(), self.masked_layers(), self.updates, self._flops))

    @refusing
    def minimize(
        self,
        loss: Any,
        variables: Iterable[Any] | None = None,
        *,
        tape: Any = None,
        prune_every: int | None = None,
        burn_in: int | None = None,
        decay: float | None = None,
        flops_weight: FlopsWeight | None = None,
        flops_target: float | None = None,
        update_params: bool | None = None,
        method: str | None = None,
        global_step: Any = None,
    ) -> Any:
        """Makes one update that lowers a loss, for custom training loops.

        Args:
            loss: a function without arguments that returns the loss of a batch, or that loss with the `tape` that
                recorded it.
            variables: what to train, mask layers' scores among them; by default the trainable variables of `model`.
            tape: the `tf.GradientTape` of the loss.
            prune_every, burn_in, decay, flops_weight, flops_target, update_params, method: as for the constructor; they
                replace what it was given, from now on.
            global_step: an integer variable that counts the updates: it is increased by one, and `prune_every` and
                `burn_in` go by it.

        Returns:
            The loss.

        Raises:
            InputError: if the variables are not known, or a tensor comes without its tape; else as `apply` does.

        Example:
            >>> optimizer = PruningOptimizer("sgd", model=model, loss_reduction="mean", flops_target=0)
            >>> for x, y in batches:
            ...     optimizer.minimize(lambda: loss(y, model(x, training=True)), prune_every=10)
        """
        given = locals()
        self._configure({name: given[name] for name in vars(self.settings) if given.get(name) is not None})
        if global_step is not None:
            check_kind("global_step", global_step, VARIABLES, "a variable")
            self._counter = global_step
        variables = self._to_train() if variables is None else list(variables)
        if not self.built:
            self.build(variables)
        value, gradients = differentiated(self, loss, tape, variables)
        self.apply(gradients, variables)
        return value

    def _to_train(self) -> Sequence[Any]:
        """What `minimize` trains if it is not told."""
        model = self._model()
        if model is not None and model.built:
            return list(model.trainable_variables)
        if not self.built:
            raise InputError(
                "minimize does not know what to train: give the optimizer a model that is built, or minimize variables."
            )
        return trained_variables(self)

    def prune_if_due(self) -> None:
        """Takes decisions that a step compiled by XLA left open, and counts what is left where the target was reached.

        `fit` does so between executions. Where one execution holds several steps, what XLA left open is decided at its
        end, by the scores of its end.
        """
        if self.pruner is None or tf.inside_function():
            return
        if (due := self._due()) is not None:
            self._settled = int(self.updates.numpy())
            for _ in range(due):
                prune(self.pruner, self.masked_layers(), self.updates, self._flops)
                self.raise_failure()
        if self.pruner.uncounted:
            self.pruner.recount()
            self._flops.assign(self.pruner.flops)
            self._compiled_at = int(self.updates.numpy())

    def settle(self) -> None:
        """Does what `prune_if_due` does, and warns where a loop left several decisions open."""
        own_loop = self.pruner is not None and self.pruner.raises and not tf.inside_function()
        if own_loop and (due := self._due() or 0) > 1:
            warn(
                f"{due} decisions of pruning were due, and are taken at once by the present scores: call "
                "prune_if_due() after each step that XLA compiles."
            )
        self.prune_if_due()

    def _due(self) -> int | None:
        """How many decisions steps compiled by XLA have left open; None where these are taken within steps."""
        if self._settled is None:
            return None
        burn_in, every = self.settings.burn_in, self.settings.every
        before, now = (max(0, step - burn_in) // every for step in (self._settled, int(self.updates.numpy())))
        return now - before

    def _update_scores(self, pairs: Sequence[tuple[Any, MaskLayer]]) -> None:
        """Lets the importance scores of mask layers follow what the method reads of this batch."""
        method, scale = METHODS[self.settings.method], self.loss_scale_factor
        present = [(gradient, layer) for gradient, layer in pairs if gradient is not None]
        update_scores(
            [layer for _, layer in present],
            method,
            self.settings.decay,
            self.settings.seed,
            gradients=lambda: [statistic_of(gradient, method, scale) for gradient, _ in present],
            activations=lambda: [layer.take_activity(method.statistic) for _, layer in present],
        )

    def prepare(self) -> Pruner:
        """Finds the model and counts its FLOPs, before the first update."""
        if self.pruner is None:
            layers = self.masked_layers()
            model = find_model(layers, self._model())
            if any(layer.observation and layer.observation.reduction is None for layer in layers):
                raise InputError(
                    "PruningOptimizer does not know whether the loss averages the examples of a batch or adds "
                    'them up: pass loss_reduction="mean" or "sum".'
                )
            # This may run while a training step is being traced, and must not become part of it.
            with tf.init_scope():
                planned = self.settings.planned(fit_progress.updates_of(getattr(model, "history", None)))
                self.watch.gave_ramp, self.settings = planned.ramp != self.settings.ramp, planned
                pruner = Pruner(model, layers, self.settings, self._history)
                if not int(self._flops.numpy()):
                    self._flops.assign(pruner.flops)
            self.pruner = pruner
            layers[0].show(fit_progress.PruningProgress(self))  # not before the conversion, which calls the model
        return self.pruner

    def _configure(self, changes: dict[str, Any]) -> None:
        settings = dataclasses.replace(self.settings, **changes)
        if settings == self.settings:
            return
        self.settings = settings
        self.pruner = self.loaded_target = None  # made again, with the masks as they are
        if self.built:
            with tf.init_scope():
                self._flops.assign(0)

    @property
    def updates(self) -> Any:
        """The variable that counts updates."""
        return self.iterations if self._counter is None else self._counter

    def masked_layers(self) -> list[MaskLayer]:
        """Returns the layers whose masks this optimizer prunes."""
        return [layer for layer in map(layer_of, trained_variables(self)) if layer is not None]

    # What mask layers ask for

    def gathering(self, model: Any) -> Gathering:
        """Returns how importance is to be estimated in a training call of `model`."""
        reduction = self.settings.loss_reduction
        return Gathering(METHODS[self.settings.method], loss_reduction(model) if reduction == "auto" else reduction)

    # Saving

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, without `model`: a loaded model is found again."""
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            **dataclasses.asdict(self.settings),
        }

    @classmethod
    @refusing
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> PruningOptimizer:
        """Makes an optimizer from `get_config`'s dictionary. Raises InputError for arguments that it does not have."""
        known = {"name", "optimizer", *(setting.name for setting in dataclasses.fields(Settings))}
        if unknown := sorted(config.keys() - known, key=str):
            raise InputError(
                f"PruningOptimizer has no argument {unknown[0]!r}, with which another version of maskc saved it. "
                "Load the model with that version, or with compile=False and compile it again."
            )
        inner = keras.saving.deserialize_keras_object(config.get("optimizer"), custom_objects=custom_objects)
        return cls(**{**config, "optimizer": inner})

    def for_shrunk_model(self) -> PruningOptimizer:
        """Returns an optimizer that prunes what is left of the model towards the same FLOPs; it has no state as yet."""
        before = self.settings.flops_before if self.pruner is None else self.pruner.before
        new = PruningOptimizer.from_config({**self.get_config(), "flops_before": before})
        new.loaded_target = self._target
        return new

    def save_own_variables(self, store: Any) -> None:
        """Saves this optimizer's state with its history; Keras saves the wrapped optimizer's by itself."""
        self.settle()
        for index, variable in enumerate(self.own_variables):
            store[str(index)] = variable.numpy()
        store["history"] = np.asarray(self._history, np.int64).reshape(-1, 4)
        store["target"] = np.asarray(-1 if (target := self._target) is None else target)

    @refusing
    def load_own_variables(self, store: Any) -> None:
        """Restores what `save_own_variables` saved."""
        if len(getattr(store, "keys", tuple)()) != len(self.own_variables) + 2:
            warn(f"The saved state of {self.name!r} does not fit it and is left out.", UserWarning)
            return
        restore(self.name, store, self.own_variables)
        self._history[:] = map(tuple, stored(self.name, store, "history").tolist())
        self.loaded_target = target if (target := int(stored(self.name, store, "target"))) >= 0 else None
