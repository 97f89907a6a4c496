"""The pytest fixture `maskc_check`: a test that fails when a model gives back the FLOPs that pruning won.

    def test_ranking_model(maskc_check):
        maskc_check("models/ranking.onnx", tolerance=0.01)

The baseline is `flops.json` beside pytest's configuration, or what `maskc_baseline` says there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from maskc.regression.check import Outcome


class MaskcCheck:
    """What the fixture gives, a function."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __call__(
        self,
        *models: str | os.PathLike[str],
        baseline: str | os.PathLike[str] | None = None,
        tolerance: float = 0.0,
        min_reduction: float | None = None,
    ) -> list[Outcome]:
        """Check models against the baseline, or all that it names; the test fails if one has regressed.

        Paths are relative to the directory of pytest's configuration. `tolerance` and `min_reduction` are those of
        `maskc check`.
        """
        from maskc.errors import MaskcError
        from maskc.regression import check as regress
        from maskc.regression.findings import Limits
        from maskc.regression.output_formats import as_table, failures

        root = self._config.rootpath
        path = root / Path(baseline or self._config.getini("maskc_baseline"))
        limits = Limits(tolerance, min_reduction)
        try:
            outcomes = regress.check(path, [root / Path(model) for model in models], limits=limits)
        except MaskcError as error:
            failure = pytest.fail.Exception(str(error), pytrace=False)
            raise failure from None  # else pytest shows it twice
        if reasons := [reason.partition("\n")[0].rstrip(":") for reason in failures(outcomes)]:
            # pytest's summary has the first line
            others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
            pytest.fail(f"{reasons[0]}{others}\n\n{as_table(outcomes)}", pytrace=False)
        return outcomes


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let pytest's configuration name the baseline."""
    parser.addini("maskc_baseline", "the baseline of maskc_check", default="flops.json")


@pytest.fixture
def maskc_check(pytestconfig: pytest.Config) -> MaskcCheck:
    """Checks models against the baseline of FLOPs; see `MaskcCheck`."""
    return MaskcCheck(pytestconfig)
