"""Targets, and the groups of channels that go to meet them in what is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import ModelProto

import passes
from maskc.compilation.compile import shrink_with, timed
from maskc.errors import InputError
from maskc.frontend.file_size import model_bytes
from maskc.progress import note, stage
from maskc.pruning.choice.observation import Observed
from maskc.pruning.layers.network import Mask
from maskc.pruning.layers.places import PRODUCT
from maskc.pruning.options import PruneOptions
from maskc.results.measurements import Latency
from passes.rewriting.origins import Origin
from passes.targets import registry

_ALL = 0.9995  # of FLOPs
_STEP = 0.002  # of a number of FLOPs, to go below it where it was missed
_FINEST = 64  # of the groups, to which a search is exact
_CLOSE = 0.04  # to what is asked, of it: with more to spare, fewer groups go
_COARSE = 0.9  # of a target: widths in steps that lead below it are given up
_MULTIPLE = 8  # of channels, as vectors of processors have; odd widths may be slower than the source
_STAGE = 0.75  # of what is left stays when more has to go, before it is looked at again
_SHARES = 5  # of the FLOPs that are tried where quality decides
_LEAST = 0.05  # of them
_SECONDS, _RUNS = 1.0, 20  # for the latency of a candidate, and how many there are at least

Figure = Callable[[passes.Shrunk], float]


@dataclass(frozen=True)
class Search:
    """A network as it was observed, with the order in which its groups go, and the source that targets are shares of.

    before: FLOPs, weights and bytes of the source.
    """

    seen: Observed
    options: PruneOptions
    before: Mapping[str, float]

    def found(self) -> tuple[Mask, PruneOptions]:
        """The groups to remove for the target of the options, bool [groups], and the options to compile with.

        Where widths that a processor likes lead far below a target, or put it out of reach, multiples of eight are
        tried, and then all are taken. Raises InputError where it is out of reach all the same.
        """
        name, value = self.options.target_of
        in_steps = self.options.align == "auto" and not self.options.timed
        for align in ("auto", _MULTIPLE) if in_steps else ():
            search = self if isinstance(align, str) else self._aligned(align)
            with suppress(InputError):
                gone = search._chosen(name, value)
                if self._figure(name)(search._compiled(gone)) > _COARSE * value:
                    return gone, search.options
            note("Widths that this processor likes do not come near the target.")
        search = self._aligned("none") if in_steps else self
        return search._chosen(name, value), search.options

    def _aligned(self, align: Literal["none"] | int) -> Search:
        return replace(self, options=replace(self.options, align=align, align_for=None))

    def _chosen(self, name: str, value: float) -> Mask:
        with stage("Choosing channels", slow=True):
            return self.at_flops(value) if name == "flops" else self.shortest(name, value)

    def at_flops(self, share: float) -> Mask:
        """Those that leave no more than a share of the FLOPs in the compiled file."""
        most = share * self.before["flops"]
        asked, step, reached = most, _STEP * most, True
        while reached:
            reached = self.seen.removal.down_to(asked)
            gone, compiled = self._useful(self.seen.removal.gone())
            left = self._flops(compiled)
            note(f"{left / self.before['flops']:.3f} of the FLOPs are left")
            if left <= most:
                return gone if left > (1 - _CLOSE) * most else self._filled(self._fewest(self._flops, most), most)
            # widths that kernels like are kept in steps, so a small excess may take more to go
            asked = min(asked, self.seen.removal.flops) - max(left - most, step)
            step *= 2
        left /= self.before["flops"]
        told = f"there are still {left:.3g} of them" if left < _ALL else "all of them are still there"
        raise self._unreachable(f"{share:g} of the FLOPs", told, compiled)

    def shortest(self, name: str, value: float) -> Mask:
        """The fewest whose loss brings a figure to its target."""
        figure, most = self._figure(name), 1 / value if name == "speedup" else value
        low = 0
        while (found := figure(compiled := self._useful(self.seen.removal.gone())[1])) > most:
            low, left = len(self.seen.removal.ends), self.seen.removal.flops
            # a model of time may be below what is left
            self.seen.removal.down_to(_STAGE * left if left > 0 else -math.inf)
            if len(self.seen.removal.ends) == low:
                told = _told(name, 1 / found if name == "speedup" else found)
                raise self._unreachable(f"--{name} {value:g}", f"it is {told}", compiled)
        return self._fewest(figure, most, low)

    def _unreachable(self, what: str, left: str, compiled: passes.Shrunk) -> InputError:
        """The error for a target, with the layers in which most is left."""
        text = f"{what} cannot be reached: with a tenth of every layer's channels left, {left}."
        cost = passes.count(compiled.model, at=self.options.at)
        most = sorted(cost.nodes, key=lambda node: node.flops)[:-3:-1]
        shares = ((node.name.removesuffix(PRODUCT), node.flops / max(cost.flops, 1)) for node in most)
        layers = " and ".join(f"'{name}' ({share:.0%})" for name, share in shares)
        return InputError(" ".join([text, f"Most FLOPs are left in {layers}.", *self.seen.notes]))

    def _fewest(self, figure: Figure, most: float, low: int = 0) -> Mask:
        """The fewest groups, of those that go first, whose loss brings a figure down to `most`: more than `low` units.

        The search ends where it is near.
        """
        ends = [0, *self.seen.removal.ends]
        high = len(ends) - 1
        while high - low > max(1, high // _FINEST):
            middle = (low + high) // 2
            gone, compiled = self._useful(self.seen.removal.gone(ends[middle]))
            found = figure(compiled)
            note(f"{found / most:.2f} times the target with {ends[middle]:,} of {ends[-1]:,} groups gone")
            if (1 - _CLOSE) * most < found <= most:
                return gone
            low, high = (low, middle) if found <= most else (middle, high)
        return self._useful(self.seen.removal.gone(ends[high]))[0]

    def _filled(self, gone: Mask, most: float) -> Mask:
        """The same without small units, as many as there is room for where one that went saves much, as a head does."""
        units = self.seen.removal.smallest_units(gone)
        fitting, left, low, high = gone, self._flops(self._compiled(gone)), 0, len(units) + 1
        while left <= (1 - _CLOSE) * most and high - low > max(1, len(units) // _FINEST):
            middle = (low + high) // 2
            tried = gone.copy()
            tried[[group for unit in units[:middle] for group in unit]] = False
            tried, compiled = self._useful(tried)
            if (found := self._flops(compiled)) <= most:
                fitting, left, low = tried, found, middle
            else:
                high = middle
        return fitting

    def smallest(self, drop: Callable[[Mask], tuple[float, str]]) -> Mask:
        """Those that leave the fewest FLOPs of all whose drop in quality is no more than the options allow.

        drop: how much, and in words of what.
        """
        most = self.options.max_drop or 0.0
        low, high, found, curve = _LEAST, 1.0, None, []
        with stage("Searching", _SHARES) as searching:
            for _ in range(_SHARES):
                share = (low + high) / 2
                try:
                    gone = self.at_flops(share)
                except InputError:
                    low = share  # it is out of reach
                    searching.advance()
                    continue
                left = self._flops(self._compiled(gone)) / self.before["flops"]
                worse, of_what = drop(gone)
                searching.advance(note=f"drop {worse:.3g} at {left:.2g} of the FLOPs")
                if worse <= most:
                    high, found = min(share, left), gone
                else:
                    low = share
                    curve.append(f"{worse:.3g}{of_what} at {left:.2g}")
        if found is None and not curve:
            raise InputError(f"No more than {1 - low:.2g} of the FLOPs can go: there is nothing to search.")
        if found is None:
            raise InputError(
                f"Quality drops by {', '.join(dict.fromkeys(curve))} of the FLOPs, and --max-drop allows {most:g}."
            )
        return found

    def _useful(self, gone: Mask) -> tuple[Mask, passes.Shrunk]:
        """As many groups as can go when the compiled file stores some channels all the same, for speed; and that file.

        Where it has room, those stay that would have gone last.
        """
        compiled = self._compiled(gone)
        rank = np.full(len(gone), -1)
        rank[self.seen.removal.order] = np.arange(len(self.seen.removal.order))
        kept = np.ones(len(gone), bool)
        for name in self.seen.network.units:
            kept[self.seen.network.groups[name]] = False
        made = {output for node in compiled.model.graph.node for output in node.output}
        for name, place in self.seen.network.places.items():
            groups = np.unique(self.seen.network.groups[name])
            masked = f"{name}/masked"
            origin = compiled.origins.get(masked, Origin(masked) if masked in made else None)
            stored = np.zeros(len(gone), bool)
            if origin is not None:  # of an axis of which it says nothing, all are
                stored[groups] = True
                held = origin.slices.get(place.axis, np.arange(len(self.seen.network.groups[name])))
                stored[np.delete(self.seen.network.groups[name], held)] = False
            lost = groups[gone[groups]]
            lost = lost[np.argsort(rank[lost])]
            kept[lost[: len(lost) - int(stored[lost].sum())]] = False
        useful = gone & ~kept
        return useful, compiled if (useful == gone).all() else self._compiled(useful)

    def _compiled(self, gone: Mask) -> passes.Shrunk:
        """What is compiled without these groups, with a number in place of each bias, which a refit will need."""
        model = self.seen.network.masked(gone)
        constants = self.seen.network.layers.constants
        biases = {r.contraction.bias for r in self.seen.network.readers if r.contraction.bias and gone.any()}
        filled = {
            name: np.full_like(constants.values[name], 1e-3) for name in biases if not constants.values[name].any()
        }
        return shrink_with(constants.put(model, filled), self.options)

    @staticmethod
    def _flops(compiled: passes.Shrunk) -> float:
        return compiled.report.after.flops

    def _figure(self, name: str) -> Figure:
        whole = max(self.before.get(name, 1), 1)
        figures: dict[str, Figure] = {
            "flops": lambda compiled: self._flops(compiled) / whole,
            "params": lambda compiled: compiled.report.after.params / whole,
            "size": lambda compiled: model_bytes(compiled.model) / whole,
            "speedup": lambda compiled: 1 / self.latency(compiled.model, _SECONDS).speedup,
            "ms": lambda compiled: self.latency(compiled.model, _SECONDS).after[1],
        }
        return figures[name]

    def missed(self, after: Mapping[str, float]) -> list[str]:
        """A sentence where a target was missed after all, if these figures by name have it."""
        name, value = self.options.target_of
        found = after.get(name, value)
        short = value / found if name == "speedup" else found / value
        return [f"--{name} {value:g} was missed: at the end it is {_told(name, found)}."] if short > 1 + _CLOSE else []

    def latency(self, model: ModelProto, seconds: float = 2 * _SECONDS) -> Latency:
        """That of a model and of the source, in turns in the runtime of the target."""
        provider = registry.kind(self.options.target).CPU
        return timed(self.seen.source, model, provider, self.seen.batches[0], seconds=seconds, least=_RUNS)


def _told(name: str, figure: float) -> str:
    """A figure that is a target's, in words."""
    words = {"speedup": "times as fast", "ms": "ms", "flops": "of the FLOPs", "params": "of the weights"}
    return f"{figure:.3g} {words.get(name, f'of the {name}')}"
