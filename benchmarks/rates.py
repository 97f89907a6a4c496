"""The table of rates against this machine: python -m benchmarks.rates.

Times single convolutions in ONNX Runtime on one thread, as `--align measure` does, and prints how long the table of
`passes/targets/onnxruntime/processors.py` says they take, over what they took. Only how much these ratios
differ matters: where one kind of convolution stands out, widths are chosen wrongly. What is timed is read from the
nearest cache, so networks take longer where much memory is touched.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks import record
from maskc.compilation.layer_timing import timed
from maskc.runtime.detect_cpu import table_name
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.convolution_shape import ConvolutionShape

SIDES = (56, 28, 14)
WIDTHS = {
    "NCHWc": ((16, 16), (32, 64), (96, 16), (64, 64), (128, 128), (480, 80)),
    "NCHW to NCHWc": ((3, 32), (8, 16), (8, 48), (12, 96)),
    "im2col": ((17, 17), (33, 33), (65, 17), (129, 129)),
    "depthwise": ((48, 48), (192, 192)),
    "depthwise, unblocked": ((33, 33), (97, 97)),
}


def layers() -> Iterator[tuple[str, ConvolutionShape, int, int]]:
    """Each kind of convolution with its window and channels, at several sizes."""
    for kind, widths in WIDTHS.items():
        alone = kind.startswith("depthwise")
        for kernel, stride in ((3, 1), (3, 2), (5, 1)) if alone else ((1, 1), (3, 1)):
            for side in SIDES:
                for read, written in widths:
                    window = (kernel, kernel), (stride, stride), (1, 1), (side, side)
                    yield (
                        f"{kind}, {kernel} x {kernel} / {stride}",
                        ConvolutionShape(*window, groups=read if alone else 1, depthwise=alone),
                        read,
                        written,
                    )


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--table", choices=RATES, default=table_name())
    rates = RATES[parser.parse_args().table]
    found: dict[str, list[float]] = {}
    for name, work, read, written in layers():
        time = min(timed(work, read, written) for _ in range(3))
        found.setdefault(name, []).append(rates.convolution(work, read, written) / time)
    table = Table("convolution", "estimate / time, geometric mean", "least", "most")
    for name, ratios in found.items():
        mean = statistics.geometric_mean(ratios)
        table.add_row(name, f"{mean:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
