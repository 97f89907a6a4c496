"""Writes docs/operators.md: what the rules of each ONNX operator say, read off the classes themselves.

Run `python docs/operators.py` after a change of rules; a test compares the file with what this would write.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from passes.model.contrib_operators.decompose import IN_STANDARD_DOMAIN, OPERATORS
from passes.model.contrib_operators.output_shapes import OUTPUT_SHAPES
from passes.ops import ConstantSlices, Linked, Op
from passes.ops.base import UNKNOWN, rules_of
from passes.ops.convolution import Convolution
from passes.ops.einsum import SumOfProducts
from passes.ops.matmul import MatrixProduct
from passes.ops.normalization import Normalization
from passes.ops.recurrent import Recurrent

PAGE = Path(__file__).with_name("operators.md")
# Those whose constants that are not stored become part of their bias, weights or attributes.
ABSORBING = (Convolution, MatrixProduct, Normalization, Recurrent, SumOfProducts)
DOMAINS = {"": "ONNX", "ai.onnx.ml": "ai.onnx.ml"}

HEAD = """\
# Operators

What is understood of each operator that the installed onnx {version} knows (opset {opset}), written by
`docs/operators.py` from the rules themselves.

* **constants**: channels of its outputs are found to be constant when channels of its inputs are.
* **maps**: so are channels that differ from place to place, as padding makes them.
* **reads**: channels of its inputs that none of its live outputs depends on are not computed.
* **sees**: its inputs may store fewer channels than the source has. For an operator *seen whole* the missing ones are
  put back, or computed after all.
* **absorbs**: constants that are not stored become part of its own bias, weights or attributes.
* **cost**: FLOPs for each element of the output; `0` for what only moves data or computes shapes; or by a formula of
  its `own`.

An operator without rules is seen whole, which is always correct. [Rules of your own](custom-operators.md) work alike.
"""

ONNX_RUNTIME = """\
## ONNX Runtime's own operators

Standard operators take the place of those that its optimiser writes into files when a model is read, and ONNX Runtime
fuses them again. In a form that is not covered they stay, and are seen whole:

{written}

Others stay. They have rules, or at least shapes:

{stay}
"""


def page() -> str:
    """The text of docs/operators.md."""
    parts = [HEAD.format(version=onnx.__version__, opset=onnx.defs.onnx_opset_version())]
    for domain, title in DOMAINS.items():
        schemas = sorted((s for s in onnx.defs.get_all_schemas() if s.domain == domain), key=lambda s: s.name)
        without = [s.name for s in schemas if rules_of(domain, s.name) is UNKNOWN]
        rows = [_row(s, rules_of(domain, s.name)) for s in schemas if s.name not in without]
        parts.append(f"## {title}: {len(rows)} of {len(schemas)} operators have rules\n")
        if rows:
            parts.append("| operator | constants | maps | reads | sees | absorbs | cost | in words |")
            parts.append("|---|---|---|---|---|---|---|---|")
            parts += [*rows, ""]
        parts.append("Seen whole:\n")
        parts.append(_list(without) + "\n")
    written = sorted({*OPERATORS, *IN_STANDARD_DOMAIN})
    parts.append(ONNX_RUNTIME.format(written=_list(written), stay=_list(sorted(OUTPUT_SHAPES))))
    return "\n".join(parts)


def _list(names: list[str]) -> str:
    return "\n".join(f"* {name}" for name in names)


def _row(schema: onnx.defs.OpSchema, op: Op) -> str:
    name = f"{schema.name} (deprecated)" if schema.deprecated else schema.name
    marks = [
        "yes" if said else ""
        for said in (
            _knows_constants(op),
            _own(op, "maps"),
            _own(op, "reads"),
            _own(op, "required_inputs"),
            isinstance(op, ABSORBING),
        )
    ]
    words = " ".join((type(op).__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
    return f"| {' | '.join([name, *marks, _cost(op), words])} |"


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
