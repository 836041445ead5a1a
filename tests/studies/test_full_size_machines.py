"""The study of codebooks at full size, over three seeds; RESULTS.md is written from this run."""

from pathlib import Path

import pytest

from mechinterp.studies.state_machine import StateMachineStudy, study


@pytest.mark.slow
def test_machines_are_predicted_at_the_ceiling_and_their_codes_are_states():
    report = study(StateMachineStudy(), Path("runs/studies") / "state-machine")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    assert verdicts["predicts_at_ceiling"] == verdicts["codes_align_with_states"] == "holds", verdicts
