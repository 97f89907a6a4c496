"""What tests of reading models share."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def keras() -> Any:
    from maskc.frontend.tensorflow.importing import import_tensorflow

    import_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    return keras
