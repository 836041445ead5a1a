"""The study of in-context regression at full size, over three seeds; RESULTS.md is written from this run."""

from pathlib import Path

import pytest

from mechinterp.studies.linear_regression import LinearRegressionStudy, study


@pytest.mark.slow
def test_the_study_reaches_theory():
    report = study(LinearRegressionStudy(), Path("runs/studies") / "linear-regression")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    assert verdicts["reaches_one_step_optimum"] == verdicts["weights_are_gradient_step"] == "holds", verdicts
    ratios = next(result for result in report.results if result.name == "optimum_by_setting").values
    assert float(ratios.max()) <= 1.01
