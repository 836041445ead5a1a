"""Machines as tasks: tokens, states and ceilings are what they should be, and impossible ones are refused."""

import json

import pytest
import torch

from mechinterp.tasks import StateMachine

KINDS = {
    "published": StateMachine(length=8, n_test=200),
    "shared": StateMachine(length=8, n_test=200, emission="shared"),
    "deterministic": StateMachine(length=8, n_test=200, transition="deterministic", emission="shared"),
    "stochastic": StateMachine(length=8, n_test=200, n_states=4, transition="stochastic"),
    "mess3": StateMachine(length=8, n_test=200, transition="mess3"),
    "S3": StateMachine(length=8, n_test=200, transition="S3"),
    "pattern": StateMachine(length=8, n_test=200, transition="a(b|c)*", alphabet="abc"),
    "absorbing": StateMachine(length=8, n_test=200, transition="a*b*", emission="shared"),
    "own rows": StateMachine(length=8, n_test=200, n_states=2, transition=((0.5, 0.5), (1.0, 0.0))),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_best_predictor_scores_the_ceiling_and_one_token_the_trivial_score(name):
    task = KINDS[name]
    batch = task.dataset("test")
    best = task.following(batch)
    assert task.score(best, batch) == pytest.approx(task.ceiling, abs=0.02)
    assert task.measures(best.log(), batch)["divergence"] == pytest.approx(0.0, abs=1e-9)
    assert task.measures(best, batch)["counted_accuracy"] == pytest.approx(task.ceiling, abs=0.05)
    answers = torch.nn.functional.one_hot(torch.arange(task.d_vocab), task.d_vocab)
    constant = max(task.score(one.expand(best.shape).float(), batch) for one in answers)
    assert constant == pytest.approx(task.trivial, abs=0.05)
    assert task.trivial - 1e-9 <= task.learned_at <= task.ceiling + 1e-9


@pytest.mark.parametrize("name", KINDS)
def test_beliefs_hold_the_true_state_possible_and_targets_are_the_next_inputs(name):
    batch = KINDS[name].dataset("test")
    true = batch.variables["belief"].gather(2, batch.variables["state"][..., None])
    assert bool((true > 0).all())
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert int(batch.inputs.max()) < KINDS[name].d_vocab


def test_in_the_published_machine_the_token_is_the_state_and_a_third_can_be_known():
    task = KINDS["published"]
    batch = task.dataset("test")
    assert torch.equal(batch.inputs // 3, batch.variables["state"])
    assert torch.equal((batch.variables["state"] + 1)[:, :-1] % 8, batch.variables["state"][:, 1:])
    assert (task.ceiling, task.trivial) == pytest.approx((1 / 3, 1 / 24))


def test_shared_tokens_leave_the_state_open_and_then_tell_it():
    sure = KINDS["shared"].dataset("test").variables["belief"].amax(-1) > 0.999
    assert float(sure[:, 0].double().mean()) < 0.2
    assert float(sure[:, -1].double().mean()) > 0.99


def test_the_states_of_a_named_automaton_are_its_own():
    task = KINDS["S3"]
    batch = task.dataset("test")
    from mechinterp.automata import NAMED

    assert torch.equal(NAMED["S3"]().trace(batch.inputs % 2)[:, 1:], batch.variables["state"])


@pytest.mark.parametrize("name", KINDS)
def test_the_record_of_a_task_gives_the_task(name):
    task = KINDS[name]
    assert StateMachine.from_json(json.loads(json.dumps(task.to_json()))) == task


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_states": 0}, "n_states >= 1"),
        ({"n_tokens": 5}, "expected 24 tokens for 8 states"),
        ({"emission": "shared", "n_tokens": 2}, "expected 3 to 24 tokens"),
        ({"emission": "shared", "n_tokens": 3}, "tell 8 states with 3 each apart"),
        ({"emission": "own"}, "disjoint or shared"),
        ({"n_states": 2, "transition": ((1.0, 0.0), (1.0, 0.0))}, "never are"),
        ({"n_states": 2, "transition": ((0.5, 0.4), (1.0, 0.0))}, "sum to 1"),
        ({"n_states": 3, "transition": ((0.5, 0.5), (1.0, 0.0))}, "expected 3 rows"),
        ({"transition": "cyle"}, "expected transition cycle, deterministic"),
        ({"transition": "mess3", "n_states": 5}, "no n_states for 'mess3'"),
        ({"transition": "cylce"}, "did you mean cycle"),
        ({"alphabet": "ab"}, "no alphabet for 'cycle'"),
        ({"n_states": 2, "transition": ((1.1, -0.1), (0.2, 0.8))}, "at least 0 for each state, got -0"),
        ({"transition": "S3", "n_tokens": 99}, "no n_tokens for 'S3'"),
        ({"length": 1}, "length >= 2"),
    ],
)
def test_machines_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        StateMachine(**fields)
