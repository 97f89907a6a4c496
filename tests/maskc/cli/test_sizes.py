"""Small files that ask for very much: what they ask for is said, or left uncomputed, before any memory is taken."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

import maskc
from maskc.errors import InputError
from tests.maskc import build
from tests.maskc.command import maskc as command
from tests.maskc.command import process, refused

HUGE = 2**40
node = build.node

# A process that may take no more than this, in bytes, compiles a model.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from maskc.cli import main
main()
"""


def number(name: str, *values: int) -> NodeProto:
    stored = build.constant(name, values[0] if name.islower() else values, np.int64)
    return helper.make_node("Constant", [], [name], value=stored)


def added(*nodes: NodeProto) -> onnx.ModelProto:
    """x[n,4] plus the sum of `r`, which the nodes make of constants."""
    ends = [
        node("ReduceSum", "r", "s", keepdims=0),
        helper.make_node("Cast", ["s"], ["f"], to=1),
        node("Add", "x f", "y"),
    ]
    return build.of_nodes([*nodes, *ends], [build.value("x", ["n", 4])], [build.value("y", ["n", 4])])


def doubled(times: int) -> list[NodeProto]:
    steps = [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(times)]
    return [number("L", 1024), node("ConstantOfShape", "L", "c0"), *steps, node("Identity", f"c{times}", "r")]


ASKING = {
    "range": [number("a", 0), number("b", HUGE), number("c", 1), node("Range", "a b c", "r")],
    "range, computed": [
        *(number("a", 0), number("b", 2**16), number("c", 1)),
        *(node("Mul", "b b", "d"), node("Range", "a d c", "r")),
    ],
    "constant": [number("L", HUGE), node("ConstantOfShape", "L", "r")],
    "constants side by side": [
        number("L", HUGE // 2),
        node("ConstantOfShape", "L", "q"),
        node("Concat", "q q", "r", axis=0),
    ],
    "constants side by side, again and again": doubled(30),
    "repeated": [
        number("L", 1, HUGE),
        helper.make_node("Constant", [], ["u"], value=build.constant("u", [[0.0]])),
        node("Expand", "u L", "r"),
    ],
}


@pytest.mark.parametrize("nodes", ASKING.values(), ids=ASKING)
def test_what_is_large_stays_uncomputed(tmp_path: Path, nodes: Sequence[NodeProto]) -> None:
    source = build.save(added(*nodes), tmp_path / "m.onnx")
    result = process("compile", source, "-o", tmp_path / "out.onnx", "--no-verify", code=LIMITED)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out.onnx").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: build.of_nodes(
                [node("Relu", "x", "y")], [build.value("x", [HUGE, 2])], [build.value("y", [HUGE, 2])]
            ),
            "`x`",
        ),
        (
            lambda: build.of_nodes(
                [node("Relu", "x", "y")], [build.value("x", [2**60] * 25)], [build.value("y", [2**60] * 25)]
            ),
            "`x`",
        ),
        (lambda: added(number("L", HUGE, HUGE), node("ConstantOfShape", "L", "r")), "`r`"),
    ],
    ids=["an input", "FLOPs beyond all numbers", "a constant"],
)
def test_a_tensor_that_no_memory_holds(tmp_path: Path, make: Any, said: str) -> None:
    refused(
        command("compile", build.save(make(), tmp_path / "m.onnx")), 2, f"Tensor {said} would be", "elements at most"
    )


def test_an_input_that_is_too_large_to_draw(tmp_path: Path) -> None:
    built = build.of_nodes([node("Relu", "x", "y")], [build.value("x", [HUGE])], [build.value("y", [HUGE])])
    (warning,) = maskc.compile(built, verify=True).report.warnings
    assert warning.startswith("Not verified") and "1,099,511,627,776 elements" in warning


def test_functions_that_expand_without_end(tmp_path: Path) -> None:
    built = build.custom()
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    for i in range(26):
        called = f"F{i + 1}"
        nodes = [helper.make_node(called, [a], [b], domain="com.example") for a, b in (("i", "m"), ("m", "o"))]
        last = [node("Relu", "i", "o")]
        name = f"F{i}" if i else "Fancy"
        built.functions.append(
            helper.make_function("com.example", name, ["i"], ["o"], nodes if i < 25 else last, imports)
        )
    refused(command("compile", build.save(built, tmp_path / "m.onnx")), 2, "stand for more than 1,000,000 nodes")


def test_masks_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    source, masks = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "masks.npz"
    with zipfile.ZipFile(masks, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("c.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": (2**29,)})
        for _ in range(2**29 // 2**24):
            file.write(bytes(2**24))
    refused(command("compile", source, "--masks", masks), 2, "holds 536,8", "one number for each channel")


def test_not_enough_memory_is_said_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*arguments: Any, **options: Any) -> None:
        raise MemoryError("8 TiB were asked for")

    monkeypatch.setattr("passes.shrink", huge)
    with pytest.raises(InputError, match=r"not enough memory \(8 TiB were asked for\)"):
        maskc.compile(build.mlp())


def unpacks_to(path: Path, count: int, version: int = 1) -> Path:
    """An `.npz` file of `x`, so many bytes of zeros by its header, and a few of them in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        write = np.lib.format.write_array_header_1_0 if version == 1 else np.lib.format.write_array_header_2_0
        write(file, {"descr": "<f4", "fortran_order": False, "shape": (count // 32, 8)})
        file.write(bytes(1000))
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_inputs_that_unpack_to_gigabytes(tmp_path: Path, version: int) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    data = unpacks_to(tmp_path / "x.npz", 2**31 + 32, version)
    result = process("verify", source, source, "--inputs", data, code=LIMITED)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: The inputs in ") and "take 2,147,483,680 bytes, and 2,147" in result.stderr


def test_many_files_of_inputs_count_together(tmp_path: Path) -> None:
    source, data = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "data"
    data.mkdir()
    for number in range(3):
        unpacks_to(data / f"{number}.npz", 2**30)
    refused(command("verify", source, source, "--inputs", data), 2, "data take 3,221,225,472 bytes")


@pytest.mark.parametrize("batch", ["n", 3, None])
def test_a_tensor_inside_that_is_too_large_to_compute_for_a_check(batch: Any) -> None:
    """A few numbers that are repeated a million times each."""
    nodes = [number("T", 1, 2**27), node("Tile", "x T", "t"), node("ReduceMax", "t", "y", axes=[1])]
    built = build.of_nodes(nodes, [build.value("x", [batch, 4])], [build.value("y", [batch, 1])], opset=13)
    (warning,) = maskc.compile(built, verify=True).report.warnings
    assert warning.startswith("Not verified") and "a tensor in it has" in warning and "268,435,456" in warning
