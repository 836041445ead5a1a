"""Verdicts on planted numbers, and on networks that are known or cannot be asked."""

from pathlib import Path

import pytest
import torch
import xarray as xr

from mechinterp import constructions, models
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.transitions import compare_transitions
from mechinterp.automata import language
from mechinterp.result import Result
from mechinterp.runs import Run
from mechinterp.studies.regex_language.anatomy import Anatomy, longer_words, swapped
from mechinterp.studies.regex_language.claims import (
    generalises_in_length,
    judge,
    shortcut_or_simulation,
    states_cause_the_answer,
    states_linearly_readable,
    weights_match,
)
from mechinterp.studies.regex_language.options import RegexLanguageOptions
from mechinterp.studies.regex_language.training import Trained, train
from mechinterp.tasks import RegexLanguage

TASK = RegexLanguage(pattern="a*b*", n_samples=300, max_len=8)


def network(results=(), score=1.0, longer=None, layers=1):
    """An anatomy with these findings only."""
    gate = Gate(task="t", split="test", score=score, trivial=0.5, learned_at=0.99, n=10)
    trained = Trained(Run(Path("nowhere")), RegexLanguageOptions(n_layers=layers), TASK)
    return Anatomy(
        trained=trained, gate=gate, measures={}, untrained={}, longer=longer or {}, missing={},
        results={result.name: result for result in results},
    )  # fmt: skip


def swap(target, control, p, after=None):
    def at(x):
        return xr.DataArray([x], dims=("later",), coords={"later": [0]})

    extra = {"p": at(p), "intact": at(0.0)}
    if after:
        extra["after"] = xr.DataArray(list(after), dims=("of",))
    return Result(
        name="state_swap", values=at(target), control=at(control), control_kind="third", extra=extra
    )


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [((0.95, 0.1, 0.001), "holds"), ((0.95, 0.9, 0.2), "fails"), ((0.8, 0.0, 0.001), "fails")],
)
def test_states_cause_the_answer_needs_size_and_a_control_that_does_less(numbers, verdict):
    assert states_cause_the_answer([network([swap(*numbers)])]).verdict == verdict


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((0.9, 0.0, 0.001), "holds"),
        ((0.9, 1.0, 0.99), "fails"),
        ((0.0, 0.0, 1.0), "fails"),
        (None, "untested"),
    ],
)
def test_simulation_is_judged_on_all_later_answers(after, verdict):
    assert shortcut_or_simulation([network([swap(1.0, 0.0, 0.001, after)], layers=2)]).verdict == verdict


def test_of_one_layer_nothing_can_be_carried_on_and_nothing_is_asked():
    claim = shortcut_or_simulation([network([swap(1.0, 0.0, 0.001, (0.0, 0.0, 1.0))], layers=1)])
    assert (claim.verdict, claim.value) == ("untested", None)


def test_a_control_that_beats_the_target_has_no_small_p():
    """With the construction's own states the wrong way round, the third state's answers are given."""
    task = RegexLanguage(pattern="Z3", n_samples=300, max_len=8)
    model = constructions.regex_language(task)
    found = swapped(model, task, Gate.of(model, task), layer=-1, n=200)
    assert (float(found.values[0]), float(found.control[0])) == (1.0, 0.0)
    assert float(found.extra["p"].sel(later=0)) < 0.01


def comparison(matrices, pattern, name="state_transitions", untrained=None):
    dfa = language(pattern)
    untrained = torch.zeros_like(matrices) if untrained is None else untrained
    return compare_transitions(matrices, dfa.matrices, untrained=untrained, name=name, draws=200)


@pytest.mark.parametrize(
    ("pattern", "verdict"),
    [("a*b*", "holds"), ("S3", "holds"), ("parity", "untested"), ("(a|b)+", "untested")],
)
@pytest.mark.parametrize("name", ["raw_transitions", "state_transitions"])
def test_a_perfect_match_holds_where_it_could_be_told_from_chance(pattern, verdict, name):
    result = comparison(language(pattern).matrices, pattern, name)
    assert weights_match([network([result])], name).verdict == verdict


