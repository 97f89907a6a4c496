"""Which mask entries go together, and what groups of them save, against counting again."""

import numpy as np
import onnx
import pytest

import passes
from passes.graph.tensors import Index
from passes.mask_savings import coupled_entries
from passes.mask_savings.compiled_cost import CompiledCost, compiled_cost
from passes.model.inputs import bind
from tests.passes.text import model


def case(name: str) -> tuple[onnx.ModelProto, dict[str, int], list[list[int]]]:
    """The model, the sizes of its masks, which are the inputs m1, m2, ..., and the groups of their entries."""
    signature, body, groups = CASES[name]
    built = model(signature, body, checked=False)
    sizes = {i.name: i.type.tensor_type.shape.dim[0].dim_value for i in built.graph.input if i.name != "x"}
    return built, sizes, groups


def by_number(groups: dict[str, Index]) -> list[list[int]]:
    """The groups as consecutive numbers, mask by mask."""
    numbers = {group: n for n, group in enumerate(dict.fromkeys(np.concatenate(list(groups.values())).tolist()))}
    return [[numbers[g] for g in group.tolist()] for group in groups.values()]


HEADS = """
    q{n} = MatMul({x}, wq{n}) qr{n} = Reshape(q{n}, heads) qt{n} = Transpose<perm=[0,2,1,3]>(qr{n})
    k{n} = MatMul({x}, wk{n}) kr{n} = Reshape(k{n}, heads) kt{n} = Transpose<perm=[0,2,3,1]>(kr{n})
    v{n} = MatMul({x}, wv{n}) vr{n} = Reshape(v{n}, heads) vt{n} = Transpose<perm=[0,2,1,3]>(vr{n})
    s{n} = MatMul(qt{n}, kt{n}) p{n} = Softmax(s{n}) c{n} = MatMul(p{n}, vt{n}) ct{n} = Transpose<perm=[0,2,1,3]>(c{n})
    h{n} = Reshape(m{n}, column) cm{n} = Mul(ct{n}, h{n}) f{n} = Reshape(cm{n}, flat) {y} = MatMul(f{n}, wo{n})
"""
MASKED_HEADS = """
    q{n} = MatMul({x}, wq{n}) mq{n}_ = Mul(q{n}, mq{n}) qr{n} = Reshape(mq{n}_, heads)
    k{n} = MatMul({x}, wk{n}) mk{n}_ = Mul(k{n}, mk{n}) kr{n} = Reshape(mk{n}_, heads)
    v{n} = MatMul({x}, wv{n}) mv{n}_ = Mul(v{n}, mv{n}) vr{n} = Reshape(mv{n}_, heads)
    qt{n} = Transpose<perm=[0,2,1,3]>(qr{n}) kt{n} = Transpose<perm=[0,2,3,1]>(kr{n})
    vt{n} = Transpose<perm=[0,2,1,3]>(vr{n}) s{n} = MatMul(qt{n}, kt{n}) p{n} = Softmax(s{n})
    c{n} = MatMul(p{n}, vt{n}) ct{n} = Transpose<perm=[0,2,1,3]>(c{n}) f{n} = Reshape(ct{n}, flat)
    o{n} = MatMul(f{n}, wo{n}) {y} = Add({x}, o{n})
"""
CASES = {
    "chain": (
        "(float[N,4] x, float[3] m1, float[2] m2) => (float[N,2] y) <float[4,3] u, float[3,2] v, float[2,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) b = MatMul(am, v) bm = Mul(b, m2) y = MatMul(bm, w)",
        [[0, 1, 2], [3, 4]],
    ),
    "residual sum": (
        "(float[N,4] x, float[3] m1, float[3] m2) => (float[N,2] y) <float[4,3] u, float[3,3] v, float[3,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) b = MatMul(am, v) bm = Mul(b, m2) s = Add(am, bm) r = Relu(s) "
        "y = MatMul(r, w)",
        [[0, 1, 2], [0, 1, 2]],
    ),
    "concatenation": (
        "(float[N,4] x, float[2] m1, float[3] m2, float[5] m3) => (float[N,2] y)"
        " <float[4,2] u, float[4,3] v, float[5,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) b = MatMul(x, v) bm = Mul(b, m2) s = Concat<axis=1>(am, bm) "
        "sm = Mul(s, m3) y = MatMul(sm, w)",
        [[0, 1], [2, 3, 4], [0, 1, 2, 3, 4]],
    ),
    "depthwise": (
        "(float[N,2,6,6] x, float[3] m1, float[6] m2) => (float[N,2,4,4] y)"
        " <float[3,2,1,1] u, float[6,1,3,3] v, float[2,6,1,1] w>",
        "a = Conv(x, u) t = Transpose<perm=[0,2,3,1]>(a) tm = Mul(t, m1) n = Transpose<perm=[0,3,1,2]>(tm) "
        "d = Conv<group=3>(n, v) t2 = Transpose<perm=[0,2,3,1]>(d) t2m = Mul(t2, m2) "
        "n2 = Transpose<perm=[0,3,1,2]>(t2m) y = Conv(n2, w)",
        [[0, 1, 2], [0, 0, 1, 1, 2, 2]],
    ),
    "queries and keys": (
        "(float[N,5,4] x, float[3] m1, float[3] m2, float[2] m3) => (float[N,5,2] y)"
        " <float[4,3] u, float[4,3] v, float[4,2] w, float[2,2] o>",
        "q = MatMul(x, u) qm = Mul(q, m1) k = MatMul(x, v) km = Mul(k, m2) t = Transpose<perm=[0,2,1]>(km) "
        "s = MatMul(qm, t) p = Softmax(s) c = MatMul(x, w) cm = Mul(c, m3) z = MatMul(p, cm) y = MatMul(z, o)",
        [[0, 1, 2], [0, 1, 2], [3, 4]],
    ),
    "gate": (
        "(float[N,4] x, float[3] m1, float[3] m2) => (float[N,2] y) <float[4,3] u, float[4,3] v, float[3,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) b = MatMul(x, v) bm = Mul(b, m2) s = Sigmoid(bm) g = Mul(am, s) "
        "y = MatMul(g, w)",
        [[0, 1, 2], [0, 1, 2]],
    ),
    "a flattened map, masked before": (
        "(float[N,2,3,3] x, float[3] m1) => (float[N,2] y) <float[3,2,1,1] u, float[27,2] w>",
        "a = Conv(x, u) t = Transpose<perm=[0,2,3,1]>(a) tm = Mul(t, m1) f = Flatten(tm) y = MatMul(f, w)",
        [[0, 1, 2]],
    ),
    "a flattened map, masked behind": (
        "(float[N,2,2,2] x, float[12] m1) => (float[N,2] y) <float[3,2,1,1] u, float[12,2] w>",
        "a = Conv(x, u) f = Flatten(a) fm = Mul(f, m1) y = MatMul(fm, w)",
        [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]],
    ),
    "unrelated layers that share a constant": (
        "(float[N,4] x, float[3] m1, float[3] m2) => (float[N,2] y)"
        " <float[4,3] u, float[3,3] v, float[3,2] w, float[3] c>",
        "a = MatMul(x, u) ac = Mul(a, c) am = Mul(ac, m1) b = MatMul(am, v) bc = Mul(b, c) bm = Mul(bc, m2) "
        "y = MatMul(bm, w)",
        [[0, 1, 2], [3, 4, 5]],
    ),
    "heads of two attentions, equally many": (
        "(float[N,5,4] x, float[2] m1, float[2] m2) => (float[N,5,4] y)"
        " <float[4,6] wq1, float[4,6] wq2, float[4,6] wk1, float[4,6] wk2, float[4,6] wv1, float[4,6] wv2, "
        "float[6,4] wo1, float[6,4] wo2>",
        "heads = Constant<value_ints=[0, 0, 2, 3]>() column = Constant<value_ints=[2, 1]>() "
        "flat = Constant<value_ints=[0, 0, 6]>() " + HEADS.format(n=1, x="x", y="z") + HEADS.format(n=2, x="z", y="y"),
        [[0, 1], [2, 3]],
    ),
    "heads of fused attention in groups": (
        "(float[N,5,4] x, float[8] m1, float[4] m2, float[4] m3) => (float[N,5,3] y)"
        " <float[4,8] wq, float[4,4] wk, float[4,4] wv, float[8,3] wo>",
        "q = MatMul(x, wq) qm = Mul(q, m1) k = MatMul(x, wk) km = Mul(k, m2) v = MatMul(x, wv) vm = Mul(v, m3) "
        "a = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1>(qm, km, vm) y = MatMul(a, wo)",
        [[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 1], [2, 2, 3, 3]],
    ),
    "groups of a convolution": (
        "(float[N,2,6,6] x, float[6] m1) => (float[N,2,4,4] y) <float[6,2,1,1] u, float[8,3,3,3] v, float[2,8,1,1] w>",
        "a = Conv(x, u) t = Transpose<perm=[0,2,3,1]>(a) tm = Mul(t, m1) n = Transpose<perm=[0,3,1,2]>(tm) "
        "d = Conv<group=2>(n, v) y = Conv(d, w)",
        [[0, 1, 2, 0, 1, 2]],
    ),
    "a loop that reads what is masked outside": (
        "(float[N,4] x, float[3] m1) => (float[N,2] y) <float[4,3] u, float[3,2] v, float[4,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) s = MatMul(x, w) trips = Constant<value_int=3>() "
        "go = Cast<to=9>(trips) y = Loop (trips, go, s) <body = step (int64 i, bool c, float[N,2] h) => "
        "(bool cc, float[N,2] z) { cc = Identity(c) b = MatMul(am, v) z = Add(h, b) }>",
        [[0, 1, 2]],
    ),
    "a normalisation, masked before and behind": (
        "(float[N,4] x, float[8] m1, float[8] m2) => (float[N,2] y)"
        " <float[4,8] u, float[8] scale, float[8] shift, float[8,2] w>",
        "a = MatMul(x, u) am = Mul(a, m1) l = LayerNormalization(am, scale, shift) r = Relu(l) rm = Mul(r, m2) "
        "y = MatMul(rm, w)",
        [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]],
    ),
    "a normalisation behind two filters for each channel": (
        "(float[N,2,4,4] x, float[4] m1) => (float[N,2,2,2] y)"
        " <float[4,2,1,1] u, float[8,1,3,3] v, float[8] scale, float[8] shift, float[8,2] w>",
        "a = Conv(x, u) t = Transpose<perm=[0,2,3,1]>(a) tm = Mul(t, m1) n = Transpose<perm=[0,3,1,2]>(tm) "
        "d = Conv<group=4>(n, v) t2 = Transpose<perm=[0,2,3,1]>(d) l = LayerNormalization(t2, scale, shift) "
        "y = MatMul(l, w)",
        [[0, 1, 2, 3]],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_groups(name: str) -> None:
    built, masks, expected = case(name)
    assert by_number(passes.coupled(built, masks)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("name", CASES)
def test_savings_of_groups_are_differences(name: str, share: float) -> None:
    built, masks, _ = case(name)
    coupling = passes.coupling(built, masks)
    rng = np.random.default_rng(1)
    values = {name: (rng.random(size) >= share).astype(np.float32) for name, size in masks.items()}
    # Groups that are coupled, and some that have nothing to do with it.
    mixed = {name: rng.integers(-1, 4, size) for name, size in masks.items()}
    for groups in (coupling.groups, mixed):
        total, saved = passes.flops_by_group(built, values, groups, coupling)
        assert total == passes.shrink(bind(built, values)).report.after.flops
        for group in range(len(saved)):
            fewer = {name: np.where(groups[name] == group, 0, value) for name, value in values.items()}
            assert saved[group] == total - passes.shrink(bind(built, fewer)).report.after.flops
        assert groups is mixed or saved.any()


@pytest.mark.slow
def test_blocks_that_are_alike_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial compiles the whole model, and a transformer has many blocks."""
    trials = 0

    def counted(model: onnx.ModelProto) -> CompiledCost:
        nonlocal trials
        trials += 1
        return compiled_cost(model)

    monkeypatch.setattr(coupled_entries, "compiled_cost", counted)
    tried = []
    for blocks in (3, 6):
        # masks of what queries are made of, apart in each block, and of the values
        body, weights = "heads = Constant<value_ints=[0, 0, 2, 3]>() flat = Constant<value_ints=[0, 0, 6]>() ", []
        for n in range(blocks):
            x, y = f"x{n}" if n else "x", f"x{n + 1}" if n + 1 < blocks else "y"
            body += MASKED_HEADS.format(n=n, x=x, y=y)
            weights += [f"float[4,6] w{kind}{n}" for kind in "qkv"] + [f"float[6,4] wo{n}"]
        masks = {f"m{kind}{n}": 6 for n in range(blocks) for kind in "qkv"}
        inputs = ", ".join(f"float[6] {name}" for name in masks)
        built = model(f"(float[N,5,4] x, {inputs}) => (float[N,5,4] y) <{', '.join(weights)}>", body, checked=False)
        trials = 0
        groups = by_number(passes.coupled(built, masks))
        tried.append(trials)
        # a query goes with its key, in all heads alike or not; each head of values as a whole
        assert all(groups[3 * n] == groups[3 * n + 1] for n in range(blocks))
        first = groups[:3]
        for n in range(blocks):
            least = min(groups[3 * n])
            assert [[entry - least for entry in each] for each in groups[3 * n : 3 * n + 3]] == first
    assert tried[0] == tried[1] > 0


def test_no_such_mask() -> None:
    with pytest.raises(LookupError, match=r"The model has no input .*; its inputs are"):
        passes.coupled(case("chain")[0], {"other": 3})
