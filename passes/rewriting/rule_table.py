"""What facts and edits ask of the rules of other nodes: they are handed the table, as the rules stand above them."""

from __future__ import annotations

from typing import Protocol, TypeVar

import onnx_graphsurgeon as gs

from passes.abstract_values.scale_shift import Affine
from passes.abstract_values.slices import Link
from passes.graph.editor import Change
from passes.graph.tensors import Index

Asking = TypeVar("Asking", contravariant=True)  # the facts or edits that a rule is handed: whatever asks hands itself


class SliceFlow(Protocol[Asking]):
    """From which input slices the slices of the outputs come."""

    def links(self, node: gs.Node, facts: Asking) -> list[Link]:
        """As `Op.links`."""

    def carries(self, node: gs.Node, facts: Asking, output: int, axis: int) -> list[tuple[int, int]]:
        """As `Op.carries`."""


class OutputFolding(Protocol[Asking]):
    """Whether the node takes a scale and shift of its output into its own constants."""

    def fold_output_affine(self, node: gs.Node, affine: Affine, fuser: Asking) -> bool:
        """As `Op.fold_output_affine`."""


class Ordering(Protocol[Asking]):
    """What makes the node write or read its channels in another order."""

    def writes_in_order(self, node: gs.Node, output: int, axis: int, order: Index, orders: Asking) -> Change | None:
        """As `Op.writes_in_order`."""

    def reads_in_order(self, node: gs.Node, index: int, axis: int, order: Index, orders: Asking) -> Change | None:
        """As `Op.reads_in_order`."""
