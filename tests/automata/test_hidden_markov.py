"""Machines with hidden states: beliefs and the best predictor against enumeration, and what cannot be."""

import itertools

import pytest
import torch

from mechinterp.automata import HiddenMarkov, mess3, stationary

COIN = HiddenMarkov.arriving(
    torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
)
TURN = HiddenMarkov.leaving(
    torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]), torch.tensor([[0, 1, 0], [0, 0, 1]]), start=0
)
MACHINES = {"coin": COIN, "turn": TURN, "mess3": mess3()}


def likelihood(machine, word):
    """The probability of a word and of each state after it, by multiplying matrices."""
    ahead = machine.initial
    for token in word:
        ahead = ahead @ machine.matrices[token]
    return ahead


@pytest.mark.parametrize("name", MACHINES)
def test_beliefs_are_those_of_bayes(name):
    machine = MACHINES[name]
    for word in itertools.product(range(machine.n_tokens), repeat=4):
        ahead = likelihood(machine, word)
        if ahead.sum() > 0:
            found = machine.beliefs(torch.tensor([word]))[0, -1]
            torch.testing.assert_close(found, ahead / ahead.sum())


@pytest.mark.parametrize("name", MACHINES)
def test_the_best_predictor_is_that_of_all_words(name):
    machine, length = MACHINES[name], 4
    found = machine.optimum(length)
    assert found.exact
    for position in range(length):
        accuracy = entropy = 0.0
        for word in itertools.product(range(machine.n_tokens), repeat=position + 1):
            ahead = likelihood(machine, word)
            if ahead.sum() > 0:
                following = (ahead / ahead.sum()) @ machine.emission
                accuracy += float(ahead.sum() * following.max())
                entropy += float(ahead.sum() * torch.special.entr(following).sum())
        assert float(found.accuracy[position]) == pytest.approx(accuracy)
        assert float(found.entropy[position]) == pytest.approx(entropy)


def test_with_too_many_beliefs_it_is_a_mean_over_sequences():
    whole, drawn = mess3().optimum(6), mess3().optimum(6, most=10)
    assert whole.exact
    assert not drawn.exact
    torch.testing.assert_close(whole.accuracy, drawn.accuracy, atol=0.01, rtol=0)
    torch.testing.assert_close(whole.entropy, drawn.entropy, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", MACHINES)
def test_sequences_are_drawn_as_the_machine_says(name):
    machine = MACHINES[name]
    tokens, states = machine.sample(20_000, 2, torch.Generator().manual_seed(0))
    ahead = torch.einsum("s,tsn,unm->tum", machine.initial, machine.matrices, machine.matrices)
    counts = torch.zeros_like(ahead)
    counts.index_put_((tokens[:, 0], tokens[:, 1], states[:, 1]), torch.tensor(1.0).double(), accumulate=True)
    torch.testing.assert_close(counts / len(tokens), ahead, atol=0.015, rtol=0)


def test_a_long_run_is_stationary_also_where_states_go_round():
    for rows in ([[0.9, 0.1], [0.4, 0.6]], [[0.0, 1.0], [1.0, 0.0]]):
        rows = torch.tensor(rows, dtype=torch.float64)
        found = stationary(rows)
        torch.testing.assert_close(found @ rows, found)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]).double())


def test_a_slow_machine_comes_to_its_long_run_too():
    rows = torch.tensor([[1 - 1e-7, 1e-7], [3e-7, 1 - 3e-7]], dtype=torch.float64)
    torch.testing.assert_close(stationary(rows), torch.tensor([0.75, 0.25]).double())


def test_what_cannot_come_is_never_drawn():
    rows = torch.tensor([[0.33333, 0.66666, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
    machine = HiddenMarkov(rows[None], torch.tensor([1.0, 0.0, 0.0]).double())
    _, states = machine.sample(200_000, 1, torch.Generator().manual_seed(0))
    assert 2 not in states


def test_next_states_are_looked_at_only_where_something_is_emitted():
    emission, table = torch.eye(2).double(), torch.tensor([[1, -1], [-1, 0]])
    machine = HiddenMarkov.leaving(emission, table, start=0)
    assert machine.sample(3, 4, torch.Generator().manual_seed(0))[0].tolist() == [[0, 1, 0, 1]] * 3
    assert machine.beliefs(torch.empty(3, 0, dtype=torch.long)).shape == (3, 0, 2)
    for wrong in ({"table": table - 1}, {"start": 2}):
        with pytest.raises(ValueError, match=r"in \[0, 2\)"):
            HiddenMarkov.leaving(**{"emission": emission, "table": table, "start": 0} | wrong)


@pytest.mark.parametrize(
    ("matrices", "initial", "message"),
    [
        (torch.zeros(0, 0, 0), torch.zeros(0), "at least one state and token"),
        (torch.ones(1, 2, 2), torch.tensor([0.5, 0.5]), "sum to 1 for each state"),
        (torch.eye(2)[None], torch.tensor([0.5, 0.6]), "sum to 1 for the start"),
        (torch.eye(2)[None], torch.tensor([1.0, 0.0]), r"got \[1\] that never are"),
    ],
)
def test_machines_that_cannot_be_are_refused(matrices, initial, message):
    with pytest.raises(ValueError, match=message):
        HiddenMarkov(matrices, initial)


def test_tokens_that_cannot_come_are_refused():
    with pytest.raises(ValueError, match="number 0 cannot follow"):
        TURN.beliefs(torch.tensor([[2]]))


def test_what_are_no_probabilities_is_refused_by_name():
    signed = torch.tensor([[[0.9, -0.4], [0.5, 0.1]], [[-0.2, 0.7], [0.2, 0.2]]])
    with pytest.raises(ValueError, match=r"at least 0 for each state, got -0\.4"):
        HiddenMarkov(signed, torch.tensor([0.5, 0.5]))
    for numbers in ({"a": 1.2}, {"x": 0.6}):
        with pytest.raises(ValueError, match="a within"):
            mess3(**numbers)


@pytest.mark.parametrize("tokens", [[[0, -1]], [[0, 1, 2, 5]]])
def test_tokens_that_there_are_not_are_refused(tokens):
    with pytest.raises(ValueError, match=r"within \[0, 3\)"):
        mess3().beliefs(torch.tensor(tokens))
