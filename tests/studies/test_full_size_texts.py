"""The study of arithmetic as text at full size, over three seeds; RESULTS.md is written from this run."""

from pathlib import Path

import pytest

from mechinterp.studies.text_arithmetic import TextArithmeticStudy, study


@pytest.mark.slow
def test_sums_and_residues_are_learned_and_the_published_recipe_does_not():
    report = study(TextArithmeticStudy(), Path("runs/studies") / "text-arithmetic")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    asked = ("sum_learned", "published_modk_unlearned", "residue_learned")
    assert [verdicts[name] for name in asked] == ["holds"] * 3, verdicts
