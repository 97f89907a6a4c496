"""Groups of axes before a reshape that make up the axes after it."""

from __future__ import annotations

from passes.abstract_values.polynomial import Polynomial, known, quotient
from passes.graph.tensors import Dim


def matched_groups(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes of a reshape, in the smallest groups whose products are equal on both sides, as formulas.

    Groups are matched from the front and, where that comes to an end, from the back; what the sizes do not tell in
    between is left out.
    """
    front = _matched(before, after)
    i, j = (sum(len(g[side]) for g in front) for side in (0, 1))
    back = _matched(before[i:][::-1], after[j:][::-1])
    mirrored = [
        (sorted(len(before) - 1 - a for a in left), sorted(len(after) - 1 - b for b in right)) for left, right in back
    ]
    return front + mirrored[::-1]


def _matched(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]]:
    sizes = [known(shape[: shape.index(None)] if None in shape else shape) or [] for shape in (before, after)]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(sizes[0]) and j < len(sizes[1]):
        left, right = [i], [j]
        a, b = sizes[0][i], sizes[1][j]
        i, j = i + 1, j + 1
        while a != b:
            lacks_left = _is_part(a, b)
            if lacks_left and i < len(sizes[0]):
                left.append(i)
                a, i = a * sizes[0][i], i + 1
            elif not lacks_left and j < len(sizes[1]):
                right.append(j)
                b, j = b * sizes[1][j], j + 1
            else:
                return groups
        groups.append((left, right))
    return groups


def _is_part(a: Polynomial, b: Polynomial) -> bool:
    """Whether a factor is missing of the first of two products rather than of the second."""
    if quotient(b, a) is not None or quotient(a, b) is not None:
        return quotient(b, a) is not None
    (one, first), (other, second) = (product.terms[0] if product.terms else ((), 0) for product in (a, b))
    return (len(one), first) <= (len(other), second)


def common_factors(left: list[Dim], right: list[Dim]) -> list[tuple[Polynomial, int, int]] | None:
    """Factors (size, left axis, right axis) in order, of which both lists of sizes are products; None without any."""
    factors: list[tuple[Polynomial, int, int]] = []
    a, b = known(left) or [], known(right) or []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i].number == 1 or b[j].number == 1:
            i, j = i + (a[i].number == 1), j + (b[j].number == 1)
            continue
        size = a[i] if quotient(b[j], a[i]) is not None else b[j]
        one, other = quotient(a[i], size), quotient(b[j], size)
        if one is None or other is None:
            return None
        factors.append((size, i, j))
        a[i], b[j] = one, other
    return factors or None
