"""Sessions of ONNX Runtime."""

import sys

import pytest

from tests.maskc.command import process

_PEAK = """
import sys
import numpy as np
from onnx import parser
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession

model = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[1] y) '
    '{ a = Add(x, x) b = Mul(a, x) y = ReduceSum<keepdims = 1>(b) }'
)
sessions = [OnnxRuntimeSession(model, optimized=False, timed=sys.argv[1] == "timed") for _ in range(6)]
for session in sessions:
    session.run({"x": np.ones(1 << 23, np.float32)})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_memory_of_a_run_is_freed_after_it() -> None:
    """Each run takes 32 MB, which sessions that are timed keep for the next."""
    timed, untimed = (int(process(how, code=_PEAK).stdout) // 1024 for how in ("timed", "untimed"))
    assert timed - untimed > 150
