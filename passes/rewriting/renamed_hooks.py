"""Earlier names of hooks of rules, which work for one version more."""

from __future__ import annotations

import warnings

#: by the old name of a hook, what it is called now
RENAMED = {
    "produces": "storable_outputs",
    "ramp": "clamped_affine",
    "sees": "required_inputs",
    "takes": "fold_output_affine",
    "takes_ahead": "fold_input_affine",
    "ties": "linear_dependences",
    "written_out": "decompose",
}


def adopt(rules: type) -> None:
    """Let a class of rules that defines an old name have the new one, with a warning, and the other way round.

    Both ways, so that `super().sees(...)` in somebody's rules still finds what the base class says.
    """
    own = vars(rules)
    for old, new in RENAMED.items():
        if new in own:
            setattr(rules, old, own[new])
        elif old in own:
            warnings.warn(
                f"The hook `{old}` of the rules {rules.__qualname__} is called `{new}` now; the old name will not work "
                "in the next version.",
                FutureWarning,
                stacklevel=4,
            )
            setattr(rules, new, own[old])
