"""Real data that comes with an installed package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskc import datasets
from maskc.errors import UnavailableError

Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images of shape `(count, 8, 8, 1)` with values from 0 to 1, and labels from 0 to
    9."""

    train: Labelled
    held_out: Labelled


def load_digits(seed: int) -> Digits:
    """Returns scikit-learn's 1,797 digits, a third of each class held out.

    Raises:
        UnavailableError: if scikit-learn is not installed.
    """
    try:
        from sklearn import model_selection
    except ImportError as error:
        raise UnavailableError(
            "The demo needs scikit-learn, which is not installed: pip install 'maskc[demo]'."
        ) from error
    images, labels = datasets.digits()
    x, held_x, y, held_y = model_selection.train_test_split(
        images, labels, test_size=1 / 3, random_state=seed, stratify=labels
    )
    return Digits((x, y), (held_x, held_y))
