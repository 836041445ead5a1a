"""Modular arithmetic: right answers, a clean split, and errors for what cannot be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechinterp.tasks import ModularAddition


@pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
@pytest.mark.parametrize("p", [2, 5, 13])
def test_answers_are_right_for_every_pair(p, operation):
    if (p, operation) == (2, "divide"):
        p = 3
    everything = ModularAddition(p=p, operation=operation, train_fraction=0.5).everything
    for (a, b, _), (c,) in zip(everything.inputs.tolist(), everything.targets.tolist()):
        if operation == "divide":
            assert (c * b) % p == a
        else:
            assert c == {"add": a + b, "subtract": a - b, "multiply": a * b}[operation] % p


@given(p=st.integers(3, 30), seed=st.integers(0, 9), fraction=st.floats(0.15, 0.9))
def test_the_splits_share_nothing_and_miss_nothing(p, seed, fraction):
    task = ModularAddition(p=p, seed=seed, train_fraction=fraction)
    rows = [set(map(tuple, task.dataset(split).inputs.tolist())) for split in ("train", "test")]
    assert not rows[0] & rows[1]
    assert len(rows[0] | rows[1]) == p**2
    assert len(rows[0]) == task.n_train


def test_the_seed_fixes_the_split_and_nothing_else_does():
    first, again, other = (ModularAddition(p=11, seed=seed).dataset("train").inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_variables_are_the_ground_truth():
    task = ModularAddition(p=7)
    batch = task.everything
    assert torch.equal(batch.variables["c"], (batch.variables["a"] + batch.variables["b"]) % 7)
    angle = 2 * torch.pi * 2 * batch.variables["c"] / 7
    torch.testing.assert_close(batch.variables["cos_c"][:, 1], angle.cos())
    assert batch.variables["sin_c"].shape == (49, 3)


def test_the_trivial_score_is_that_of_the_best_constant():
    task = ModularAddition(p=5, operation="multiply", train_fraction=0.5)
    answers = task.everything.targets.flatten()
    assert task.trivial == max((answers == c).double().mean().item() for c in range(5))


def test_loss_and_score_of_a_perfect_and_of_a_uniform_answer():
    task = ModularAddition(p=5)
    batch = task.dataset("test")
    perfect = 100.0 * torch.nn.functional.one_hot(batch.targets, 5)
    assert task.score(perfect, batch) == 1.0
    assert task.loss(perfect, batch).item() == pytest.approx(0, abs=1e-6)
    uniform = torch.zeros(len(batch), 1, 5)
    assert task.loss(uniform, batch, torch.float64).item() == pytest.approx(torch.tensor(5.0).log().item())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"p": 1}, "p >= 2"),
        ({"p": 12, "operation": "divide"}, "prime"),
        ({"train_fraction": 0.0}, "train_fraction"),
        ({"train_fraction": 1.0}, "train_fraction"),
    ],
)
def test_impossible_tasks_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ModularAddition(**wrong)


def test_a_task_survives_json():
    task = ModularAddition(p=17, operation="subtract", seed=3)
    assert ModularAddition.from_json(task.to_json()) == task
