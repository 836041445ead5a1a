"""The study of position encodings in miniature, from the command line on."""

import json

import numpy as np
import pytest
import torch
from figure_axes import unnamed
from withdrawn_claims import standing

from mechinterp import cli, constructions, models
from mechinterp.analysis.gates import Gate
from mechinterp.runs import Run
from mechinterp.studies import seeds
from mechinterp.studies.base import silent
from mechinterp.studies.networks import Trained
from mechinterp.studies.seeds import train_side_by_side
from mechinterp.studies.sortedness import SortednessStudy, networks
from mechinterp.studies.sortedness.anatomy import Anatomy
from mechinterp.studies.sortedness.attending import dilution, heads, sharpening
from mechinterp.studies.sortedness.lengths import by_density, by_length
from mechinterp.studies.sortedness.networks import FREE
from mechinterp.studies.state_machine import networks as machines
from mechinterp.tasks import Sortedness, StateMachine
from mechinterp.training import Fit, History, Recipe
from mechinterp.training.checkpoint import STATE, CheckpointSeries, load_state

CLAIMS = {
    "all_learn_in_range", "none_bidirectional_at_chance", "none_causal_extrapolates",
    "sinusoidal_extrapolates", "learned_fails_beyond_range", "best_encoding_at_256", "random_shuffles_leak",
    "prefix_max_head_found", "dilution_explains_decay", "linear_shift_used", "density_explains_decay",
    "dense_training_helps",
}  # fmt: skip
RESULTS = {
    "leaks_by_length", "network_scores", "score_curves", "accuracy_by_length", "accuracy_by_place",
    "accuracy_by_ties", "accuracy_by_gap",
    "accuracy_by_density", "sharpening", "attention_dilution", "position_table",
    "shift_maps", "position_moves",
    "prefix_max_match", "prefix_max_at_fall", "prefix_max_ablation", "prefix_max_match_dense",
    "prefix_max_at_fall_dense", "prefix_max_ablation_dense",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Small networks trained for two steps, and few sequences."""
    for name in networks.SORTEDNESS:
        monkeypatch.setitem(networks.SORTEDNESS, name, Recipe(steps=2, batch_size=8, eval_every=1))
    build = networks.sortedness
    small = {"d_model": 8, "n_heads": 2, "d_mlp": 8}
    monkeypatch.setattr(
        networks, "sortedness", lambda task, encoding, **changes: build(task, encoding, **small | changes)
    )
    monkeypatch.setattr(Anatomy.of.__func__, "__defaults__", (40,))


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_the_command_gives_every_claim_and_every_result_is_drawn(quick, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["study", "sortedness", "--vocabulary", "20", "--seeds", "1", "--train-lengths", "8", "10"]
    words += ["--test-lengths", "8", "40", "--workers", "1"]
    assert cli.main([*words, "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {claim["id"] for claim in told["claims"]} == CLAIMS
    verdicts = standing("sortedness", {claim["id"]: claim["verdict"] for claim in told["claims"]})
    assert verdicts.pop("all_learn_in_range") == "fails"
    assert set(verdicts.values()) == {"untested"}
    run = Run.open(out)
    assert set(run.results) == RESULTS
    assert unnamed(run.results.values()) == set()


@pytest.fixture
def planted(monkeypatch):
    """What a seed's networks would be if the hand-built one had been trained."""
    task = Sortedness(n_test=400, test_lengths=(8, 16, 64))
    model, before = constructions.sortedness(task).eval(), models.sortedness(task, n_heads=2).eval()
    job, gate = Fit(model, task, Recipe(), History(), CheckpointSeries(None)), Gate.of(model, task)
    return {FREE: Trained(name=FREE, task=task, model=model, untrained=before, job=job, gate=gate)}


def test_analyses_find_the_mechanism_of_the_hand_built_network(planted):
    task = planted[FREE].task
    asked = {length: task.of_length(length, 400) for length in (8, 16, 64)}
    lengths, *parts = by_length(planted, asked)
    dense = by_density(planted, lengths, 400)
    for result in (lengths, *parts, dense):
        assert np.nanmin(result.values) == 1.0
    assert (lengths.control < 0.7).all()
    assert (lengths.extra["low"] > 0.9999).all()
    diluted = dilution(planted, asked)
    assert (diluted.values > 0.999).all()
    assert (diluted.control < 3 * diluted.extra["even"]).all()
    sharp = sharpening(planted[FREE], 400)
    assert (sharp.values > 0.999).all()
    match, at_fall, lost = heads(planted[FREE], 400)
    for found in (match, at_fall):
        assert found.values[0, 0] > 0.999
        assert found.extra["p_adjusted"][0, 0] < 0.05
        assert (found.values.values.ravel()[1:] < 0.6).all()
    assert abs(float(lost.values[0, 1]) - 1) < 1e-9
    assert float(lost.values[0, 0]) < 0.8


def test_networks_trained_side_by_side_are_those_trained_one_after_the_other(tmp_path):
    tasks = [StateMachine(n_states=3, length=6, n_test=20, seed=seed) for seed in (0, 1)]
    kinds = {machines.FREE: machines.KINDS[machines.FREE], machines.MESS3: machines.KINDS[machines.FREE]}
    shown = []

    class Line:
        def __init__(self, label):
            self.label = label

        def __enter__(self):
            return lambda job: shown.append((self.label, job.step))

        def __exit__(self, *_):
            pass

    for workers, name in ((1, "alone"), (2, "together")):
        train_side_by_side(tasks, kinds, tmp_path / name, Line, share=0.004, workers=workers)
    assert len([label for label, step in shown if step == 2]) >= 8
    for seed in (0, 1):
        states = [
            load_state(tmp_path / name / f"seed_{seed}" / "network_1" / STATE)
            for name in ("alone", "together")
        ]
        for a, b in zip(*(state["stepper"]["model"].values() for state in states)):
            torch.testing.assert_close(a, b)


def test_the_longest_trainings_begin(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(seeds, "side_by_side", lambda one, jobs, place, workers: begun.extend(jobs) or [])
    tasks, kinds = [Sortedness(seed=seed) for seed in (0, 1)], dict(list(networks.KINDS.items())[9:])
    train_side_by_side(tasks, kinds, tmp_path, silent, share=1.0, workers=2)
    slow = list(kinds).index("randomised, bidirectional")
    assert begun[:2] == [f"seed_{seed}/network_{slow}" for seed in (0, 1)]
    other = {name: one.recipe_name for name, one in networks.KINDS.items() if one.recipe_name != "fast"}
    assert other == networks.RECIPES | {networks.DENSE: "long", networks.SHUFFLED: "short"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vocabulary", "0"], "vocabulary of at least 2"),
        (["--vocabulary", "1"], "equal tokens are always sorted"),
        (["--train-lengths", "1", "8"], "at least 4, got 1"),
        (["--test-lengths", "8"], "beyond the 16 of training"),
        (["--test-lengths", "8", "64", "32"], "test_lengths that increase"),
        (["--seeds", "0"], "1 seed"),
        (["--workers", "-1"], "workers >= 0"),
    ],
)
def test_studies_that_cannot_be_are_refused(options, message, tmp_path, capsys):
    assert cli.main(["study", "sortedness", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "vocabulary", "seeds"),
    [({}, 100, 3), ({"fast": True}, 12, 1), ({"fast": True, "vocabulary": 100, "seeds": 3}, 100, 3)],
)
def test_what_is_told_is_done_with_fast_too(given, vocabulary, seeds):
    settled = SortednessStudy(**given).settled
    assert (settled.vocabulary, settled.seeds, settled.task.vocabulary) == (vocabulary, seeds, vocabulary)
