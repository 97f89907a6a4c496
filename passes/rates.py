"""How fast convolutions run by how round their widths are: what `timing.py` estimates with.

Each kind of processor has a `Rates`. Those of `avx512` were fitted to single convolutions in ONNX Runtime 1.31 on one
core of an AMD EPYC with AVX-512, and to what they take in networks, where more comes from memory
(`python -m benchmarks.rates` compares them again): the estimates for most kinds of convolutions lie within a third of
each other, and those for depthwise ones on blocks above, as these wait for memory. `avx2` has the same kernels with
blocks of half the size, and is taken to run all of them at half the speed; it was not measured. Only the ratios matter.

Which convolutions run on channels in blocks is decided by ONNX Runtime when it loads the model
(onnxruntime/core/optimizer/nchwc_transformer.cc); `Rates.form` says the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from passes.ops.base import Work

# How a convolution runs. `plain`: as a matrix product, channel by channel. `blocked`: on channels in blocks, which it
# reads and writes so. `entering`: it reads few channels as they are and writes blocks.
Form = Literal["plain", "blocked", "entering"]


# Blocks of the output that a kernel computes at once.
_AT_ONCE = 4


@dataclass(frozen=True)
class Rates:
    """Nanoseconds of one core, by what a kernel does.

    block: channels that are held together. step: what the number of channels must divide by to be put into blocks.
    plain, blocked, entering: for one multiply-add. single: how much longer blocked and entering take for a block of the
    output that is the last one beside whole fours, as a kernel computes four at once. resumed: for one element of the
    output that an entering convolution takes up again, once for each channel it reads. tile: places of the output that
    a matrix product computes together; few: as how many each counts where there are fewer. lowered: for laying out one
    element of a window. depthwise: for one multiply-add of a blocked depthwise convolution; strided: where it has
    strides; alone, each: for one multiply-add and one channel of one that is not blocked, twice that with strides.
    touched: for one element that a convolution reads or writes, those that fill blocks up among them. loaded: for one
    element of weights that a blocked convolution waits for, in a model of more than `near` such elements, which do not
    stay in the caches (a matrix product does not wait). element: for one element that an elementwise operator writes.
    reorder: for one element that is brought into blocks or out of them. move: for one element that an adapter delivers,
    and copy: for each of the pieces that a Gather takes one by one. node: for any operator.
    """

    name: str
    block: int
    step: int
    plain: float
    blocked: float
    entering: float
    single: float
    resumed: float
    tile: int
    few: float
    lowered: float
    depthwise: float
    strided: float
    alone: float
    each: float
    touched: float
    loaded: float
    near: int
    element: float
    reorder: float
    move: float
    copy: float
    node: float

    def form(self, work: Work, read: int, written: int) -> Form:
        """How the convolution runs that reads and writes so many channels."""
        if not work.blocks:
            return "plain"
        if work.depthwise:
            return "plain" if written % self.step else "blocked"
        if work.groups > 1:
            whole = read % (work.groups * self.block) == written % (work.groups * self.block) == 0
            return "blocked" if whole else "plain"
        if read < self.block:
            return "entering"
        return "plain" if read % self.step else "blocked"

    def convolution(self, work: Work, read: int, written: int) -> float:
        """Nanoseconds of the convolution itself."""
        form = self.form(work, read, written)
        places = work.batch * math.prod(work.places)
        taken = _up(read, self.block) if form == "blocked" else read
        moved = taken * math.prod(work.strides) + (written if form == "plain" else _up(written, self.block))
        time = self.node + places * moved * self.touched
        if work.depthwise and form == "plain":
            slower = 1 if max(work.strides) == 1 else 2
            return time + written * (work.batch * self.each + work.taps * places * self.alone * slower)
        if form == "plain":
            inner, outer = read / work.groups, written / work.groups
            alone = math.prod(work.places)
            tiled = work.batch * min(_up(alone, self.tile), self.few * alone)
            lowered = inner * work.taps * places * self.lowered
            return time + work.groups * (inner * outer * work.taps * tiled * self.plain + lowered)
        return time + places * self._blocked(work, form, taken, written)

    def loading(self, work: Work, read: int, written: int) -> float:
        """Nanoseconds more where the weights come from memory."""
        waits = not work.depthwise and self.form(work, read, written) != "plain"
        return self.loaded * weights(work, read, written) if waits else 0.0

    def _blocked(self, work: Work, form: Form, read: int, written: int) -> float:
        """Nanoseconds for each place of the output of a convolution that writes blocks."""
        if work.depthwise:
            return read * work.taps * (self.depthwise if max(work.strides) == 1 else self.strided)
        blocks = _up(written, self.block) // self.block
        wide = self.block * (blocks - 1 + self.single if blocks % _AT_ONCE == 1 else blocks) / work.groups
        if form == "entering":
            return read * wide * (work.taps * self.entering + self.resumed)
        return read * wide * work.taps * self.blocked


@dataclass(frozen=True)
class Lines:
    """Kernels that read channels in pieces of so many bytes, and are slower where widths are no multiple of a piece."""

    name: str
    bytes: int

    def multiple(self, itemsize: int) -> int:
        """How many elements of `itemsize` bytes widths are rounded up to."""
        return max(1, self.bytes // itemsize)


def weights(work: Work, read: int, written: int) -> int:
    """Elements of the weights of a convolution that reads and writes so many channels."""
    return written * work.taps * (1 if work.depthwise else read // work.groups)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


_AVX512 = Rates(
    name="avx512",
    block=16,
    step=4,
    plain=1 / 107,
    blocked=1 / 126,
    entering=1 / 128,
    single=1.36,
    resumed=0.016,
    tile=16,
    few=3.5,
    lowered=0.14,
    depthwise=1 / 130,
    strided=1 / 47,
    alone=0.12,
    each=200.0,
    touched=0.06,
    loaded=0.1,
    near=8_000_000,
    element=0.14,
    reorder=0.15,
    move=0.15,
    copy=4.0,
    node=1500.0,
)

# Half the elements in a register, so half the speed of what multiplies and adds.
_AVX2 = replace(
    _AVX512,
    name="avx2",
    block=8,
    **{rate: 2 * getattr(_AVX512, rate) for rate in ("plain", "blocked", "entering", "depthwise", "strided")},
)

#: for a processor that is not known, where convolutions are timed: no channels are put into blocks
ANY = replace(_AVX512, name="any", block=1, step=1)

#: by the instruction set that ONNX Runtime's kernels use on the processor
RATES: dict[str, Rates] = {rates.name: rates for rates in (_AVX512, _AVX2)}

#: by ONNX Runtime's provider. Tensor cores want 4 elements of TF32 (what float32 is multiplied as), 8 of half
#: precision, 16 of int8 (NVIDIA, Deep Learning Performance, Matrix Multiplication Background); not measured
LINES = {"cuda": Lines("cuda", 16)}
