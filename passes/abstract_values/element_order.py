"""Order of elements through chains of reshapes and transposes."""

from __future__ import annotations

from dataclasses import dataclass

from passes.abstract_values.reshape_groups import common_factors, matched_groups
from passes.graph.tensors import Dim, product


@dataclass(frozen=True)
class Atom:
    """A digit of an index: the elements along `axis` of the source that lie `stride` apart, `size` of them.

    An axis whose size is not static is one atom of stride 1.
    """

    axis: int
    stride: int
    size: Dim


@dataclass(frozen=True)
class Block:
    """Neighbouring axes, `axes` of them, that together run over these atoms in row-major order."""

    axes: int
    atoms: tuple[Atom, ...]


Arrangement = tuple[Block, ...]


def original(shape: tuple[Dim, ...]) -> Arrangement:
    """The tensor as it is."""
    return tuple(Block(1, (Atom(a, 1, dim),) if dim != 1 else ()) for a, dim in enumerate(shape))


def transposed(places: Arrangement, perm: list[int]) -> Arrangement | None:
    """Axes in another order; None where that would tear apart axes of which only the product is known."""
    first: dict[int, int] = {}
    owner: list[int] = []
    for number, block in enumerate(places):
        first[number] = len(owner)
        owner += [number] * block.axes
    result: list[Block] = []
    position = 0
    while position < len(perm):
        number = owner[perm[position]]
        block = places[number]
        if perm[position : position + block.axes] != [first[number] + a for a in range(block.axes)]:
            return None
        result.append(block)
        position += block.axes
    return tuple(result)


def reshaped(places: Arrangement, before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Arrangement | None:
    """The same elements under other sizes; None where it cannot be said which atoms lie along an axis."""
    if 0 in (*before, *after):
        return None
    waiting = list(places)
    result: list[Block] = []
    atoms: list[Atom] = []
    left = right = start = 0
    for group in _groups(before, after):
        left, right = left + group[0], right + group[1]
        while left > 0:
            block = waiting.pop(0)
            left -= block.axes
            atoms += block.atoms
        if left < 0:
            continue  # the block reaches into the next group: they go together
        blocks = _cut(atoms, after[start : start + right])
        if blocks is None:
            return None
        result += blocks
        start, right, atoms = start + right, 0, []
    return tuple(result)


def _groups(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[int, int]]:
    """How many axes of either side go together, in order."""
    groups = []
    i = j = 0
    for left, right in [*matched_groups(before, after), ([len(before)], [len(after)])]:
        if left[0] > i or right[0] > j:
            groups.append((left[0] - i, right[0] - j))
        groups.append((len(left), len(right)))
        i, j = left[-1] + 1, right[-1] + 1
    return groups[:-1]


def _cut(atoms: list[Atom], sizes: tuple[Dim, ...]) -> list[Block] | None:
    """Blocks of one axis each where the sizes are static, else one of all axes."""
    if not sizes:
        return None if atoms else []
    if len(sizes) == 1:
        return [Block(1, tuple(atoms))]
    if not all(isinstance(d, int) for d in (*sizes, *(a.size for a in atoms))):
        return [Block(len(sizes), tuple(atoms))]
    if product(atom.size for atom in atoms) != product(sizes):
        return None
    factors = common_factors([atom.size for atom in atoms], [*sizes]) if atoms else []
    if factors is None:
        return None
    blocks: list[list[Atom]] = [[] for _ in sizes]
    left = [product([atom.size]) for atom in atoms]  # elements of each that are not in a block yet
    for factor, a, b in factors:
        size = factor.number or 1
        left[a] //= size
        blocks[b].append(Atom(atoms[a].axis, atoms[a].stride * left[a], size))
    return [Block(1, tuple(own)) for own in blocks]
