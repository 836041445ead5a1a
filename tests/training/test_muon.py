"""Steps along the momentum with its singular values made one, matrix by matrix."""

import math

import pytest
import torch

from mechinterp.models import digit_addition, linear_regression, modular_addition
from mechinterp.tasks import DigitAddition, LinearRegression, ModularAddition
from mechinterp.training import Recipe, fit
from mechinterp.training.muon import Muon, hidden_matrices, orthogonal
from mechinterp.training.step import Stepper

TASK = ModularAddition(p=7, train_fraction=0.6)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network():
    return modular_addition(TASK, d_model=16, n_heads=2, d_head=8, d_mlp=32, seed=0)


def stepped(weight, gradients, **settings):
    weight = weight.clone().requires_grad_()
    optimizer = Muon([weight], **settings)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("shape", [(3, 16, 64), (3, 64, 16), (2, 32, 32)])
def test_singular_vectors_stay_and_singular_values_come_near_one(shape):
    matrices = random(*shape)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    turned = u.mT @ orthogonal(matrices) @ v.mT
    kept = turned.diagonal(dim1=-2, dim2=-1)
    large = s > 0.02 * s.norm(dim=-1, keepdim=True)
    assert ((kept > 0.6) & (kept < 1.3))[large].all()
    assert (turned - torch.diag_embed(kept)).abs().max() < 1e-3


def test_a_matrix_of_zeros_stays_zero():
    assert not orthogonal(torch.zeros(1, 4, 8)).any()


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (4, 64, 16)])
def test_a_step_has_a_root_mean_square_of_a_fifth_of_the_rate(shape):
    moved = stepped(torch.zeros(shape), [random(*shape)], lr=0.01)
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_the_size_of_the_gradient_does_not_matter_and_its_sign_does():
    gradient = random(8, 16)
    once = stepped(torch.zeros(8, 16), [gradient], lr=0.1)
    assert torch.allclose(stepped(torch.zeros(8, 16), [1000 * gradient], lr=0.1), once, atol=1e-5)
    assert torch.allclose(stepped(torch.zeros(8, 16), [-gradient], lr=0.1), -once)
    assert (once * gradient).sum() < 0


def test_matrices_of_a_stack_and_weights_of_one_shape_move_as_each_would_alone():
    stack, gradients = random(4, 8, 16), [random(4, 8, 16, seed=seed) for seed in (1, 2)]
    alone = [stepped(w, [g[i] for g in gradients], lr=0.1, weight_decay=0.5) for i, w in enumerate(stack)]
    assert torch.allclose(stepped(stack, gradients, lr=0.1, weight_decay=0.5), torch.stack(alone), atol=1e-5)
    weights = [weight.clone().requires_grad_() for weight in stack]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.5)
    for gradient in gradients:
        for weight, own in zip(weights, gradient):
            weight.grad = own
        optimizer.step()
    assert torch.allclose(torch.stack(weights).detach(), torch.stack(alone), atol=1e-5)


def test_momentum_looks_ahead_by_one():
    first, second = random(6, 6, seed=1), random(6, 6, seed=2)
    start = torch.zeros(6, 6)
    after = stepped(start, [first, second], lr=0.1, momentum=0.8)
    mean = 0.8 * 0.2 * first + 0.2 * second
    step = orthogonal((0.2 * second + 0.8 * mean)[None])[0] * (-0.2 * 0.1 * math.sqrt(6))
    assert torch.allclose(after - stepped(start, [first], lr=0.1, momentum=0.8), step, atol=1e-5)


def test_weight_decay_shrinks_what_has_a_gradient_of_zeros():
    moved = stepped(torch.ones(4, 4), [torch.zeros(4, 4)], lr=0.1, weight_decay=0.5)
    assert torch.allclose(moved, torch.full((4, 4), 0.95))


def test_what_has_no_gradient_stays():
    still, other = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)
    other.grad = random(4, 4)
    Muon([still, other], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still.detach(), torch.ones(4, 4))
    assert not torch.equal(other.detach(), torch.ones(4, 4))


