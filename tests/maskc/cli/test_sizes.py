"""Small files that ask for very much: what they ask for is said, or left uncomputed, before any memory is taken."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import maskc
from maskc.errors import InputError
from tests.maskc import build
from tests.maskc.command import compiled, in_turn, refused
from tests.maskc.command import maskc as command

HUGE = 2**40

# A process may take no more than this, in bytes.
LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"


def number(name: str, *values: int) -> str:
    """A constant: a number if its name is in lower case, and a vector."""
    kind = "int64" if name.islower() else f"int64[{len(values)}]"
    return f"{name} = Constant<value = {kind} {{{', '.join(map(str, values))}}}>() "


def added(nodes: str) -> onnx.ModelProto:
    """x[n,4] plus the sum of `r`, which the nodes make of constants."""
    body = f"{nodes} s = ReduceSum<keepdims=0>(r) f = Cast<to=1>(s) y = Add(x, f)"
    return build.model("(float[n,4] x) => (float[n,4] y)", body, checked=False)


DOUBLED = "".join(f"c{i + 1} = Concat<axis=0>(c{i}, c{i}) " for i in range(30))
ASKING = {
    "range": number("a", 0) + number("b", HUGE) + number("c", 1) + "r = Range(a, b, c)",
    "range, computed": number("a", 0) + number("b", 2**16) + number("c", 1) + "d = Mul(b, b) r = Range(a, d, c)",
    "constant": number("L", HUGE) + "r = ConstantOfShape(L)",
    "constants side by side": number("L", HUGE // 2) + "q = ConstantOfShape(L) r = Concat<axis=0>(q, q)",
    "constants side by side, again and again": number("L", 1024)
    + f"c0 = ConstantOfShape(L) {DOUBLED} r = Identity(c30)",
    "repeated": number("L", 1, HUGE) + "u = Constant<value = float[1,1] {0.0}>() r = Expand(u, L)",
}


def activated(shape: str) -> onnx.ModelProto:
    return build.model(f"(float[{shape}] x) => (float[{shape}] y)", "y = Relu(x)", checked=False)


@pytest.mark.slow
def test_what_is_large_stays_uncomputed(tmp_path: Path) -> None:
    sources = [build.save(added(nodes), tmp_path / f"{name}.onnx") for name, nodes in ASKING.items()]
    for result in in_turn(*(("compile", source, "--no-verify") for source in sources), first=LIMITED):
        assert (result.returncode, result.stderr) == (0, ""), result
    assert all(source.with_suffix(".compiled.onnx").stat().st_size < 10_000 for source in sources)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: activated(f"{HUGE},2"), "`x`"),
        (lambda: activated(",".join([str(2**60)] * 25)), "`x`"),
        (lambda: added(number("L", HUGE, HUGE) + "r = ConstantOfShape(L)"), "`r`"),
    ],
    ids=["an input", "FLOPs beyond all numbers", "a constant"],
)
def test_a_tensor_that_no_memory_holds(tmp_path: Path, make: Any, said: str) -> None:
    refused(compiled(make(), tmp_path), 2, f"Tensor {said} would be", "elements at most")


def test_functions_that_expand_without_end(tmp_path: Path) -> None:
    built = build.custom()
    head = '<opset_import: ["": 17, "com.example": 1], domain: "com.example">'
    for i in range(26):
        body = f"m = com.example.F{i + 1}(i) o = com.example.F{i + 1}(m)" if i < 25 else "o = Relu(i)"
        function = f"{head} {f'F{i}' if i else 'Fancy'} (i) => (o) {{ {body} }}"
        built.functions.append(onnx.parser.parse_function(function))
    refused(compiled(built, tmp_path), 2, "stand for more than 1,000,000 nodes")


@pytest.mark.slow
def test_masks_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    masks = tmp_path / "masks.npz"
    with zipfile.ZipFile(masks, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("c.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": (2**29,)})
        for _ in range(2**29 // 2**24):
            file.write(bytes(2**24))
    refused(compiled(build.mlp(), tmp_path, "--masks", masks), 2, "holds 536,8", "one number for each channel")


def test_not_enough_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(*arguments: Any, **options: Any) -> None:
        raise MemoryError("8 TiB were asked for")

    monkeypatch.setattr("passes.shrink", huge)
    with pytest.raises(InputError, match=r"not enough memory \(8 TiB were asked for\)"):
        maskc.compile(build.mlp())
    refused(compiled(build.mlp(), tmp_path), 2, "not enough memory (8 TiB")


def unpacks_to(path: Path, count: int, version: int = 1) -> Path:
    """An `.npz` file of `x`, so many bytes of zeros by its header, and a few of them in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        write = np.lib.format.write_array_header_1_0 if version == 1 else np.lib.format.write_array_header_2_0
        write(file, {"descr": "<f4", "fortran_order": False, "shape": (count // 32, 8)})
        file.write(bytes(1000))
    return path


def test_inputs_that_unpack_to_gigabytes(tmp_path: Path) -> None:
    source = build.save(build.mlp(), tmp_path / "m.onnx")
    files = [unpacks_to(tmp_path / f"{version}.npz", 2**31 + 32, version) for version in (1, 2)]
    for result in in_turn(*(("verify", source, source, "--inputs", file) for file in files), first=LIMITED):
        assert (result.returncode, result.stdout) == (2, ""), result
        assert result.stderr.startswith("Error: The inputs in "), result
        assert "take 2,147,483,680 bytes, and 2,147" in result.stderr


def test_many_files_of_inputs_count_together(tmp_path: Path) -> None:
    source, data = build.save(build.mlp(), tmp_path / "m.onnx"), tmp_path / "data"
    data.mkdir()
    for number in range(3):
        unpacks_to(data / f"{number}.npz", 2**30)
    refused(command("verify", source, source, "--inputs", data), 2, "data take 3,221,225,472 bytes")


@pytest.mark.parametrize("batch", ["n", 3, "?"])
def test_a_tensor_inside_that_is_too_large_to_compute_for_a_check(batch: Any) -> None:
    """A few numbers that are repeated a million times each."""
    body = number("T", 1, 2**27) + "t = Tile(x, T) y = ReduceMax<axes=[1]>(t)"
    built = build.model(f"(float[{batch},4] x) => (float[{batch},1] y)", body, 13)
    (warning,) = maskc.compile(built, verify=True).report.warnings
    assert warning.startswith("Not verified") and "a tensor in it has" in warning and "268,435,456" in warning
