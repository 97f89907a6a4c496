"""Certificates: written by compile and verify, checked by maskc and by recheck.py alone, refused when altered."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import maskc
from maskc.errors import InputError, NotEquivalentError
from maskc.verification import recheck
from tests.maskc import build, command
from tests.maskc.verification.networks import normed
from tests.passes.text import drawn

FIXTURES = Path(__file__).parents[3] / "fixtures"
NAMES = ("cnn", "masknet", "mlp", "mobilenet", "norm", "resnet", "transformer", "unet")
SCHEMA = json.loads((Path(maskc.__file__).parent / "report" / "schema" / "certificate-5.json").read_text())

Document = dict[str, Any]


@pytest.fixture(scope="module", params=NAMES)
def proof(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, what it compiles to, and the certificate."""
    folder = tmp_path_factory.mktemp(request.param)
    model = normed() if request.param == "norm" else onnx.load(FIXTURES / f"{request.param}.onnx")
    onnx.save(model, folder / "model.onnx")
    certified(folder, "--align", "none")  # that a masked channel is 0 which is kept for speed is true
    return folder


def certified(folder: Path, *options: str) -> None:
    files = ["-o", str(folder / "small.onnx"), "--certificate", str(folder / "proof.json")]
    done = command.maskc("compile", folder / "model.onnx", *files, *options)
    assert done.exit_code == 0, done.output


def paths(folder: Path) -> list[Path]:
    return [folder / name for name in ("model.onnx", "small.onnx", "proof.json")]


def refusal(folder: Path, document: Document) -> str | None:
    """Why a certificate is refused; None if it is not."""
    try:
        recheck.recheck(recheck.read(folder / "model.onnx"), recheck.read(folder / "small.onnx"), document)
    except recheck.RefusedError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_it_is_accepted_with_its_own_values_and_with_others(proof: Path) -> None:
    for seed in (None, 1, 2):
        found = maskc.recheck(*paths(proof), seed=seed)
        assert found.count > 0 and not found.unchecked


def test_an_output_that_is_no_tensor_is_that_of_the_same_node(tmp_path: Path) -> None:
    text = "a = MatMul(x, w) b = Mul(a, keep) c = Identity(b) d = Relu(c) s = SequenceConstruct(c, d)"
    kept = np.array([1, 0, 1, 1], np.float32)
    model = build.model("(float[n,8] x) => (seq(float[?,4]) s)", text, checked=False, w=(8, 4), keep=kept)
    onnx.save(model, tmp_path / "model.onnx")
    certified(tmp_path)
    assert maskc.recheck(*paths(tmp_path)).unchecked
    small = onnx.load(tmp_path / "small.onnx")
    small.graph.node[-1].input[:] = reversed(small.graph.node[-1].input)
    onnx.save(small, tmp_path / "small.onnx")
    document = json.loads((tmp_path / "proof.json").read_text())
    document["compiled"]["sha256"] = [hashlib.sha256((tmp_path / "small.onnx").read_bytes()).hexdigest()]
    assert refusal(tmp_path, document) == "Nothing proves 's'."
    assert not maskc.verify(tmp_path / "model.onnx", tmp_path / "small.onnx").passed


def test_claims_inside_regions_count_for_nothing_in_a_bound(tmp_path: Path) -> None:
    """A certificate has none of them, and its bounds are those that follow from what it has."""
    text = "a = Conv(x, k) z = BatchNormalization(a, s, b, m, v) y = Conv(z, l)"
    rng = np.random.default_rng(0)
    k = rng.normal(size=(4, 3, 1, 1))
    k[1] = 0
    weights = {"k": k, "l": (5, 4, 1, 1), "s": (4,), "b": (4,), "m": (4,), "v": np.ones(4)}
    onnx.save(build.model("(float[n,3,4,4] x) => (float[n,5,4,4] y)", text, **weights), tmp_path / "model.onnx")
    certified(tmp_path)
    assert maskc.recheck(*paths(tmp_path)).count == 2


def wrong_models(folder: Path, before: str, after: str, other: str = "") -> Document:
    """A certificate of a model and itself, with the hash of another one: what somebody might alter next."""
    signature = "(float[n,8] p, float[n,8] q) => (float[n,8] y, float[n,8] z)"
    for name, how, body in (("model", signature, before), ("small", other or signature, after)):
        onnx.save(build.model(how, body, w=(8, 8)), folder / f"{name}.onnx")
    files = folder / "model.onnx", folder / "model.onnx"
    maskc.verify(*files, certificate=folder / "proof.json")
    document: Document = json.loads((folder / "proof.json").read_text())
    document["compiled"]["sha256"] = [hashlib.sha256((folder / "small.onnx").read_bytes()).hexdigest()]
    return document


