"""Groups of channels of a grouped convolution."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Array, Mask


def group_size(node: gs.Node) -> int:
    """Number of groups of the convolution."""
    return int(node.attrs.get("group", 1))


def level(counts: Mask, groups: int) -> Mask:
    """Give every group that has any slice as many as the fullest one, by adding the first that are missing.

    counts: bool [channels], channels divisible by groups. Returns bool [channels].
    """
    if groups in (1, counts.size):
        return counts
    rows = counts.reshape(groups, -1)
    return filled(rows, np.asarray(rows.any(axis=1))).reshape(-1)


def filled(rows: Mask, kept: Mask, least: int = 0) -> Mask:
    """As many in each kept row as in the fullest, and `least`: what is marked, then the first that is not."""
    most = max(int(rows[kept].sum(axis=1).max(initial=0)), least)
    order = np.argsort(~rows, axis=1, kind="stable")
    chosen = np.zeros_like(rows)
    np.put_along_axis(chosen, order[:, :most], True, axis=1)
    return np.asarray(chosen & kept[:, None])


def cut_groups(weights: Array, outputs: Mask, inputs: Mask, groups: int) -> Array:
    """Rows of kept groups with, in each, the columns that its group kept."""
    per_group = inputs.reshape(groups, -1)
    columns = np.argsort(~per_group, axis=1, kind="stable")[:, : int(per_group.sum(axis=1).max())]
    rows = np.flatnonzero(outputs)
    group_of = rows // (weights.shape[0] // groups)
    return np.asarray(weights[rows[:, None], columns[group_of]])
