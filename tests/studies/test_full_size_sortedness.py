"""The study of position encodings at full size, over three seeds; RESULTS.md is written from this run."""

from pathlib import Path

import pytest

from mechinterp.studies.sortedness import SortednessStudy, study


@pytest.mark.slow
def test_every_network_that_can_learn_does_and_the_best_goes_on_to_256():
    report = study(SortednessStudy(), Path("runs/studies") / "sortedness")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    wanted = ("all_learn_in_range", "best_encoding_at_256")
    assert all(verdicts[id] == "holds" for id in wanted), verdicts
