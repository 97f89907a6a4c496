"""Order of elements through chains of reshapes and transposes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

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
    blocks = dict(zip(_starts(places), places, strict=False))
    result: list[Block] = []
    position = 0
    while position < len(perm):
        first = perm[position]
        block = blocks.get(first)
        if block is None or perm[position : position + block.axes] != [*range(first, first + block.axes)]:
            return None
        result.append(block)
        position += block.axes
    return tuple(result)


def _starts(places: Arrangement) -> list[int]:
    """The first axis of each block, and the number of all axes."""
    return [*accumulate((block.axes for block in places), initial=0)]


def reshaped(places: Arrangement, before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Arrangement | None:
    """The same elements under other sizes; None where it cannot be said which atoms lie along an axis."""
    if 0 in (*before, *after):
        return None
    block_at = {axis: number for number, axis in enumerate(_starts(places))}
    borders = {(0, 0), (len(before), len(after))}  # where groups of axes begin and end on either side
    for axes, others in matched_groups(before, after):
        borders |= {(axes[0], others[0]), (axes[-1] + 1, others[-1] + 1)}
    result: list[Block] = []
    # groups that a block reaches into go together
    for (left, right), (left_end, right_end) in pairwise(sorted(b for b in borders if b[0] in block_at)):
        blocks = places[block_at[left] : block_at[left_end]]
        cut = _cut([atom for block in blocks for atom in block.atoms], after[right:right_end])
        if cut is None:
            return None
        result += cut
    return tuple(result)


def _cut(atoms: list[Atom], sizes: tuple[Dim, ...]) -> list[Block] | None:
    """Blocks of one axis each where the sizes are static, else one of all axes."""
    if not sizes:
        return None if atoms else []
    if len(sizes) == 1:
        return [Block(1, tuple(atoms))]
    if not all(isinstance(d, int) for d in (*sizes, *(a.size for a in atoms))):
        return _cut_at_end(atoms, sizes) or [Block(len(sizes), tuple(atoms))]
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


def _cut_at_end(atoms: list[Atom], sizes: tuple[Dim, ...]) -> list[Block] | None:
    """A first size of 1, or a last one that divides the last atom, in a block of its own, and blocks of the others."""
    if sizes[0] == 1:
        blocks = _cut(atoms, sizes[1:])
        return None if blocks is None else [Block(1, ()), *blocks]
    if not atoms:
        return None
    (*before, size), (*others, last) = sizes, atoms
    if not isinstance(size, int) or not isinstance(last.size, int) or last.size % size:
        return None
    own = (Atom(last.axis, last.stride, size),) if size > 1 else ()
    outer = [Atom(last.axis, last.stride * size, last.size // size)] if last.size > size else []
    blocks = _cut([*others, *outer], tuple(before))
    return None if blocks is None else [*blocks, Block(1, own)]
