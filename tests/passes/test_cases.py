"""The golden cases of the passes, in tests/cases/passes; `--bless` rewrites expectations."""

import pytest

from planish.passes.registry import PASSES
from tests import golden


@pytest.mark.parametrize("case", golden.cases(), ids=lambda case: case.id)
def test_case(case: golden.Case, request: pytest.FixtureRequest) -> None:
    found = golden.run(case)
    if found != case.after and request.config.getoption("--bless"):
        golden.bless(case, found)
    else:
        assert found == case.after


def test_every_pass_has_cases() -> None:
    assert {path.stem for path in golden.CASES.glob("*.ir")} >= set(PASSES)