@pytest.mark.parametrize("pattern", ["a*b*", "S3", "Z3"])
def test_other_labels_noise_and_no_better_than_untrained_fail(pattern):
    matrices = language(pattern).matrices
    order = torch.arange(matrices.shape[1]).flip(0)
    noise = torch.randn(matrices.shape, generator=torch.Generator().manual_seed(0))
    wrong = [comparison(noise, pattern), comparison(matrices, pattern, untrained=matrices)]
    if pattern != "Z3":  # of which a third of the orders is no other machine
        wrong.append(comparison(matrices[:, order][:, :, order], pattern))
    for result in wrong:
        assert weights_match([network([result])], "state_transitions").verdict == "fails"


@pytest.mark.parametrize(
    ("longer", "verdict"),
    [
        ({"trained": 0.999, "untrained": 0.2, "trivial": 0.6}, "holds"),
        ({"trained": 0.9, "untrained": 0.2, "trivial": 0.6}, "fails"),
        ({"trained": 0.992, "untrained": 0.2, "trivial": 0.991}, "fails"),
        ({"trained": 1.0, "untrained": 0.2, "trivial": 1.0}, "untested"),
        ({}, "untested"),
    ],
)
def test_longer_words_must_be_answered_better_than_by_a_constant(longer, verdict):
    assert generalises_in_length([network(longer=longer)]).verdict == verdict


@pytest.mark.parametrize(
    ("value", "interval", "untrained", "raw", "verdict"),
    [
        (0.99, (0.97, 1.0), 0.8, 0.7, "holds"),
        (0.99, (0.97, 1.0), 0.98, 0.7, "fails"),
        (0.99, (0.97, 1.0), 0.8, 0.99, "fails"),
        (0.9, (0.88, 0.92), 0.5, 0.5, "fails"),
    ],
)
def test_states_must_be_read_better_than_from_anything_else(value, interval, untrained, raw, verdict):
    extra = {"untrained": xr.DataArray([untrained]), "raw_input": xr.DataArray([raw])}
    result = Result(name="logistic_probe", values=xr.DataArray([value]), interval=interval, extra=extra)
    assert states_linearly_readable([network([result])]).verdict == verdict


def test_networks_that_did_not_learn_do_not_count_and_are_counted_out_loud():
    good, bad = network([swap(0.95, 0.1, 0.001)]), network([swap(0.0, 0.1, 1.0)], score=0.6)
    claim = states_cause_the_answer([good, bad, bad])
    assert claim.verdict == "holds"
    assert claim.seeds == "1 of 1 seeds, 2 not asked"
    assert states_cause_the_answer([bad, bad]).verdict == "untested"


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
@pytest.mark.parametrize("pattern", ["a*b*", "S3", "ab"])
def test_words_in_which_states_are_swapped_have_all_lengths(pattern, monkeypatch):
    task = RegexLanguage(pattern=pattern, n_samples=300, max_len=12)
    model, seen = models.regex_language(task).eval(), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda ids, **rest: (seen.append(ids), forward(ids, **rest))[1])
    swapped(model, task, Gate.of(model, task), n=200)
    inputs = seen[-1]
    assert len(inputs.unique(dim=0)) == len(inputs)
    assert (inputs != task.pad).sum(1).unique().tolist()[-6:] == [8, 9, 10, 11, 12, 13]


SMALL = {"n_samples": 300, "max_len": 6, "d_model": 8, "n_heads": 1, "d_mlp": 8, "epochs": 1}


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"pattern": "(a|b)*"}, {"states read", "states swapped"}),
        ({"pattern": "a*b*", "train_classes": ("accept",)}, {"weights", "states swapped"}),
        ({"pattern": "a{1,3}b{0,3}", "p_class": (0, 0, 1), "n_samples": 60}, {"longer words"}),
        ({"pattern": "a", "max_len": 3, "n_samples": 100}, {"states read"}),
    ],
)
def test_what_a_language_cannot_be_asked_is_named_and_left_untested(tmp_path, changes, missing):
    found = Anatomy.of(train(RegexLanguageOptions(**{**SMALL, **changes}), tmp_path / "run"))
    assert missing <= found.missing.keys()
    assert all("expected" in why for why in found.missing.values())
    claims = {claim.id: claim for claim in judge.__wrapped__([found])}  # before any is withdrawn
    assert len(claims) == 8
    assert claims["states_cause_the_answer"].verdict == "untested"


def test_longer_words_are_longer():
    batch = longer_words(TASK, 50)
    lengths = batch.mask.sum(1) - 1
    assert (int(lengths.min()), int(lengths.max())) == (9, 16)