def test_a_matrix_and_one_of_the_turned_shape_move_as_each_would_alone():
    weights = [random(6, 4).requires_grad_(), random(4, 6, seed=1).requires_grad_()]
    gradients = [random(6, 4, seed=2), random(4, 6, seed=3)]
    alone = [stepped(w.detach(), [g], lr=0.1, weight_decay=0.5) for w, g in zip(weights, gradients)]
    optimizer = Muon(weights, lr=0.1, weight_decay=0.5)
    for weight, gradient in zip(weights, gradients):
        weight.grad = gradient
    optimizer.step()
    assert all(torch.allclose(w.detach(), own, atol=1e-6) for w, own in zip(weights, alone))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"expected matrices, got a weight of shape \(4,\)"):
        Muon([torch.zeros(4)], lr=0.1)
    with pytest.raises(ValueError, match=r"momentum in \[0, 1\), got 0.1, 0.0 and 1.0"):
        Muon([torch.zeros(4, 4)], lr=0.1, momentum=1.0)
    recipe = Recipe()
    object.__setattr__(recipe, "optimizer", "sgd")  # types are checked in tests alone
    with pytest.raises(ValueError, match=r"expected optimizer one of \['adamw', 'muon'\], got 'sgd'"):
        recipe.__post_init__()


def test_hidden_matrices_are_all_of_the_blocks_and_none_that_embeds():
    names = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out")
    assert len(hidden_matrices(network())) == len(names)
    two = digit_addition(DigitAddition(n_digits=2))
    found = {id(weight) for weight in hidden_matrices(two)}
    assert found == {id(w) for n, w in two.named_parameters() if n.rpartition(".")[2] in names}
    with pytest.raises(ValueError, match="expected blocks with trained matrices"):
        hidden_matrices(torch.nn.Linear(2, 2))


def test_each_trained_weight_has_one_optimiser():
    model = network()
    model.pos_embed.W_pos.requires_grad_(False)
    stepper = Stepper(model, TASK, Recipe(optimizer="muon"))
    given = [id(weight) for group in stepper.groups() for weight in group["params"]]
    assert sorted(given) == sorted(id(weight) for weight in model.parameters() if weight.requires_grad)
    assert {id(w) for w in stepper.optimizers["muon"].param_groups[0]["params"]} == set(
        map(id, hidden_matrices(model))
    )


def test_a_network_of_nothing_but_matrices_is_trained():
    task = LinearRegression(d=3, n_test=20)
    model = linear_regression(task)
    before = [weight.clone() for weight in hidden_matrices(model)]
    fit(model, task, Recipe(steps=1, batch_size=8, optimizer="muon"))
    assert not any(torch.equal(a, b) for a, b in zip(before, hidden_matrices(model)))


def test_matrices_follow_the_schedule():
    def moved(warmup):
        model = network()
        before = torch.cat([weight.detach().flatten().clone() for weight in hidden_matrices(model)])
        Stepper(model, TASK, Recipe(optimizer="muon", lr=0.1, warmup=warmup)).step()
        return torch.cat([weight.detach().flatten() for weight in hidden_matrices(model)]) - before

    assert torch.allclose(10 * moved(10), moved(0), atol=1e-5)


def test_the_clean_up_changes_the_weight_decay_of_all_weights(monkeypatch):
    made, begin, seen = [], Stepper.__init__, []

    def keep(self, *given):
        made.append(self)
        begin(self, *given)

    monkeypatch.setattr(Stepper, "__init__", keep)
    recipe = Recipe(
        steps=6, eval_every=2, stop_at_score=0.0, cleanup_steps=2, cleanup_weight_decay=0.25,
        cleanup_eps=1e-3, optimizer="muon", weight_decay=1.0,
    )  # fmt: skip

    def look(job):
        seen.append({group["weight_decay"] for group in made[0].groups()})

    fit(network(), TASK, recipe, callbacks=[look])
    assert seen[-1] == {0.25}


def test_a_network_learns_by_it():
    model = network()
    history = fit(model, TASK, Recipe(steps=60, lr=1e-2, optimizer="muon")).history
    assert history.train_loss[-1] < history.train_loss[0] / 2
