"""Spare channels as floors of a plan: so many of each coupling, or all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from passes.rewriting.storage_plan import StorageFloor, StoragePlan
from passes.targets.widths.coupled_slices import CoupledSlices


def with_spare(
    coupled: CoupledSlices, plan: StoragePlan, extras: Mapping[int, int], reason: str, base: StorageFloor
) -> StorageFloor:
    """So many spare slices of each coupling, with the reason for each axis, beside what is stored in any case."""
    floor = StorageFloor(dict(base.stored), set(base.intact))
    for number, more in extras.items():
        for key, mask in coupled.slices(coupled.found[number], more):
            floor.wider[key] = floor.wider.get(key, np.zeros(mask.size, bool)) | mask
    for key, mask in floor.wider.items():
        floor.stored[key] = floor.stored.get(key, np.zeros(mask.size, bool)) | mask
        before = int(plan.stored[key].sum())
        floor.why[key] = f"kept for a channel count of {before + int(mask.sum())}, {reason.format(before)}"
    return floor


def everything(plan: StoragePlan, why: str) -> StorageFloor:
    """All slices of all axes."""
    wider = {key: np.ones(mask.size, bool) for key, mask in plan.stored.items() if key[0] not in plan.absent}
    return StorageFloor(dict(wider), wider=wider, why=dict.fromkeys(wider, why))
