"""The study of codebooks in miniature, from the command line on."""

import json

import pytest
from figure_axes import unnamed
from withdrawn_claims import standing

from mechinterp import cli
from mechinterp.runs import Run
from mechinterp.studies.state_machine import networks
from mechinterp.studies.state_machine.anatomy import Anatomy
from mechinterp.training import Recipe

CLAIMS = {
    "predicts_at_ceiling", "codes_align_with_states", "alignment_beats_null", "annealing_helps",
    "codes_cause_the_prediction", "bottleneck_costs_little", "tracks_hidden_state_when_ambiguous",
    "belief_geometry",
}  # fmt: skip
RESULTS = {
    "state_machine", "network_scores", "score_curves", "score_by_position", "codebook_training",
    "codebook_training_published", "code_alignment", "code_alignment_published", "code_alignment_shared",
    "code_alignment_soft", "code_alignment_warm", "code_alignment_annealed", "code_steering",
    "code_steering_shared", "simplex_probe",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Small networks trained for two steps, and few sequences."""
    monkeypatch.setitem(networks.STATE_MACHINE, "fast", Recipe(steps=2, batch_size=8, eval_every=1))
    build = networks.state_machine
    small = {"d_model": 16, "n_heads": 2, "d_mlp": 16, "n_layers": 1}
    monkeypatch.setattr(networks, "state_machine", lambda task, **changes: build(task, **small | changes))
    monkeypatch.setattr(Anatomy.of.__func__, "__defaults__", (40,))


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_the_command_gives_every_claim_and_goes_on_from_what_it_has(quick, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["study", "state-machine", "--n-states", "4", "--length", "8", "--seeds", "1"]
    for _ in range(2):
        assert cli.main([*words, "--json", "--out", str(out)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {claim["id"] for claim in told["claims"]} == CLAIMS
    verdicts = standing("state-machine", {claim["id"]: claim["verdict"] for claim in told["claims"]})
    assert verdicts["predicts_at_ceiling"] == "fails"
    assert verdicts["codes_align_with_states"] == "untested"
    run = Run.open(out)
    assert set(run.results) == RESULTS
    assert unnamed(run.results.values()) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-states", "0"], "n_states >= 1"),
        (["--n-states", "1"], "at least 2 states"),
        (["--n-states", "2"], "tell 2 states with 3 each apart"),
        (["--seeds", "0"], "1 seed"),
    ],
)
def test_studies_that_cannot_be_are_refused(options, message, tmp_path, capsys):
    assert cli.main(["study", "state-machine", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
