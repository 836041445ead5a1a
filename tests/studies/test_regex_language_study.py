"""The study of regular languages end to end, small: training, resuming, claims, commands."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from withdrawn_claims import standing

from mechinterp.cli import main
from mechinterp.models import TransformerConfig
from mechinterp.runs import Run
from mechinterp.studies import regex_language as room
from mechinterp.studies.regex_language import (
    RegexLanguageOptions,
    RegexLanguageStudy,
    Trained,
    study,
    sweeps,
    train,
)
from mechinterp.studies.regex_language.weights import weight_comparison
from mechinterp.training import load_network

IDS = {
    "classifies",
    "predicts_tokens",
    "states_linearly_readable",
    "states_cause_the_answer",
    "weights_match_raw",
    "weights_match_state_basis",
    "generalises_in_length",
    "shortcut_or_simulation",
}
SMALL = {
    "pattern": "a+",
    "n_samples": 400,
    "max_len": 8,
    "d_model": 16,
    "n_heads": 2,
    "d_mlp": 32,
    "epochs": 12,
}
TINY = RegexLanguageOptions(**{**SMALL, "epochs": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("languages")


@pytest.fixture(scope="module")
def trained(folder):
    return train(RegexLanguageOptions(**SMALL, lr=5e-3), folder / "runs" / "small")


@pytest.fixture(scope="module")
def studied(folder):
    axes = {"d_model": (8,), "n_heads": (2, 3), "alphabet": ("ab", "bc"), "n_layers": (2,)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "sweep", lambda *given: sweeps.sweep(*given, axes=axes))
        config = RegexLanguageStudy(**{**SMALL, "epochs": 8}, lr=5e-3, seeds=2)
        return folder / "study", study(config, folder / "study")


def said(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    assert main(list(words)) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return " ".join(text.split())


def test_every_claim_has_its_control_and_its_seeds(studied):
    claims = {claim.id: claim for claim in studied[1].claims}
    assert claims.keys() == IDS
    for claim in claims.values():
        assert claim.control_kind, claim.id
        assert claim.value is None or claim.control is not None, claim.id
        assert claim.value is None or "of 2 seeds" in claim.interval_over, claim.id
    assert claims["classifies"].value >= 0.99
    standing("regex-language", {id: claim.verdict for id, claim in claims.items()})


def test_the_study_leaves_runs_results_and_a_report(studied):
    folder, report = studied
    run = Run.open(folder)
    assert run.finished
    assert run.results == {result.name: result for result in report.results}
    assert Run.open(folder / "seed_1").results.keys() == run.results.keys() - {"language_sweep"}
    assert "raw_transitions" in run.results
    assert (folder / "seed_0" / "weight_comparison.json").exists()
    page = (folder / "report.html").read_text()
    assert all(f"<code>{id}</code>" in page for id in IDS)
    swept = run.results["language_sweep"].values
    assert swept.setting.values.tolist() == ["d_model=8", "n_heads=2", "alphabet=ab", "n_layers=2"]


def test_a_network_that_did_not_learn_leaves_its_claims_untested(folder):
    config = RegexLanguageStudy(**{**SMALL, "epochs": 1, "lr": 1e-5}, seeds=1, fast=True)
    verdicts = {claim.id: claim.verdict for claim in study(config, folder / "unlearned").claims}
    assert standing("regex-language", verdicts) == {"predicts_tokens": "fails"}


def test_the_run_folder_has_all_that_was_promised(trained):
    names = {path.name for path in trained.run.path.iterdir()}
    assert names >= {
        *("best.safetensors", "final.safetensors", "construction.safetensors", "config.json", "regex.json"),
        *("environment.json", "history.json", "metrics.json"),
    }
    record = json.loads((trained.run.path / "regex.json").read_text())
    assert (record["n_states"], record["alphabet"]) == (3, "ab")
    assert trained.run.metrics["class_acc"] > 0.9
    assert len(trained.checkpoints) >= 3
    read, best = load_network(trained.run.path).state_dict(), trained.weights("best")
    assert all(torch.equal(read[name], best[name]) for name in best)


def test_best_final_and_every_step_are_there(trained):
    best, final = trained.weights("best"), trained.weights("final")
    last = trained.checkpoints.steps[-1]
    assert all(torch.equal(final[name], trained.weights(str(last))[name]) for name in final)
    assert best.keys() == final.keys()
    with pytest.raises(ValueError, match=r"checkpoint best, final or one of \[0, 1"):
        trained.weights("17")


def test_training_goes_on_where_it_was_interrupted(tmp_path):
    whole = train(TINY, tmp_path / "whole")

    @contextmanager
    def interrupt(label):
        def callback(job):
            if job.step:
                raise KeyboardInterrupt

        yield callback

    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "parts", interrupt)
    parts = train(TINY, tmp_path / "parts")
    assert all(torch.equal(whole.weights()[name], parts.weights()[name]) for name in whole.weights())


@pytest.mark.parametrize(
    "changes",
    [
        {"curriculum": ("a*", "ab")},
        {"towards_automaton": 1.0},
        {"near_construction": 0.1},
        {"positional_type": "none", "tie_weights": True},
        {"train_classes": ("accept",), "lambda_class": 0.0},
        {"n_layers": 2, "positional_type": "rotary"},
    ],
)
def test_every_way_of_training_runs(tmp_path, changes):
    found = train(replace(TINY, **changes), tmp_path / "run")
    assert found.run.finished
    assert Trained.open(tmp_path / "run").options == found.options


def test_the_pull_to_the_automaton_pulls(tmp_path):
    cosines = []
    for weight in (0.0, 30.0):
        one = train(replace(TINY, towards_automaton=weight, lr=1e-2), tmp_path / str(weight))
        raw, _ = weight_comparison(one.model("final"), one.task, draws=20)
        cosines.append(raw.values.sel(head="all").item())
    assert cosines[1] > 0.8 > 0.5 > cosines[0]


def test_near_the_construction_the_raw_comparison_is_one_and_rotated_it_is_not(trained):
    model = replace(trained.options, near_construction=0.0).network(trained.task)
    raw, _ = weight_comparison(model, trained.task, draws=20)
    assert raw.values.sel(head="all").item() == pytest.approx(1, abs=1e-5)
    assert raw.extra["rotated"].sel(measure="cosine", head="all").max() < 0.9
    assert raw.provenance["outputs differ by"] < 1e-4


def test_the_comparison_runs_on_every_normalisation(trained):
    for kind in ("LN", "RMS"):
        model = trained.untrained()
        model = type(model)(replace_config(model.cfg, normalization_type=kind)).eval()
        raw, states = weight_comparison(model, trained.task, draws=5)
        assert raw.provenance["outputs differ by"] < 1e-4
        assert states.values.notnull().any()


def replace_config(cfg, **changes):
    return TransformerConfig.from_json({**cfg.to_json(), **changes})


def test_compare_weights_prints_writes_and_draws(capsys, trained):
    path = trained.run.path
    text = said(
        capsys, "compare-weights", str(path), "--checkpoint", "best", "--visualize-heads", "0", "1",
        "--test-strings", "a", "aa", "b",
    )  # fmt: skip
    assert all(word in text for word in ("cosine", "pearson", "rotated streams", "'aa'", "accept", "reject"))
    record = json.loads((path / "weight_comparison.json").read_text())
    assert {"raw_transitions", "state_transitions"} <= record.keys()
    assert "Plotly.newPlot" in (path / "weight_comparison.html").read_text()


def test_runs_are_listed_by_pattern_and_metric(capsys, trained):
    root = str(trained.run.path.parent)
    words = ["runs", "list", "--root", root, "--best", "--metric", "class_acc"]
    assert str(trained.run.path) in said(capsys, *words, "--pattern", "a+")
    assert "found 0 finished" in refused(capsys, *words, "--pattern", "b+")


def test_the_best_of_losses_is_the_smallest(capsys, trained):
    train(TINY, trained.run.path.parent / "worse")
    words = ["runs", "list", "--root", str(trained.run.path.parent), "--best", "--metric", "val_loss"]
    assert str(trained.run.path) in said(capsys, *words)


def test_train_by_the_published_names(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "regex-language",
        "--pattern",
        "a+",
        "--alphabet",
        "ab",
        "--n-samples",
        "300",
        "--min-len",
        "1",
        "--max-len",
        "8",
        "--d-model",
        "8",
        "--n-heads",
        "2",
        "--d-mlp",
        "16",
        "--dropout",
        "0",
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--lr",
        "0.01",
        "--patience",
        "2",
        "--device",
        "cpu",
        "--seed",
        "1",
        "--tie-weights",
        "--positional-type",
        "none",
        "--train-classes",
        "accept",
        "reject",
        "--lambda-class",
        "0.5",
    ]
    assert "class_acc" in said(capsys, *words)
    (run,) = (tmp_path / "runs").iterdir()
    assert "/" not in run.name
    assert Run.open(run).config["options"]["train_classes"] == ["accept", "reject"]
    said(capsys, "train", "regex-language", "--pattern", "(a|b)*", "--epochs", "1", "--n-samples", "300")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train regex-language --pattern a(?=b)", "lookaround"),
        ("train regex-language --pattern a+c", "add it"),
        ("train regex-language --alphabet aa", "more than once"),
        ("train regex-language --pattern a[^ab]", "no word that is accepted"),
        ("train regex-language --pattern S3 --alphabet xy", "alphabet 'ab' of the machine"),
        ("train regex-language --d-model 30", "share evenly"),
        ("train regex-language --device abacus", "expected a device"),
        ("train regex-language --epochs 0", "at least 1 epoch"),
        ("train regex-language --pattern ab --near-construction 0 --n-heads 32", "a head for each"),
        ("train regex-language --curriculum S3 b --alphabet abc", "alphabet 'ab' of the machine"),
        ("study regex-language --pattern ab --d-model 2 --n-heads 1", "d_model >= 4 states"),
        ("study regex-language --seeds 0", "at least 1 seed"),
        ("compare-weights nowhere", "expected a run folder at nowhere"),
        ("runs list --pattern a+", "expected a folder of runs"),
    ],
)
def test_wrong_words_are_refused_before_work_starts(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "worst"], "checkpoint best, final or one of"),
        (["--visualize-heads", "7"], "heads of 0 to 1, got [7]"),
        (["--layer", "3"], "a layer of 0 to 0"),
        (["--test-strings", "abc"], "expected symbols of 'ab', got ['c']"),
        (["--test-strings", 40 * "a"], "words of at most 16 symbols"),
    ],
)
def test_wrong_comparisons_are_refused(capsys, trained, words, message):
    assert message in refused(capsys, "compare-weights", str(trained.run.path), *words)


def test_its_options_are_listed_without_a_run(capsys):
    assert main(["compare-weights", "--help"]) == 0
    assert "--visualize-heads" in capsys.readouterr().out


def test_too_narrow_a_stream_is_refused_when_compared(capsys, tmp_path):
    train(replace(TINY, pattern="ab", d_model=2, n_heads=1), tmp_path / "narrow")
    assert "d_model >= 4 states" in refused(capsys, "compare-weights", str(tmp_path / "narrow"))


def test_other_runs_are_refused(capsys, tmp_path, studied):
    assert "expected a run of `mechinterp train regex-language`" in refused(
        capsys, "compare-weights", str(studied[0])
    )
    Run.create(
        tmp_path / "stopped", {"kind": "train", "task": "regex_language", "options": {"pattern": "a+"}}
    )
    assert "expected a finished run" in refused(capsys, "compare-weights", str(tmp_path / "stopped"))
