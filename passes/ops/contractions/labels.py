"""Labels of the axes of a contraction.

A label that several factors have is one they are multiplied along: batch if the output has it, summed over if not. One
that a single factor has is kept, or summed over by itself. Axes of a size that is not static, or along which a factor
has its diagonal taken, have no label: they are whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.graph.tensors import is_constant, product, shape_of

#: the letter of axes that stay whole
WHOLE = ""


@dataclass(frozen=True)
class Terms:
    """The letter of each axis, of every factor and of the output; factors are the first inputs of the node."""

    factors: Sequence[Sequence[str]]
    output: Sequence[str]


def of_matrices(left: int, right: int, output: int) -> Terms | None:
    """[..., m, k] · [..., k, n] of these ranks, batched over the leading axes; a vector has the letter k alone."""
    batch = [f".{i}" for i in reversed(range(max(left, right) - 2))]
    m, n = ["m"] * (left > 1), ["n"] * (right > 1)
    if min(left, right) < 1 or output != len(batch) + len(m) + len(n):
        return None
    one = [*batch[len(batch) - left + 2 :], *m, "k"] if m else ["k"]
    other = [*batch[len(batch) - right + 2 :], "k", *n] if n else ["k"]
    return Terms((one, other), [*batch, *m, *n])


@dataclass(frozen=True)
class Label:
    """A letter whose axes can be cut: of one static size, and no more than once in each factor.

    `at` holds `(input, axis)` of the factors that have it, but for those that are repeated along it; `out` is its axis
    of the output, None if it is summed over.
    """

    size: int
    at: tuple[tuple[int, int], ...]
    out: int | None


@dataclass(frozen=True)
class Projection:
    """A computed factor, input `data`, times an initializer, input `weights`."""

    data: int
    weights: int
    labels: Sequence[Label]
    terms: Terms

    @functools.cached_property
    def inner(self) -> list[Label]:
        """Labels of both that are summed over."""
        return [k for k in self.labels if k.out is None and len(k.at) == 2]

    @functools.cached_property
    def kept(self) -> dict[int, Label]:
        """By axis of the output, the labels that the weights alone have."""
        return {k.out: k for k in self.labels if k.out is not None and [i for i, _ in k.at] == [self.weights]}

    @staticmethod
    def axis(label: Label, factor: int) -> int:
        """The axis of a factor that the label names."""
        return dict(label.at)[factor]

    @property
    def inner_axes(self) -> list[int]:
        """The axes of the weights that are summed over."""
        return [self.axis(label, self.weights) for label in self.inner]

    @property
    def is_matrix(self) -> bool:
        """Whether weights [inner, kept] put one axis of the output in the place of one of the data."""
        letters, output = self.terms.factors[self.weights], self.terms.output
        others = [k for k in self.terms.factors[self.data] if k not in letters]
        matrix = len(letters) == 2 and len(self.inner) == 1 and WHOLE not in output
        return matrix and others == [k for k in output if k not in letters]

    @property
    def changed(self) -> set[int] | None:
        """The axes along which the weights put others in the place of those of the data; None if more is different."""
        data, weights, output = *(self.terms.factors[i] for i in (self.data, self.weights)), self.terms.output
        if len(data) != len(output) or WHOLE in output:
            return None
        found = {axis for axis, pair in enumerate(zip(data, output, strict=True)) if len({*pair}) > 1}
        return found if {*weights} <= {k for axis in found for k in (data[axis], output[axis])} else None

    def repeats(self, node: gs.Node) -> int | None:
        """How many elements of the data are summed for one weight: those along letters that the data alone have.

        None if that is not static, or if a factor is repeated along a letter that is summed over.
        """
        data, weights = (
            dict(zip(self.terms.factors[i], shape_of(node.inputs[i]) or (), strict=True))
            for i in (self.data, self.weights)
        )
        output = self.terms.output
        if any(letter not in output and weights[letter] != data[letter] for letter in data.keys() & weights):
            return None
        alone = [dim for letter, dim in data.items() if letter not in {*weights, *output}]
        return product(alone) if all(isinstance(dim, int) for dim in alone) else None


def computed_axes(node: gs.Node, label: Label) -> list[tuple[int, int]]:
    """Axes of computed factors that the label names."""
    return [(i, a) for i, a in label.at if not is_constant(node.inputs[i])]


def axes_of(terms: Terms, letter: str) -> list[tuple[int, int]]:
    """The axes of factors that have the letter."""
    return [(i, a) for i, letters in enumerate(terms.factors) for a, other in enumerate(letters) if other == letter]
