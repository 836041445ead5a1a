"""The study of digit addition at full size, over three seeds; RESULTS.md is written from this run."""

from pathlib import Path

import pytest

from mechinterp.studies.digit_addition import DigitAdditionStudy, study


@pytest.mark.slow
def test_every_seed_adds():
    report = study(DigitAdditionStudy(), Path("runs/studies") / "digit-addition")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    assert verdicts["adds"] == "holds", verdicts
