"""Errors of graphs that cannot be compiled."""

from __future__ import annotations

import re


class GraphError(Exception):
    """The graph is not valid: one sentence that names the node or tensor and says what is wrong."""


class SizeError(ValueError):
    """Sizes given for the inputs do not fit the model: one sentence that says which and why."""


def in_brief(error: BaseException, *noise: str) -> str:
    """The first sentence of an error from another library, on one line and without its full stop.

    `noise` are patterns of what that library writes around its sentences, as source locations.
    """
    text = _text(error)
    for pattern in noise:
        text = re.sub(pattern, "", text)
    # of several errors only the first is not a consequence of another; a node whose graph has one is not to blame
    inside = r"(?!(?:\[\w+\] )?Inference error\(s\):)"
    of_node = r"\(op_type:([^,)]*)(?:, node name: ([^)]*))?\): "
    inferred = re.search(rf"{of_node}{inside}(.*?)\s*(?=\(op_type:|\Z)", text, re.S)
    if inferred:
        op, name, reason = inferred.groups()
        text = f"node '{name}' ({op}): {reason}" if name else f"{op}: {reason}"
    else:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        gist = " ".join(line for line in lines if not line.startswith("==>"))
        node = re.search(r"Bad node spec for node\. Name: (.*?) ?OpType: (\S*)", text)
        text = gist.rstrip(".") + (f" (node '{node.group(1).strip()}', {node.group(2)})" if node else "")
    text = re.sub(r"\[\w+Error\] ?", "", text)
    text = re.sub(r"\S*/onnx/\S+:\d+: \w+: Assertion `.*?` failed: ", "", text)
    text = re.sub(r"\s+", " ", text).strip()
    end = r"(?<=[\w)'\"`\]])(?<!\bvs)(?<!\b[ei]\.[ge])\. "  # of a sentence, and not of an abbreviation
    text = re.split(end, text)[0].rstrip(".") or f"it does not say why ({type(error).__name__})"
    return (text[:297] + "...") if len(text) > 300 else text


def _text(error: BaseException) -> str:
    try:
        return re.sub(r"<(?:[\w.]|<locals>)*?(\w+) object at 0x\w+>", r"a \1", str(error)).strip()
    except Exception:  # of what it is to show
        return ""
