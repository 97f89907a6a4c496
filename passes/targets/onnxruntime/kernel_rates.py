"""How fast convolutions run by how round their widths are: what `timing.py` estimates with.

Each kind of processor has a `Rates`. All were fitted to single convolutions in ONNX Runtime 1.31 on one core, and to
what they take in networks, where more comes from memory (`python -m benchmarks.rates` compares them again). Those of
`avx512` on an AMD EPYC with AVX-512: the estimates for most kinds of convolutions lie within a third of each other, and
those for depthwise ones on blocks above, as these wait for memory. Those of `avx2` on an AMD EPYC (Zen 4) with the
AVX-512 kernels of ONNX Runtime switched off: the estimates for most kinds lie within a quarter of each other, and those
for depthwise ones with strides above. A processor that has no AVX-512 at all may differ. Those of `zen4` on the same
machine with them switched on, which computes AVX-512 by halves: the estimates for all kinds lie within a fifth of each
other. Only ratios within a table matter.

Which convolutions run on channels in blocks is decided by ONNX Runtime when it loads the model
(onnxruntime/core/optimizer/nchwc_transformer.cc); `Rates.form` says the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from passes.targets.onnxruntime.convolution_shape import ConvolutionShape

# How a convolution runs. `plain`: as a matrix product, channel by channel. `blocked`: on channels in blocks, which it
# reads and writes so. `entering`: it reads few channels as they are and writes blocks.
Form = Literal["plain", "blocked", "entering"]


# Blocks of the output that a kernel computes at once.
_AT_ONCE = 4


@dataclass(frozen=True)
class Rates:
    """Nanoseconds of one core, by what a kernel does.

    block: channels that are held together. step: what the number of channels must divide by to be put into blocks.
    plain, blocked, entering: for one multiply-add. last: as how many blocks the one, two or three count that are left
    beside whole fours of the output, as a kernel computes four at once. resumed: for one element of the output that an
    entering convolution takes up again, once for each channel it reads. tile: places of the output that a matrix
    product computes together; few: as how many each counts where there are fewer. lowered: for laying out one element
    of a window, and row: for one weight of a filter, along which they are laid out (not measured on the first machine);
    direct: for one element that is read where it lies, as windows of one place without strides are.
    depthwise: for one multiply-add of a blocked depthwise convolution; strided: where it has strides; alone, each: for
    one multiply-add and one channel of one that is not blocked, twice that with strides. touched: for one element that
    a convolution reads or writes, those that fill blocks up among them. loaded, begun: in a model of more than `near`
    weights, which do not stay in the caches, for one of them that a blocked convolution waits for, and for one channel
    of one filter that a matrix product waits for: its window lies in a row. element: for one element that an
    elementwise operator writes. reorder: for one element that is brought into blocks or out of them. move: for one
    element that an adapter delivers, and copy: for each of the pieces that a Gather takes one by one. node: for any
    operator. worth: what a model must win before channels are computed that could go.
    """

    name: str
    block: int
    step: int
    plain: float
    blocked: float
    entering: float
    last: tuple[float, float, float]
    resumed: float
    tile: int
    few: float
    lowered: float
    row: float
    direct: float
    depthwise: float
    strided: float
    alone: float
    each: float
    touched: float
    loaded: float
    begun: float
    near: int
    element: float
    reorder: float
    move: float
    copy: float
    node: float
    worth: float

    def form(self, work: ConvolutionShape, read: int, written: int) -> Form:
        """How the convolution runs that reads and writes so many channels."""
        if not work.nchwc:
            return "plain"
        if work.depthwise:
            return "plain" if written % self.step else "blocked"
        if work.groups > 1:
            whole = read % (work.groups * self.block) == written % (work.groups * self.block) == 0
            return "blocked" if whole else "plain"
        if read < self.block:
            return "entering"
        return "plain" if read % self.step else "blocked"

    def convolution(self, work: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds of the convolution itself."""
        form = self.form(work, read, written)
        places = work.batch * math.prod(work.positions)
        taken = up(read, self.block) if form == "blocked" else read
        moved = taken * math.prod(work.strides) + (written if form == "plain" else up(written, self.block))
        time = self.node + places * moved * self.touched
        if work.depthwise and form == "plain":
            slower = 1 if max(work.strides) == 1 else 2
            return time + written * (work.batch * self.each + work.taps * places * self.alone * slower)
        if form == "plain":
            inner, outer = read / work.groups, written / work.groups
            alone = math.prod(work.positions)
            tiled = work.batch * min(up(alone, self.tile), self.few * alone)
            as_it_lies = work.taps == max(work.strides) == 1
            laid = places * self.direct if as_it_lies else work.batch * self.row + places * self.lowered
            lowered = inner * work.taps * laid
            return time + work.groups * (inner * outer * work.taps * tiled * self.plain + lowered)
        return time + places * self._blocked(work, form, taken, written)

    def loading(self, work: ConvolutionShape, read: int, written: int) -> float:
        """Nanoseconds more where the weights come from memory."""
        if work.depthwise:
            return 0.0
        of_each = self.begun / work.taps if self.form(work, read, written) == "plain" else self.loaded
        return of_each * work.weights(read, written)

    def _blocked(self, work: ConvolutionShape, form: Form, read: int, written: int) -> float:
        """Nanoseconds for each place of the output of a convolution that writes blocks."""
        if work.depthwise:
            return read * work.taps * (self.depthwise if max(work.strides) == 1 else self.strided)
        whole, left = divmod(up(written, self.block) // self.block, _AT_ONCE)
        wide = self.block * (whole * _AT_ONCE + (0, *self.last)[left]) / work.groups
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


def up(value: int, multiple: int) -> int:
    """The next multiple that is not less."""
    return -(-value // multiple) * multiple


_AVX512 = Rates(
    name="avx512",
    block=16,
    step=4,
    plain=1 / 107,
    blocked=1 / 126,
    entering=1 / 128,
    last=(1.36, 2.0, 3.0),
    resumed=0.016,
    tile=16,
    few=3.5,
    lowered=0.14,
    row=0.0,
    direct=0.14,
    depthwise=1 / 130,
    strided=1 / 47,
    alone=0.12,
    each=200.0,
    touched=0.06,
    loaded=0.1,
    begun=0.0,
    near=8_000_000,
    element=0.14,
    reorder=0.15,
    move=0.15,
    copy=4.0,
    node=1500.0,
    worth=10_000.0,
)

_AVX2 = Rates(
    name="avx2",
    block=8,
    step=4,
    plain=1 / 54,
    blocked=1 / 55,
    entering=1 / 66,
    last=(2.0, 2.4, 3.0),
    resumed=0.038,
    tile=16,
    few=3.5,
    lowered=0.27,
    row=8.0,
    direct=0.09,
    depthwise=1 / 36,
    strided=1 / 33,
    alone=0.18,
    each=250.0,
    touched=0.055,
    loaded=0.15,
    begun=0.25,
    near=1_000_000,
    element=0.2,
    reorder=0.18,
    move=0.13,
    copy=4.0,
    node=2500.0,
    worth=10_000.0,
)

_ZEN4 = Rates(
    name="zen4",
    block=16,
    step=4,
    plain=1 / 58,
    blocked=1 / 57,
    entering=1 / 64,
    last=(1.16, 2.08, 3.0),
    resumed=0.05,
    tile=16,
    few=3.5,
    lowered=0.31,
    row=10.0,
    direct=0.13,
    depthwise=1 / 57,
    strided=1 / 51,
    alone=0.2,
    each=250.0,
    touched=0.05,
    loaded=0.15,
    begun=0.25,
    near=1_000_000,
    element=0.15,
    reorder=0.16,
    move=0.13,
    copy=4.0,
    node=1000.0,
    worth=10_000.0,
)

#: for a processor that is not known, where convolutions are timed: no channels are put into blocks
ANY = replace(_AVX512, name="any", block=1, step=1)

#: by the instruction set that ONNX Runtime's kernels use on the processor
RATES: dict[str, Rates] = {rates.name: rates for rates in (_AVX512, _ZEN4, _AVX2)}

#: by ONNX Runtime's provider. Tensor cores want 4 elements of TF32 (what float32 is multiplied as), 8 of half
#: precision, 16 of int8 (NVIDIA, Deep Learning Performance, Matrix Multiplication Background); not measured
LINES = {"cuda": Lines("cuda", 16)}
