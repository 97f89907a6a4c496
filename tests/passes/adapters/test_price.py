"""Which adapters only pad or cut."""

import itertools

import numpy as np

from passes.adapters.price import only_at_ends
from passes.graph.tensors import bits, mask_of

SIZE = 6
MASKS = [np.array(mask) for mask in itertools.product([False, True], repeat=SIZE)]


def test_bits_say_what_masks_do() -> None:
    for mask in [*MASKS, np.arange(70) % 3 == 0, np.zeros(0, bool)]:
        assert mask_of(bits(mask), mask.size).tolist() == mask.tolist()
        assert bits(mask).bit_count() == mask.sum()


def test_all_pairs_that_padding_or_cutting_the_ends_is_enough_for() -> None:
    for stored, required in itertools.product(MASKS, repeat=2):
        before, after = np.flatnonzero(stored).tolist(), np.flatnonzero(required).tolist()
        short, long = sorted((before, after), key=len)
        inside = any(long[start : start + len(short)] == short for start in range(len(long)))
        assert only_at_ends(bits(stored), bits(required)) == (inside and bool(short)), (before, after)
