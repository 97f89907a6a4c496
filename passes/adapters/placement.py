"""Placement of adapters: the policies of `--adapters`, and the price of a moved element under each."""

from __future__ import annotations

from typing import Literal, get_args

from passes.adapters.price import FLOPS_PER_MOVED_ELEMENT

Policy = Literal["auto", "always", "never"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_BY_POLICY: dict[Policy, float] = {
    "auto": FLOPS_PER_MOVED_ELEMENT,
    # so little that any saved FLOP outweighs it; not zero, so that nothing is moved without need
    "always": 1e-6,
    # more than any saving outweighs; finite, so that nothing moved costs nothing
    "never": 1e30,
}


def flops_per_moved_element(policy: Policy) -> float:
    """What moving an element costs under this policy. Raises ValueError for another word."""
    if policy not in POLICIES:
        raise ValueError(f"adapters must be one of {', '.join(POLICIES)}, and not {policy!r}.")
    return _BY_POLICY[policy]
