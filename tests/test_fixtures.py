"""The trained models in `fixtures/` keep the reductions that pruning won."""

from __future__ import annotations

from pathlib import Path

import maskc

FIXTURES = Path(__file__).parent.parent / "fixtures"


def test_every_fixture_is_small() -> None:
    models = list(FIXTURES.glob("*.onnx"))
    assert models
    assert all(path.stat().st_size < 1_000_000 for path in models)


def test_the_digits_network_keeps_its_reduction() -> None:
    result = maskc.compile(FIXTURES / "digits.onnx", verify=True)
    assert result.report.before.flops / result.report.after.flops > 6.7
    assert not result.report.held
    operators = {node.op_type for node in result.model.graph.node}
    assert "Mul" not in operators, "nothing of the masks is left"
