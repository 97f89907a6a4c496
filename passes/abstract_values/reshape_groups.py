"""Groups of axes before a reshape that make up the axes after it."""

from __future__ import annotations

from passes.graph.tensors import Dim


def matched_groups(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]]:
    """Axes of a reshape, in the smallest groups whose products are equal on both sides.

    Symbols only match themselves. Groups are matched from the front and, where that comes to an end, from the back;
    what the sizes do not tell in between is left out.
    """
    front = _matched(before, after)
    i, j = (sum(len(g[side]) for g in front) for side in (0, 1))
    back = _matched(before[i:][::-1], after[j:][::-1])
    mirrored = [
        (sorted(len(before) - 1 - a for a in left), sorted(len(after) - 1 - b for b in right)) for left, right in back
    ]
    return front + mirrored[::-1]


def _matched(before: tuple[Dim, ...], after: tuple[Dim, ...]) -> list[tuple[list[int], list[int]]]:
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        a, b = _times((1, []), before[i]), _times((1, []), after[j])
        i, j = i + 1, j + 1
        while a is None or a != b:
            if a is None or b is None:
                return groups
            if a[1] == b[1]:
                grow_left = a[0] < b[0]
            else:  # a symbol is still missing on one side
                grow_left = len(a[1]) < len(b[1]) or (len(a[1]) == len(b[1]) and a[0] <= b[0])
            if grow_left and i < len(before):
                left.append(i)
                a, i = _times(a, before[i]), i + 1
            elif not grow_left and j < len(after):
                right.append(j)
                b, j = _times(b, after[j]), j + 1
            else:
                return groups
        groups.append((left, right))
    return groups


def _times(size: tuple[int, list[str]], dim: Dim) -> tuple[int, list[str]] | None:
    """A number, and the symbols that it is multiplied by, in order: with one more factor."""
    if dim is None:
        return None
    return (size[0], sorted([*size[1], dim])) if isinstance(dim, str) else (size[0] * dim, size[1])
