"""The study end to end at small p: its gate, its verdicts, its folder, and what it does without a null."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import xarray as xr
from withdrawn_claims import standing

from mechinterp.analysis.gates import Gate
from mechinterp.result import Result
from mechinterp.runs import Run
from mechinterp.studies import modular_addition as room
from mechinterp.studies.modular_addition import ModularAdditionStudy, anatomy, study
from mechinterp.studies.modular_addition.grid import phase_claim
from mechinterp.tasks import ModularAddition
from mechinterp.training import load_network
from mechinterp.training.recipes import FAST, MODULAR_ADDITION

IDS = {
    "learned",
    "grokking_gap",
    "few_key_frequencies",
    "logits_are_trigonometric",
    "restricted_sufficient",
    "excluded_necessary",
    "neurons_single_frequency",
    "weight_norm_falls",
    "embedding_circles",
    "neurons_cause_the_answer",
    "clock_or_pizza",
}


@dataclass(frozen=True, kw_only=True)
class MoreData(ModularAdditionStudy):
    """The study on four fifths of the pairs, on which even p = 13 groks in seconds."""

    @property
    def task(self):
        return ModularAddition(p=self.p, seed=self.seed, train_fraction=0.8)


@pytest.fixture
def few_steps(monkeypatch):
    """A recipe too short to learn anything."""
    monkeypatch.setitem(MODULAR_ADDITION, "fast", replace(FAST, steps=20, eval_every=10, checkpoints=3))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    return folder, study(MoreData(p=13, fast=True), folder)


def test_every_claim_is_judged_on_a_network_that_learned(learned):
    claims = {claim.id: claim for claim in learned[1].claims}
    assert claims.keys() == IDS
    assert claims["learned"].verdict == "holds"
    verdicts = {id: claim.verdict for id, claim in claims.items()}
    assert set(standing("modular-addition", verdicts).values()) <= {"holds", "fails"}


def test_every_claim_has_a_control_and_says_which(learned):
    for claim in learned[1].claims:
        assert claim.control is not None, claim.id
        assert claim.control_kind, claim.id
        assert (claim.interval is None) or claim.interval_over, claim.id


def test_what_grokking_needs_is_found(learned):
    claims = {claim.id: claim for claim in learned[1].claims}
    for id in ("few_key_frequencies", "weight_norm_falls", "grokking_gap"):
        assert claims[id].verdict == "holds", claims[id]
    assert claims["neurons_cause_the_answer"].value >= 0.8


def test_the_folder_holds_the_whole_study(learned):
    folder, report = learned
    run = Run.open(folder)
    assert run.finished
    assert run.config["study"] == "modular-addition"
    assert run.claims == list(report.claims)
    assert run.results == {result.name: result for result in report.results}
    assert run.metrics["test_accuracy"] == report.metrics["test_accuracy"] >= 0.99
    assert all(result.learned for result in report.results)
    model, task = load_network(folder), MoreData(p=13).task
    assert Gate.of(model, task).score == run.metrics["test_accuracy"]
    page = (folder / "report.html").read_text()
    assert all(f"<code>{id}</code>" in page for id in IDS)


def test_a_finished_study_is_not_trained_again(learned):
    folder, report = learned
    again = study(MoreData(p=13, fast=True), folder)
    assert [claim.to_json() for claim in again.claims] == [claim.to_json() for claim in report.claims]
    assert again.metrics["train_seconds"] == report.metrics["train_seconds"]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("p", [5, 9, 11])
def test_nothing_is_claimed_of_a_network_that_did_not_learn(tmp_path, p):
    report = study(ModularAdditionStudy(p=p, fast=True), tmp_path)
    verdicts = {claim.id: claim.verdict for claim in report.claims}
    others = standing("modular-addition", verdicts)
    assert others == dict.fromkeys(others, "untested") | {"learned": "fails"}
    assert all("UNTESTED" in str(result) for result in report.results)


@pytest.mark.usefixtures("few_steps")
def test_a_network_that_uses_every_frequency_leaves_no_null(tmp_path, monkeypatch):
    monkeypatch.setattr(anatomy, "key_frequencies", lambda shares: torch.arange(1, len(shares) + 1))
    report = study(ModularAdditionStudy(p=7, fast=True), tmp_path)
    claims = {claim.id: claim for claim in report.claims}
    for id in ("restricted_sufficient", "excluded_necessary", "logits_are_trigonometric"):
        assert claims[id].control is None, id
    results = {result.name: result for result in report.results}
    for name in ("sufficiency", "progress"):
        assert (results[name].control, results[name].control_kind) == (None, "no other frequency left")


@pytest.mark.usefixtures("few_steps")
def test_a_network_that_uses_many_frequencies_is_still_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(anatomy, "key_frequencies", lambda shares: torch.arange(1, len(shares) - 1))
    study(ModularAdditionStudy(p=61, fast=True), tmp_path)
    assert Run.open(tmp_path).finished


@pytest.mark.parametrize(
    ("without", "steps", "verdict"),
    [
        (np.nan, [[500, 400, 300], [400, 300, 300], [400, 300, 200]], "holds"),
        (400, [[500, 400, 300], [400, 300, 300], [400, 300, 200]], "fails"),
        (np.nan, [[np.nan] * 3, [np.nan, np.nan, 300], [np.nan] * 3], "fails"),  # one of nine is no more
        (np.nan, [[400, np.nan, 300], [400, 300, 300], [400, 300, 200]], "fails"),
        (np.nan, [[300, 250, np.nan], [400, 300, 300], [400, 300, 200]], "fails"),
    ],
)
def test_in_the_grid_what_never_groks_is_the_latest(without, steps, verdict):
    coords = {"measure": ["steps"], "weight_decay": [0.0, 0.5, 1.0, 1.5], "train_fraction": [0.2, 0.3, 0.4]}
    values = xr.DataArray([[[without] * 3, *steps]], dims=list(coords), coords=coords)
    result = Result(name="decay_and_fraction_phase", values=values.astype(float), trivial=0.1)
    assert phase_claim(result).verdict == verdict


@pytest.mark.usefixtures("few_steps")
def test_the_grid_is_a_claim_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(room.grid, "FAST", replace(FAST, steps=4))
    monkeypatch.setattr(room.grid, "DECAYS", (0.0, 1.0))
    monkeypatch.setattr(room.grid, "FRACTIONS", (0.3, 0.7))
    report = study(ModularAdditionStudy(p=5), tmp_path)
    assert report.claims[-1].id == "decay_and_fraction_phase"
    assert report.claims[-1].verdict != "holds"
    grid = {result.name: result for result in report.results}["decay_and_fraction_phase"]
    assert bool(grid.values.sel(measure="steps").isnull().all())
    assert Run.open(tmp_path).results["decay_and_fraction_phase"] == grid


@pytest.mark.parametrize("p", [4, 6, 3, 1, -7])
def test_a_modulus_that_cannot_be_studied_is_refused(p):
    with pytest.raises(ValueError, match="expected an odd modulus"):
        ModularAdditionStudy(p=p)


@pytest.mark.usefixtures("few_steps")
def test_a_study_interrupted_goes_on_to_the_same_claims(tmp_path):
    whole = study(ModularAdditionStudy(p=5, fast=True), tmp_path / "whole")

    def interrupt(job):
        if job.step == 10:
            raise KeyboardInterrupt

    class Watch:
        def __init__(self, label):
            pass

        def __enter__(self):
            return interrupt

        def __exit__(self, *_):
            pass

    with pytest.raises(KeyboardInterrupt):
        study(ModularAdditionStudy(p=5, fast=True), tmp_path / "broken", Watch)
    assert not Run.open(tmp_path / "broken").finished
    again = study(ModularAdditionStudy(p=5, fast=True), tmp_path / "broken")
    assert [claim.to_json() for claim in again.claims] == [claim.to_json() for claim in whole.claims]
