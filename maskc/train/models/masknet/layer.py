"""What the layers of MaskNet have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from keras import layers

from maskc.train.data.config import Checked

# That of the published implementation; Keras's own default is 1e-3.
EPSILON = 1e-5

Shape = tuple[int | None, ...]


class Configured(layers.Layer):  # type: ignore[misc]
    """A layer that is made from a configuration of the class `kind`, or the dictionary of one."""

    kind: ClassVar[type[Checked]]
    config: Any

    def __init__(self, config: Checked | Mapping[str, Any], prunable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = self.kind.model_validate(config)
        self.prunable = prunable

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        return {**super().get_config(), "config": self.config.model_dump(mode="json"), "prunable": self.prunable}
