"""Integer polynomials over symbolic sizes: the algebra of shape arithmetic.

A size that no polynomial expresses (a rounded quotient, a maximum) is an indeterminate keyed by its expression, so that
equal expressions are equal and can still be evaluated.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from passes.graph.tensors import Dim


@dataclass(frozen=True)
class Term:
    """An indeterminate: an operation on polynomials that is no polynomial of theirs."""

    operation: str
    operands: tuple[Polynomial, ...]

    @functools.cached_property
    def _text(self) -> str:
        return f"{self.operation}({', '.join(map(str, self.operands))})"

    def __str__(self) -> str:
        return self._text


Factor = str | Term  # a symbol, or an opaque term
Monomial = tuple[Factor, ...]  # sorted by text


@dataclass(frozen=True)
class Polynomial:
    """A polynomial with integer coefficients; `terms` are in order, without zeros."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(dim: int | str) -> Polynomial:
        """A constant, or the symbol of this name; an `Expression` is what it stands for."""
        if isinstance(dim, Expression):
            return dim.polynomial
        return Polynomial((((dim,), 1),)) if isinstance(dim, str) else _constant(int(dim))

    @property
    def number(self) -> int | None:
        """The value of a constant, None for any other polynomial."""
        if not self.terms:
            return 0
        return self.terms[0][1] if not self.terms[0][0] and len(self.terms) == 1 else None

    @functools.cached_property
    def is_natural(self) -> bool:
        """Whether it is seen not to be below zero where symbols are not: a sum of such, or what a division leaves."""
        if all(math.prod(map(_sign, monomial), start=coefficient) > 0 for monomial, coefficient in self.terms):
            return True
        floors = {factor for monomial, _ in self.terms for factor in monomial if _is_floor(factor)}
        return any(self == rest(*floor.operands) for floor in floors if isinstance(floor, Term))

    @property
    def dim(self) -> int | str:
        """The polynomial as the size of an axis."""
        number = self.number
        if number is not None:
            return number
        (factors, coefficient), *others = self.terms
        if not others and coefficient == 1 and len(factors) == 1 and isinstance(factors[0], str):
            return factors[0]
        return Expression(self)

    @functools.cached_property
    def symbols(self) -> frozenset[str]:
        """The symbols in it, those within opaque terms among them."""
        factors = {factor for monomial, _ in self.terms for factor in monomial}
        inside = (p.symbols for f in factors if isinstance(f, Term) for p in f.operands)
        return frozenset(f for f in factors if isinstance(f, str)).union(*inside)

    @property
    def as_shifted_quotient(self) -> tuple[str, int, int] | None:
        """Symbol, shift and stride where this is `(symbol + shift) // stride`, as sizes after windows are."""
        shift = dict(self.terms).get((), 0)
        match [term for term in self.terms if term[0]]:
            case [((str(symbol),), 1)]:
                return symbol, shift, 1
            case [((Term("floordiv", (dividend, divisor)),), 1)]:
                inner, stride = dividend.as_shifted_quotient, divisor.number
                if inner is not None and inner[2] == 1 and stride is not None:
                    return inner[0], inner[1] + shift * stride, stride
        return None

    def at(self, values: Mapping[str, int]) -> int | None:
        """The value at these values of the symbols; None where one is missing or the value is not defined."""
        total = 0
        for monomial, coefficient in self.terms:
            for factor in monomial:
                value = values.get(factor) if isinstance(factor, str) else _evaluated(factor, values)
                if value is None:
                    return None
                coefficient *= value
            total += coefficient
        return total

    def __add__(self, other: Polynomial) -> Polynomial:
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return _collected(total)

    def __neg__(self) -> Polynomial:
        return Polynomial(tuple((monomial, -coefficient) for monomial, coefficient in self.terms))

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                monomial = tuple(sorted(left + right, key=str)) if left and right else left or right
                total[monomial] = total.get(monomial, 0) + a * b
        return _collected(total)

    def __floordiv__(self, other: Polynomial) -> Polynomial:
        """The quotient rounded down, where the divisor is not 0.

        `(n // s + b) // t` is `(n + b * s) // (s * t)`, so that windows over windows have one form.
        """
        divisor = other.number
        if divisor is None or divisor <= 0:
            return quotient(self, other) or _opaque("floordiv", self, other)
        whole = {m: c // divisor for m, c in self.terms if m and c % divisor == 0}
        rest = {m: c for m, c in self.terms if m not in whole}
        constant = rest.get((), 0)
        whole[()], rest[()] = constant // divisor, constant % divisor
        left = _collected(rest)
        if left.number is not None:
            return _collected(whole)
        inner = [m[0] for m, c in left.terms if len(m) == 1 and c == 1]
        if len(inner) == 1 and len(left.terms) - (() in dict(left.terms)) == 1 and _is_floor(inner[0]):
            before, step = inner[0].operands  # type: ignore[union-attr]
            return _collected(whole) + (before + _constant(rest.get((), 0)) * step) // (step * other)
        return _collected(whole) + _opaque("floordiv", left, other)

    @functools.cached_property
    def _text(self) -> str:
        return " + ".join("*".join([str(c)] * (c != 1 or not m) + [*map(str, m)]) for m, c in self.terms) or "0"

    def __str__(self) -> str:
        return self._text


class Expression(str):
    """The size of an axis that is computed from others: the text of a polynomial, as symbolic sizes are texts."""

    __slots__ = ("polynomial",)
    polynomial: Polynomial

    def __new__(cls, polynomial: Polynomial) -> Expression:
        """In braces, which names of sizes do not have."""
        made = super().__new__(cls, f"{{{polynomial}}}")
        made.polynomial = polynomial
        return made


def quotient(dividend: Polynomial, divisor: Polynomial) -> Polynomial | None:
    """The polynomial that times the divisor is the dividend; None if there is none, or more than one."""
    if not dividend.terms or not divisor.terms:
        return None
    lead, least = divisor.terms[0]
    found: dict[Monomial, int] = {}
    while dividend.terms:
        monomial, coefficient = dividend.terms[0]
        left = _without(monomial, lead)
        if left is None or coefficient % least:
            return None
        found[left] = coefficient // least
        dividend -= divisor * Polynomial(((left, coefficient // least),))
    return _collected(found)


def shifted_quotient(size: int | str, shift: int, stride: int) -> int | str:
    """The size `(size + shift) // stride`."""
    return ((Polynomial.of(size) + _constant(shift)) // _constant(stride)).dim


def product(factors: Iterable[Polynomial]) -> Polynomial:
    """The product of the factors."""
    return math.prod(factors, start=_constant(1))


def rest(dividend: Polynomial, divisor: Polynomial) -> Polynomial:
    """What division by a positive number leaves: not below zero."""
    return dividend - dividend // divisor * divisor


def maximum(one: Polynomial, other: Polynomial) -> Polynomial:
    """The larger of two."""
    return _opaque("max", *sorted((one, other), key=str))


def minimum(one: Polynomial, other: Polynomial) -> Polynomial:
    """The smaller of two."""
    return _opaque("min", *sorted((one, other), key=str))


def known(dims: Sequence[Dim] | None) -> list[Polynomial] | None:
    """The sizes of a shape; None where one of them, or the rank, is not known."""
    if dims is None or None in dims:
        return None
    return [Polynomial.of(dim) for dim in dims if dim is not None]


def sizes_at(shape: Iterable[Dim], values: Mapping[str, int]) -> list[int | None]:
    """The sizes of a shape at these values of the symbols; None for those that do not follow."""
    return [None if dim is None else Polynomial.of(dim).at(values) for dim in shape]


@functools.lru_cache(1024)
def _constant(number: int) -> Polynomial:
    return Polynomial((((), number),) if number else ())


def _opaque(operation: str, one: Polynomial, other: Polynomial) -> Polynomial:
    if one == other and operation != "floordiv":
        return one
    a, b = one.number, other.number
    value = None if a is None or b is None else _OPERATIONS[operation](a, b)
    if value is not None:
        return _constant(value)
    return Polynomial((((Term(operation, (one, other)),), 1),))


def _sign(factor: Factor) -> int:
    """1 where a factor is seen not to be below zero, -1 where it is seen not to be above, 0 where neither is."""
    if isinstance(factor, str):
        return 1
    one, other = factor.operands
    if factor.operation == "max":
        return int(one.is_natural or other.is_natural)
    if not other.is_natural or factor.operation == "min":
        return int(one.is_natural and other.is_natural)
    return 1 if one.is_natural else -int((-one).is_natural)


def _is_floor(factor: Factor) -> bool:
    return isinstance(factor, Term) and factor.operation == "floordiv" and (factor.operands[1].number or 0) > 0


_OPERATIONS: dict[str, Callable[[int, int], int | None]] = {
    "floordiv": lambda a, b: a // b if b else None,
    "max": max,
    "min": min,
}


def _evaluated(term: Term, values: Mapping[str, int]) -> int | None:
    one, other = (operand.at(values) for operand in term.operands)
    return None if one is None or other is None else _OPERATIONS[term.operation](one, other)


def _collected(total: Mapping[Monomial, int]) -> Polynomial:
    kept = [(monomial, coefficient) for monomial, coefficient in total.items() if coefficient]
    return Polynomial(tuple(sorted(kept, key=_order) if len(kept) > 1 else kept))


def _order(term: tuple[Monomial, int]) -> tuple[int, list[str]]:
    """By degree, the highest first: an order that products keep."""
    return -len(term[0]), [*map(str, term[0])]


def _without(monomial: Monomial, factors: Monomial) -> Monomial | None:
    """The monomial without these factors, None where it has not all of them."""
    left = [*monomial]
    for factor in factors:
        if factor not in left:
            return None
        left.remove(factor)
    return tuple(left)
