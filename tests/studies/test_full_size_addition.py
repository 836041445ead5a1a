"""The study at full size, over five seeds; RESULTS.md is written from what these leave behind."""

from pathlib import Path

import pytest

from mechinterp.studies.modular_addition import ModularAdditionStudy, study

ALWAYS = {"learned", "grokking_gap", "few_key_frequencies", "restricted_sufficient", "excluded_necessary"}
ALWAYS |= {"weight_norm_falls", "embedding_circles"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_every_seed_groks_and_the_mechanism_is_found(seed):
    config = ModularAdditionStudy(seed=seed, fast=seed > 0)  # the grid once
    report = study(config, Path("runs/studies") / f"modular-addition_{seed}")
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    assert report.metrics["test_accuracy"] == 1.0
    assert all(claim.value is not None and claim.control is not None for claim in report.claims)
    assert {id for id, verdict in verdicts.items() if verdict == "holds"} >= ALWAYS, verdicts
    assert "untested" not in verdicts.values()
