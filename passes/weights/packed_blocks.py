"""Weights of MatMulNBits: rows of blocks of numbers of few bits, packed into bytes, with a scale for each block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from passes.graph.construct import constant
from passes.graph.tensors import Array, Index, Mask, element_of
from passes.weights.leaf import Leaf
from passes.weights.quantized import Applied, Expression, Quantized
from passes.weights.steps import Steps

_OF_FOUR_BITS = 21  # the opset from which tensors hold such numbers


@dataclass(frozen=True)
class PackedBlocks:
    """The weight [rows, columns]: (steps - zeros) · scales, with a zero and a scale for each row and block.

    Source: ONNX Runtime's contrib operators, MatMulNBits.
    """

    steps: Array
    scales: Array
    zeros: Array
    block: int
    bits: int

    @staticmethod
    def sizes(attrs: Mapping[str, Any]) -> tuple[tuple[int, int, int], int, int] | None:
        """The shape of what is packed, and the numbers of scales and of bytes of zeros; None for wrong attributes."""
        given = [attrs.get(name, 0) for name in ("N", "K", "block_size")]
        rows, columns, block = (number if isinstance(number, int) else 0 for number in given)
        bits = attrs.get("bits", 4)
        if min(rows, columns, block) < 1 or bits not in (2, 4, 8) or block * bits % 8:
            return None
        blocks = -(-columns // block)
        return (rows, blocks, block * bits // 8), rows * blocks, rows * -(-blocks * bits // 8)

    @staticmethod
    def of(attrs: Mapping[str, Any], packed: Array, scales: Array, zeros: Array | None = None) -> PackedBlocks:
        """Of what the operator reads; `zeros`: packed as well where they are bytes, the middle where there are none."""
        columns, bits, block = (int(attrs.get(name, 4)) for name in ("K", "bits", "block_size"))
        rows, blocks = packed.shape[:2]
        steps = _unpacked(packed.reshape(rows, -1), bits)[:, :columns]
        if zeros is None:
            zeros = np.full((rows, blocks), 1 << bits - 1, np.uint8)
        elif zeros.dtype == np.uint8:
            zeros = _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
        return PackedBlocks(steps, scales.reshape(rows, blocks), zeros.reshape(rows, blocks), block, bits)

    @staticmethod
    def zero_rows(attrs: Mapping[str, Any], packed: Array, scales: Array, zeros: Array | None = None) -> Mask:
        """Rows that are seen to be zeros alone as they are packed; arguments as of `of`."""
        bits, (rows, blocks) = int(attrs.get("bits", 4)), packed.shape[:2]
        zero = scales.reshape(rows, blocks) == 0
        if zeros is None or zeros.dtype == np.uint8:
            each = 1 << bits - 1 if zeros is None else _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks]
            whole = np.broadcast_to(each * sum(1 << shift for shift in range(0, 8, bits)), zero.shape)
            zero = zero | (packed == whole[..., None]).all(axis=-1)
        return np.asarray(zero.all(axis=-1))

    @staticmethod
    def bits_in_tensors(bits: int, opset: int) -> int:
        """How many bits a tensor takes for each number, at the least."""
        return 4 if bits <= 4 and opset >= _OF_FOUR_BITS else 8

    def picked(self, rows: Index, columns: Index) -> PackedBlocks:
        """Some rows, and the columns of some whole blocks."""
        steps = self.steps[np.ix_(rows, columns)]
        blocks = np.ix_(rows, np.unique(columns // self.block))
        return replace(self, steps=steps, scales=self.scales[blocks], zeros=self.zeros[blocks])

    def packed(self) -> tuple[Array, Array, Array]:
        """Steps, scales and zeros as the operator reads them."""
        rows, blocks = self.scales.shape
        whole = np.zeros((rows, blocks * self.block), np.uint8)
        whole[:, : self.steps.shape[1]] = self.steps
        zeros = _packed(self.zeros, self.bits) if self.zeros.dtype == np.uint8 else self.zeros
        return _packed(whole, self.bits).reshape(rows, blocks, -1), self.scales, zeros

    def in_steps(self, tensor: str) -> Steps:
        """The weight as numbers that are packed in an initializer."""
        which, numbers = np.arange(self.steps.shape[1]) // self.block, self.steps.astype(f"uint{self.bits}")
        scales, zeros = self.scales[:, which], self.zeros[:, which]
        return Steps(tensor, numbers, scales, zeros, lambda n: replace(self, steps=n.astype(np.uint8)).packed()[0])

    def weight(self, name: str, rows: Index, columns: Index, dtype: np.dtype[Any], opset: int) -> Quantized:
        """Some of it [columns, rows], of this type, in as few bits as the opset has for tensors."""
        few = self.bits_in_tensors(int(self.steps.max(initial=0)).bit_length(), opset) < 8
        steps = self.steps[np.ix_(rows, columns)].T.astype(ml_dtypes.uint4 if few else np.uint8)
        result: Expression = Applied("Cast", {"to": 1}, (Leaf.of(constant(f"{name}_quantised", steps)),))
        used, which = np.unique(columns // self.block, return_inverse=True)
        for op, parameter in (("Sub", self.zeros), ("Mul", self.scales)):
            values = parameter[np.ix_(rows, used)].T.astype(np.float32)
            index: tuple[Index | None, Index | None] = (which, None)
            if (values == values[0, 0]).all():  # the middle, mostly
                values, index = values[:1, :1], (np.zeros_like(columns), np.zeros_like(rows))
            stored = constant(f"{name}_{'zeros' if op == 'Sub' else 'scales'}", values)
            result = Applied(op, {}, (result, Leaf(stored, values.shape, index)))
        if dtype != np.float32:
            result = Applied("Cast", {"to": element_of(dtype)}, (result,))
        return Quantized(name, result)


def _unpacked(packed: Array, bits: int) -> Array:
    """Numbers of these bits, the lowest ones of a byte first [rows, numbers]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray((packed[..., None] >> shifts & ((1 << bits) - 1)).reshape(len(packed), -1))


def _packed(numbers: Array, bits: int) -> Array:
    """What `_unpacked` takes, filled up with zeros."""
    each = 8 // bits
    filled = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % each))).reshape(len(numbers), -1, each)
    return np.asarray((filled << np.arange(0, 8, bits, dtype=np.uint8)).sum(axis=-1, dtype=np.uint8))
