"""Training in every precision, and measurements that do not depend on how a split is gone through."""

from dataclasses import replace

import pytest
import torch

from mechinterp.models import modular_addition, sortedness, state_machine
from mechinterp.tasks import Batch, ModularAddition, Sortedness, StateMachine
from mechinterp.training import Diverged, Recipe, fit

TASK = ModularAddition(p=7, train_fraction=0.6)
RECIPE = Recipe(steps=30, lr=1e-2, eval_every=15)
SMALL = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32}


def losses(model, task=TASK, recipe=RECIPE):
    return fit(model, task, recipe).history.train_loss


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_training_in_another_precision_takes_the_same_course(dtype, optimizer):
    recipe = replace(RECIPE, optimizer=optimizer, steps=15)
    single = losses(modular_addition(TASK, **SMALL), recipe=recipe)
    other = losses(modular_addition(TASK, **SMALL).to(dtype), recipe=recipe)
    assert other == pytest.approx(single, rel=0.1 if dtype == torch.bfloat16 else 1e-3)
    assert single[-1] < 0.9 * single[0]


class Linear(torch.nn.Module):
    """Of torch's layers alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = torch.nn.Embedding(8, 32), torch.nn.Linear(32, 7)

    def forward(self, x, read):
        return self.out(self.embed(x).sum(1, keepdim=True).relu())


def test_autocast_in_bfloat16_takes_the_same_course():
    single = losses(Linear())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses(Linear())
    assert mixed == pytest.approx(single, rel=0.05)
    assert mixed != single


def test_what_is_not_finite_where_it_is_measured_stops_training():
    class Falls(ModularAddition):
        def loss(self, outputs, batch, dtype=torch.float32):
            found = super().loss(outputs, batch, dtype)
            return found if torch.is_grad_enabled() else found / 0

    with pytest.raises(Diverged, match=r"finite loss, got a loss on test of inf at step 0.*lower lr"):
        fit(modular_addition(TASK, **SMALL), Falls(p=7, train_fraction=0.6), RECIPE)
    pulled = {"penalty": lambda model: model.W_E.square().sum().sub(model.W_E.square().sum()).sqrt()}
    with pytest.raises(
        Diverged, match="got weights of norm nan at step 1; the last good checkpoint is of step 0"
    ):
        fit(modular_addition(TASK, **SMALL), TASK, replace(RECIPE, steps=1, checkpoints=2), **pulled)


def test_measurements_are_the_same_by_parts_as_of_the_whole(monkeypatch):
    networks = [
        (modular_addition, ModularAddition(p=11)),
        (state_machine, StateMachine(n_states=3, length=6, n_test=50)),
        (sortedness, Sortedness(n_test=40, train_lengths=(4, 8), test_lengths=(4, 8))),
    ]
    for build, task in networks:
        found, split = [], Batch.split
        for size in (2**30, 100):
            seen = []

            def parts(batch, positions=None, size=size, seen=seen, split=split):
                seen.append(len(batch))
                return split(batch, size)

            with monkeypatch.context() as patched:
                patched.setattr(Batch, "split", parts)
                found.append(fit(build(task), task, Recipe(steps=2, batch_size=8, eval_every=1)).history)
            assert len(seen) == 2  # once for each split, not at every measurement
        for name in ("test_loss", "test_score", "train_score"):
            whole, parted = (getattr(history, name) for history in found)
            assert parted == pytest.approx(whole, rel=1e-5, abs=1e-6), (task.name, name)


def test_a_loss_that_is_no_mean_is_that_of_the_whole_split(monkeypatch):
    class Worst(ModularAddition):
        def loss(self, outputs, batch, dtype=torch.float32):
            return outputs.square().sum().sqrt() / len(batch)

    task, split = Worst(p=7), Batch.split
    whole = fit(modular_addition(TASK, **SMALL), task, RECIPE).history
    monkeypatch.setattr(Batch, "split", lambda batch, positions=None: split(batch, 20))
    parted = fit(modular_addition(TASK, **SMALL), task, RECIPE).history
    assert parted.test_loss == pytest.approx(whole.test_loss, rel=1e-5)


def test_what_fit_returns_is_printed_in_a_few_lines():
    job = fit(modular_addition(TASK, **SMALL), TASK, replace(RECIPE, keep_best=True, checkpoints=5))
    assert str(job) == repr(job)
    assert len(str(job)) < 400
    assert "HookedTransformer on modular_addition, step 30 of 30, stopped: steps" in str(job)
    assert "30 steps, 3 measurements, the last at step 30: test_loss" in str(job.history)