BODY = "a = MatMul(p, w) y = Sub(a, q) z = Relu(a)"


def test_inputs_are_what_they_are(tmp_path: Path) -> None:
    document = wrong_models(tmp_path, BODY, "a = MatMul(q, w) y = Sub(a, p) z = Relu(a)")
    document["boundaries"] |= {"p": {"source": "q", "allowed": 0}, "q": {"source": "p", "allowed": 0}}
    assert "the input 'p' is what it is" in str(refusal(tmp_path, document))


def test_inputs_without_elements_prove_nothing(tmp_path: Path) -> None:
    document = wrong_models(tmp_path, BODY, "a = MatMul(p, w) y = Add(a, q) z = Sigmoid(a)")
    empty = {"shape": [0, 8], "dtype": "float32", "mean": 0, "spread": 1, "low": -1, "high": 1}
    for each in document["inputs"]:
        each |= {"p": empty, "q": empty}
    assert "no elements" in str(refusal(tmp_path, document))


def test_an_axis_counted_from_the_end_is_none(tmp_path: Path) -> None:
    """As values were held along another axis than was checked, it proved anything."""
    document = wrong_models(tmp_path, BODY, "a = MatMul(p, w) y = Add(a, q) z = Sigmoid(a)")
    document["claims"] = {"a": {"-1": [0, 1, 2, 3, 4, 5, 6, 7]}}
    assert "-1 is no axis" in str(refusal(tmp_path, document))


def test_inputs_of_no_numbers_prove_nothing(tmp_path: Path) -> None:
    document = wrong_models(tmp_path, BODY, "a = MatMul(q, w) y = Add(p, q) z = Sigmoid(a)")
    values = base64.b64encode(zlib.compress(np.full((2, 8), np.nan, np.float32).tobytes())).decode()
    for each in document["inputs"]:
        each |= {name: {"shape": [2, 8], "dtype": "float32", "values": values} for name in ("p", "q")}
    document["boundaries"] = {name: document["boundaries"][name] for name in ("y", "z")}
    assert refusal(tmp_path, document) is not None


def test_all_branches_are_compared(tmp_path: Path) -> None:
    body = """
        s = ReduceMax<keepdims=0>(p)
        c = Greater(s, far)
        y = If (c) <then_branch = one () => (float[n,8] a) {{ a = Mul(p, {}) }},
                    else_branch = two () => (float[n,8] b) {{ b = Relu(q) }}>
    """
    for name, factor in (("model", "far"), ("small", "one")):
        constants = {"far": np.array(1e4, np.float32), "one": np.array(1, np.float32)}
        text = body.format(factor)
        model = build.model("(float[n,8] p, float[n,8] q) => (float[n,8] y)", text, **constants)
        onnx.save(model, tmp_path / f"{name}.onnx")
    maskc.verify(tmp_path / "model.onnx", tmp_path / "model.onnx", certificate=tmp_path / "proof.json")
    document: Document = json.loads((tmp_path / "proof.json").read_text())
    document["compiled"]["sha256"] = [hashlib.sha256((tmp_path / "small.onnx").read_bytes()).hexdigest()]
    assert refusal(tmp_path, document) is not None
    document["boundaries"] = {"y": document["boundaries"]["y"]}
    assert "chooses a branch and is no boundary" in str(refusal(tmp_path, document))


@pytest.mark.parametrize(
    "other",
    [
        "(float[n,8] p, float[n,8] q) => (float[n,8] z, float[n,8] y)",
        "(float[1,8] p, float[n,8] q) => (float[n,8] y, float[n,8] z)",
    ],
)
def test_inputs_and_outputs_have_their_order_and_sizes(tmp_path: Path, other: str) -> None:
    document = wrong_models(tmp_path, BODY, BODY, other=other)
    assert refusal(tmp_path, document) == "The models have other inputs or outputs."


def test_it_is_as_the_schema_says(proof: Path) -> None:
    jsonschema.validate(json.loads((proof / "proof.json").read_text()), SCHEMA)


