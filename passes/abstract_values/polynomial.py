"""Polynomials in tensors: what sums, products and whole powers of them compute."""

from __future__ import annotations

from collections import defaultdict

# Coefficients by the names of the tensors that are multiplied, in order: {("x", "x"): 2.0, (): 1.0} is 2 x² + 1.
Polynomial = dict[tuple[str, ...], float]

_MOST_TERMS = 8


def added(a: Polynomial, b: Polynomial, factor: float = 1.0) -> Polynomial | None:
    """a + factor · b; None where that has many terms."""
    total = defaultdict(float, a)
    for names, value in b.items():
        total[names] += factor * value
    return _few(total)


def multiplied(a: Polynomial, b: Polynomial) -> Polynomial | None:
    """a · b; None where that has many terms."""
    total: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for first, x in a.items():
        for second, y in b.items():
            total[tuple(sorted(first + second))] += x * y
    return _few(total)


def number(of: Polynomial) -> float | None:
    """The number that it is, None if it depends on a tensor."""
    return of.get((), 0.0) if not of.keys() - {()} else None


def _few(terms: dict[tuple[str, ...], float]) -> Polynomial | None:
    return dict(terms) if len(terms) <= _MOST_TERMS else None
