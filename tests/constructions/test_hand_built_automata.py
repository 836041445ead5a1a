"""Automata in weights: exact traces, with margins, for any machine of up to 16 states."""

import pytest
import torch

from mechinterp import constructions, models
from mechinterp.analysis.gates import Gate
from mechinterp.automata import NAMED, language, random_dfa
from mechinterp.constructions.regex_language import log_depth, near_construction, off_construction
from mechinterp.tasks import RegexLanguage


def check_traces(dfa, length, n=8):
    words = torch.randint(dfa.n_symbols, (n, length), generator=torch.Generator().manual_seed(length))
    starts = torch.full((n, 1), dfa.n_symbols)
    with torch.no_grad():
        logits = log_depth(dfa, length)(torch.cat((starts, words), 1))
    right = torch.nn.functional.one_hot(dfa.trace(words), dfa.n_states).bool()
    assert logits.dtype == torch.float32
    margin = logits[right] - logits.masked_fill(right, -torch.inf).amax(-1).flatten()
    assert margin.min() > 9.99, f"of 10, got {margin.min()}"


@pytest.mark.parametrize("seed", range(40))
def test_log_depth_network_traces_random_automata(seed):
    check_traces(random_dfa(1 + seed % 9, 1 + seed % 5, seed), 1 + 3 * seed)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 127, 128])
def test_log_depth_network_at_the_largest_size(length):
    check_traces(random_dfa(16, 3, length), length, n=2)


@pytest.mark.slow
def test_log_depth_network_on_a_thousand_random_automata():
    for seed in range(1000):
        check_traces(random_dfa(1 + seed % 16, 1 + seed % 5, seed), 1 + seed % 128, n=4)


@pytest.mark.parametrize("name", sorted(NAMED.keys() - {"A5"}))
def test_both_constructions_trace_the_named_machines(name):
    dfa = language(name)
    check_traces(dfa, 33)
    words = torch.randint(dfa.n_symbols, (5, 33), generator=torch.Generator().manual_seed(0))
    states = constructions.ValueMatrices.of(dfa)(words)
    torch.testing.assert_close(states, torch.nn.functional.one_hot(dfa.trace(words), dfa.n_states).float())


def test_value_matrices_stay_behind_the_end():
    dfa = language("a+")
    words = dfa.encode(["aab", "a", ""])
    states = constructions.ValueMatrices.of(dfa)(words).argmax(-1)
    assert torch.equal(states, dfa.trace(words))


@pytest.mark.parametrize("id", [2, -2])
def test_value_matrices_refuse_what_is_no_symbol(id):
    with pytest.raises(ValueError, match=r"symbols in \[0, 2\)"):
        constructions.ValueMatrices.of(language("a+"))(torch.tensor([[0, id]]))


@pytest.mark.parametrize("pattern", ["a+", "a*b*", "ab", "(a|b)+", "S3"])
def test_the_task_is_solved_in_and_beyond_its_length(pattern):
    task = RegexLanguage(pattern=pattern, n_samples=600, max_len=12)
    model = constructions.regex_language(task)
    gate = Gate.of(model, task)
    assert gate.score == 1.0
    assert gate.learned
    batch = task.dataset("test")
    with torch.no_grad():
        assert task.measures(task.outputs(model, batch), batch)["token_share"] > 0.9
        longer = task.batch(torch.randint(task.dfa.n_symbols, (20, 24)))
        assert task.score(task.outputs(model, longer), longer) == 1.0


def test_too_many_states_are_refused():
    with pytest.raises(ValueError, match="at most 16 states"):
        log_depth(random_dfa(17, 2), 4)


def test_near_the_construction_nothing_is_off():
    task = RegexLanguage(pattern="a*b*", n_samples=300, max_len=8)
    model = models.regex_language(task)
    before = off_construction(model, task.dfa)
    assert off_construction(near_construction(model, task.dfa), task.dfa) == 0
    assert off_construction(near_construction(model, task.dfa, noise=0.1), task.dfa) > 0
    assert before > 0.1


@pytest.mark.parametrize("shape", [{"n_heads": 1}, {"d_model": 8, "n_heads": 4}])
def test_heads_that_cannot_hold_the_construction_are_refused(shape):
    task = RegexLanguage(pattern="a*b*", n_samples=300, max_len=8)
    with pytest.raises(ValueError, match="expected a head for each of 2 symbols"):
        near_construction(models.regex_language(task, **shape), task.dfa)


def test_a_stream_narrower_than_the_states_is_refused():
    task = RegexLanguage(pattern="ab", n_samples=300, max_len=8)
    with pytest.raises(ValueError, match="d_model >= 4 states"):
        off_construction(models.regex_language(task, d_model=2, n_heads=2), task.dfa)