@pytest.mark.parametrize("proof", ["masknet", "transformer"], indirect=True)
def test_the_file_alone_needs_nothing_of_maskc(proof: Path) -> None:
    alone = shutil.copy(recheck.__file__, proof / "alone.py")
    before = "import sys; sys.modules['maskc'] = sys.modules['passes'] = None; import runpy; runpy.run_path"
    code = f"{before}(sys.argv.pop(1), run_name='__main__')"
    words = [sys.executable, "-c", code, str(alone), *map(str, paths(proof))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("Proved: "), done.stdout + done.stderr
    swapped = [str(path) for path in (proof / "small.onnx", proof / "model.onnx", proof / "proof.json")]
    done = subprocess.run([*words[:4], *swapped], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout.startswith("Refused: ")


def slices(document: Document, random: Random) -> Iterator[list[int]]:
    cut = [said["slices"] for said in document["boundaries"].values() if "slices" in said]
    if cut:
        axes = random.choice(cut)
        yield axes[random.choice(list(axes))]


def claims(document: Document, random: Random) -> Iterator[list[int]]:
    if document["claims"]:
        axes = document["claims"][random.choice(list(document["claims"]))]
        yield axes[random.choice(list(axes))]


def boundary(document: Document, random: Random) -> Document:
    found: Document = document["boundaries"][random.choice(list(document["boundaries"]))]
    return found


def another_slice(document: Document, random: Random) -> bool:
    for index in slices(document, random):
        place = random.randrange(len(index))
        index[place] += 1 if place + 1 == len(index) or index[place + 1] != index[place] + 1 else -1
        return min(index) >= 0
    return False


def swapped_slices(document: Document, random: Random) -> bool:
    for index in slices(document, random):
        if len(index) > 1:
            one, two = random.sample(range(len(index)), 2)
            index[one], index[two] = index[two], index[one]
            return True
    return False


def a_claim_more(document: Document, random: Random) -> bool:
    for claim in claims(document, random):
        missing = sorted({*range(max(claim) + 2)} - {*claim})
        claim[:] = sorted([*claim, random.choice(missing)])
        return True
    return False


def another_claim(document: Document, random: Random) -> bool:
    for claim in claims(document, random):
        claim[random.randrange(len(claim))] += 1
        return True
    return False


def another_dependence(document: Document, random: Random) -> bool:
    for pairs in (pairs for axes in document["dependences"].values() for pairs in axes.values()):
        pair = random.choice(pairs)
        place = random.randrange(2)
        pair[place] = (pair[place] + 1) % (max(map(max, pairs)) + 1)
        return True
    return False


def a_dependence_less(document: Document, random: Random) -> bool:
    for pairs in (pairs for axes in document["dependences"].values() for pairs in axes.values()):
        pairs.pop()
        return True
    return False


def a_wider_bound(document: Document, random: Random) -> bool:
    boundary(document, random)["allowed"] *= 10
    return True


def another_source(document: Document, random: Random) -> bool:
    name, other = random.sample(list(document["boundaries"]), 2)
    document["boundaries"][name]["source"] = document["boundaries"][other].get("source", other)
    return True


def a_boundary_less(document: Document, random: Random) -> bool:
    del document["boundaries"][list(document["boundaries"])[-1]]
    return True


def another_hash(document: Document, random: Random) -> bool:
    document[random.choice(["source", "compiled"])]["sha256"][0] = "0" * 64
    return True


def no_hashes(document: Document, random: Random) -> bool:
    document[random.choice(["source", "compiled"])] = random.choice([None, {}, [1]])
    return True


def a_bound_that_is_no_number(document: Document, random: Random) -> bool:
    boundary(document, random)["allowed"] = random.choice([None, [], 10**400])
    return True


def another_version(document: Document, random: Random) -> bool:
    document["version"] += 1
    return True


ALTERATIONS: tuple[Callable[[Document, Random], bool], ...] = (
    another_slice,
    swapped_slices,
    a_claim_more,
    another_claim,
    another_dependence,
    a_dependence_less,
    a_wider_bound,
    another_source,
    a_boundary_less,
    another_hash,
    no_hashes,
    a_bound_that_is_no_number,
    another_version,
)


@pytest.mark.slow
@pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda alter: alter.__name__)
def test_what_is_altered_is_refused(proof: Path, alter: Callable[[Document, Random], bool]) -> None:
    text = (proof / "proof.json").read_text()
    for seed in range(2):
        document = json.loads(text)
        if alter(document, Random(seed)) and document != json.loads(text):
            assert refusal(proof, document) is not None, (alter.__name__, seed)


def test_a_wrong_weight_is_named_by_its_channel(proof: Path, tmp_path: Path) -> None:
    model = onnx.load(proof / "small.onnx")
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
    weight = numpy_helper.to_array(floats[0]).copy()
    weight[np.unravel_index(np.abs(weight).argmax(), weight.shape)] *= 1.01
    floats[0].CopyFrom(numpy_helper.from_array(weight, floats[0].name))
    onnx.save(model, tmp_path / "small.onnx")
    shutil.copy(proof / "model.onnx", tmp_path / "model.onnx")
    document = json.loads((proof / "proof.json").read_text())
    document["compiled"]["sha256"] = [hashlib.sha256((tmp_path / "small.onnx").read_bytes()).hexdigest()]
    why = refusal(tmp_path, document)
    assert why is not None and "is not these slices of" in why


def test_masks_are_those_of_the_compilation(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "sklearn.onnx", tmp_path / "model.onnx")
    masks = str(shutil.copy(FIXTURES / "sklearn.masks.npz", tmp_path / "masks.npz"))
    certified(tmp_path, "--masks", masks)
    assert maskc.recheck(*paths(tmp_path), masks=masks).count > 0
    with pytest.raises(NotEquivalentError, match=r"another source model.*model\.onnx"):
        maskc.recheck(*paths(tmp_path))


@pytest.mark.parametrize("inside", [False, True])
def test_weights_in_other_files_are_hashed_and_read(tmp_path: Path, inside: bool) -> None:
    """Those of bodies, too; by the file alone as well."""
    model = onnx.load(FIXTURES / "cnn.onnx")
    if inside:
        model = build.model(
            "(float[n,8] x) => (float[n,8] y)",
            "s = ReduceSum<keepdims=0>(x) c = Greater(s, zero) y = If(c) <then_branch = t () => (float[n,8] a) "
            "{ p = MatMul(x, w) a = Mul(p, mask) }, else_branch = f () => (float[n,8] b) { b = Identity(x) }>",
            checked=False,
            zero=np.array(0.0),
        )
        body = model.graph.node[-1].attribute[0].g
        body.initializer.extend([build.weight("w", 8, 8), build.constant("mask", [1, 0] * 4)])
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.data", size_threshold=128)
    certified(tmp_path)
    assert maskc.recheck(*paths(tmp_path)).count > 0
    assert refusal(tmp_path, json.loads((tmp_path / "proof.json").read_text())) is None
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(NotEquivalentError, match="another source model"):
        maskc.recheck(*paths(tmp_path))


def test_nodes_in_any_order(tmp_path: Path) -> None:
    """As ONNX Runtime's converter to half precision leaves them, and as ONNX Runtime reads them."""
    model = build.model(
        "(float[n,8] x) => (float[n,8] y)",
        "m = Mul(x, mask) s = ReduceSum<keepdims=0>(m) c = Greater(s, zero) r = Relu(y0) y = Identity(r) "
        "y0 = If(c) <then_branch = t () => (float[n,8] a) { p = MatMul(m, w) a = Relu(p) }, "
        "else_branch = f () => (float[n,8] b) { b = MatMul(m, w) }>",
        checked=False,
        zero=np.array(0.0),
        mask=np.array([1.0, 0] * 4),
        w=(8, 8),
    )
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    certified(tmp_path)
    assert refusal(tmp_path, json.loads((tmp_path / "proof.json").read_text())) is None
    assert maskc.recheck(*paths(tmp_path)).count > 0
    small = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(small, full_check=True)
    assert {t.name: tuple(t.dims) for t in small.graph.initializer}["w"] == (4, 8)


def test_verify_writes_one_as_well_where_the_models_agree(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "cnn.onnx", tmp_path / "model.onnx")
    certified(tmp_path)
    model, small, certificate = map(str, paths(tmp_path))
    Path(certificate).unlink()
    assert maskc.verify(model, small, certificate=certificate, samples=2).certificate is not None
    assert maskc.recheck(model, small, certificate).count > 0
    Path(certificate).unlink()
    result = maskc.verify(model, str(FIXTURES / "cnn.onnx"), certificate=certificate, samples=2)
    assert result.passed
    other = maskc.verify(model, str(FIXTURES / "unet.onnx"), certificate=str(tmp_path / "none.json"), samples=2)
    assert not other.passed and not (tmp_path / "none.json").exists()
    assert "none.json is not written: " in other.notes[-1]


def test_outputs_that_differ_leave_no_certificate(tmp_path: Path) -> None:
    """As where no look-up of a row of a table is seen: whole outputs show what regions do not."""
    table = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    body = "h = Cast<to=10>(table) y = Gather<axis=-2>(h, i)"
    for name, rows in (("model", table), ("small", table + (np.arange(3000) > 20)[:, None].astype(np.float32))):
        onnx.save(build.model("(int64[n,128] i) => (float16[n,128,8] y)", body, table=rows), tmp_path / f"{name}.onnx")
    result = maskc.verify(tmp_path / "model.onnx", tmp_path / "small.onnx", certificate=tmp_path / "proof.json")
    assert not result.passed and not (tmp_path / "proof.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_what_is_no_certificate_is_told_so(tmp_path: Path, text: str) -> None:
    shutil.copy(FIXTURES / "cnn.onnx", tmp_path / "model.onnx")
    (tmp_path / "proof.json").write_text(text, "latin-1")
    with pytest.raises(InputError, match="is no certificate"):
        maskc.recheck(tmp_path / "model.onnx", tmp_path / "model.onnx", tmp_path / "proof.json")


RENAMED = [
    (  # what chooses a branch
        "(float[n,8] x) => (float[n,4] y)",
        """{0}s = ReduceSum<keepdims=0>(x) {0}c = Greater({0}s, none) {0}i = If({0}c)
        <then_branch = a () => (float[n,4] p) {{ p = MatMul(x, w) }}, else_branch = b () => (float[n,4] q)
        {{ q = MatMul(x, v) }}> y = Tanh({0}i)""",
    ),
    (  # classes that hardly any index hits in a run
        "(int64[n] x) => (float[n,4] y)",
        "{0}h = OneHot<axis=-1>(x, nine, scales) {0}m = MatMul({0}h, t) {0}r = Max({0}m, none) y = MatMul({0}r, u)",
    ),
    (  # the steps of a Sigmoid that is a gate
        "(float[n,8] x) => (float[n,8] y)",
        "{0}n = Neg(x) {0}e = Exp({0}n) {0}d = Add({0}e, unit) y = Div(x, {0}d)",
    ),
]


@pytest.mark.parametrize(("signature", "body"), RENAMED)
def test_a_proof_of_other_names_is_accepted_with_any_seed(signature: str, body: str, tmp_path: Path) -> None:
    weights = {"w": (8, 4), "v": (8, 4), "t": (9, 4), "u": (4, 4)}
    constants = {name: drawn(name, *shape) for name, shape in weights.items()}
    constants |= {"none": np.array(0.0), "nine": np.array(9), "scales": np.array([0.0, 1.0]), "unit": np.array(1.0)}
    one, two = (build.model(signature, body.format(p), checked=False, constants=constants) for p in "pq")
    if "Exp" in body:
        two = build.model(signature, "s = Sigmoid(x) y = Mul(x, s)", checked=False)
    elif "OneHot" in body:
        one = build.model(
            signature, body.format("p").replace("Max(pm, none)", "Relu(pm)"), checked=False, constants=constants
        )
    files = [tmp_path / name for name in ("model.onnx", "small.onnx", "proof.json")]
    for model, path in zip((one, two), files, strict=False):
        onnx.save(model, path)
    for seed in range(3):
        assert maskc.verify(*files[:2], certificate=files[2], seed=seed).passed
        for other in (None, *range(1, 5)):
            maskc.recheck(*files, seed=other)


def test_nothing_is_claimed_of_what_both_models_store(tmp_path: Path) -> None:
    """As of units that are dead in all runs, but not in all that others draw."""
    signature, last = "(float[n,3,8,8] x) => (float[n,2,8,8] y)", "y = Conv(r, v)"
    weights = {"w": drawn("w", 8, 3, 3, 3), "b": np.linspace(-40, 1, 8), "v": drawn("v", 2, 8, 1, 1)}
    bodies = (
        f"c = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(c) {last}",
        f'r = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Relu">(x, w, b) {last}',
    )
    files = [
        build.save(build.model(signature, body, checked=False, **weights), tmp_path / f"{i}.onnx")
        for i, body in enumerate(bodies)
    ]
    assert maskc.verify(*files, certificate=tmp_path / "proof.json").passed
    assert not json.loads((tmp_path / "proof.json").read_text())["claims"]
