"""Writes docs/operators.md: what the rules of each ONNX operator say, read off the classes themselves.

Run `python docs/operators.py` after a change of rules; `make lint` compares the file with what this would write.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from passes.model.contrib_operators.decompose import DOMAIN, IN_STANDARD_DOMAIN, OPERATORS
from passes.ops import ConstantSlices, Linked, Op
from passes.ops.base import UNKNOWN, rules_of, with_rules
from passes.ops.contractions.base import Contraction
from passes.ops.contractions.integer import IntegerSums
from passes.ops.convolutions.computed_weights import ComputedWeights
from passes.ops.convolutions.convolution import Convolution
from passes.ops.normalization import Normalization
from passes.ops.recurrent import Recurrent

PAGE = Path(__file__).with_name("operators.md")
# Those whose constants that are not stored become part of their bias, weights or attributes.
ABSORBING = (Contraction, Convolution, Normalization, Recurrent)
DOMAINS = {"": "ONNX", "ai.onnx.ml": "ai.onnx.ml"}

HEAD = """\
# Operators

What the compiler knows about each operator of onnx {version} (opset {opset}), written by `docs/operators.py` from
the rules. An operator without rules is left unchanged and gets all of its input channels; you can add
[rules of your own](custom-operators.md). Where it is known what is taken of a sequence, its tensors are read
without it.

* **constants**: constant channels of its inputs make channels of its outputs constant.
* **maps**: so do constant maps, channels that differ from position to position as padding makes them.
* **reads**: input channels that no live output depends on are not computed.
* **narrow**: its inputs may store fewer channels than in the source. Others need all channels: what is missing is
  restored by an adapter, or computed.
* **absorbs**: constants that are not stored become part of its bias, weights or attributes.
* **cost**: FLOPs per output element; `0` if it only moves data or computes shapes; `own` for a formula of its own.
"""

ONNX_RUNTIME = """\
## ONNX Runtime's own operators

ONNX Runtime's optimizer writes these into the files that it saves. They are replaced by standard operators when a model
is read, and ONNX Runtime fuses them again. Forms that are not covered are kept and need all channels:

{written}

These are kept, with rules:

{stay}
"""


def page() -> str:
    """The text of docs/operators.md."""
    parts = [HEAD.format(version=onnx.__version__, opset=onnx.defs.onnx_opset_version())]
    for domain, title in DOMAINS.items():
        schemas = sorted((s for s in onnx.defs.get_all_schemas() if s.domain == domain), key=lambda s: s.name)
        without = [s.name for s in schemas if rules_of(domain, s.name) is UNKNOWN]
        rows: dict[str, list[str]] = {}
        for schema in schemas:
            if schema.name not in without:
                name = f"{schema.name} (deprecated)" if schema.deprecated else schema.name
                rows.setdefault(_row(rules_of(domain, schema.name)), []).append(name)
        parts.append(f"## {title}: {len(schemas) - len(without)} of {len(schemas)} operators have rules\n")
        if rows:
            parts.append("| operators | constants | maps | reads | narrow | absorbs | cost | in words |")
            parts.append("|---|---|---|---|---|---|---|---|")
            parts += [f"| {', '.join(names)} {row}" for row, names in rows.items()] + [""]
        parts.append("Without rules:\n")
        parts.append(_list(without) + "\n")
    written = sorted({*OPERATORS, *IN_STANDARD_DOMAIN})
    parts.append(ONNX_RUNTIME.format(written=_list(written), stay=_list(with_rules(DOMAIN))))
    return "\n".join(parts)


def _list(names: list[str]) -> str:
    return ", ".join(names)


def _row(op: Op) -> str:
    """The cells of an operator but for its name."""
    marks = [
        "✓" if said else ""
        for said in (
            _knows_constants(op),
            _own(op, "maps"),
            _own(op, "reads"),
            _own(op, "required_inputs"),
            isinstance(op, ABSORBING) and not isinstance(op, (ComputedWeights, IntegerSums)),
        )
    ]
    words = " ".join((type(op).__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
    return f"| {' | '.join([*marks, _cost(op), words])} |"


def _own(op: Op, method: str) -> bool:
    """Whether the class says something of its own where the operator nobody knows says nothing."""
    return getattr(type(op), method) is not getattr(Op, method)


def _knows_constants(op: Op) -> bool:
    if not isinstance(op, Linked) or type(op).constants is not Linked.constants:
        return _own(op, "constants")
    try:  # a class whose links pass no constants on says so of any
        return op.constant(None, None, None, ConstantSlices(np.ones(1, bool), np.zeros(1))) is not None  # type: ignore[arg-type]
    except AttributeError:
        return True


def _cost(op: Op) -> str:
    if not _own(op, "cost"):
        return f"{op.flops_per_element} each" if op.flops_per_element else "0"
    return "own"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
