"""Steps of gradient descent written into weights: their answers, and their losses against closed forms."""

import pytest
import torch

from mechinterp.constructions import best_steps, linear_regression
from mechinterp.constructions.linear_regression import Designs
from mechinterp.tasks import LinearRegression
from mechinterp.tasks.regression_methods import descent, least_norm, ridge

SHAPE = ((1.0, 0.3, 0.0), (0.3, 2.0, 0.0), (0.0, 0.0, 0.5))
TASKS = {
    "plain": {"d": 5, "n_context": 10},
    "many lengths": {"d": 3, "n_context": 2, "max_context": 9, "noise": 0.5},
    "shaped": {"d": 3, "n_context": 8, "noise": 0.5, "w_scale": 2.0, "x_scale": 1.5, "covariance": SHAPE},
    "padded": {"d": 3, "n_context": 8, "width": 6},
}


def answers(model, task, batch):
    with torch.no_grad():
        return task.outputs(model, batch)[..., 0].double()


def examples(task, batch):
    tokens = batch.inputs[:, : -task.n_queries].double()
    return tokens[..., : task.d], tokens[..., -1], batch.variables["k"]


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_the_loss_of_the_optimum_is_its_closed_form(fields):
    task = LinearRegression(**fields, n_test=20_000)
    batch = task.dataset("test")
    errors = (answers(linear_regression(task), task, batch) - batch.targets).square().mean(1)
    error = errors.std().item() / len(errors) ** 0.5
    assert abs(errors.mean().item() - task.one_layer_loss) < 4 * error


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_no_layer_near_the_optimum_is_better(fields):
    task = LinearRegression(**fields, n_test=20_000)
    batch = task.dataset("test")
    x, y, k = examples(task, batch)
    query = batch.inputs[:, -1, : task.d].double()

    def loss(matrix):
        w = descent(x, y, k, [1.0], precondition=matrix)
        return ((w * query).sum(1) - batch.targets[:, 0]).square().mean().item()

    best = loss(task.preconditioner)
    for seed in range(4):
        step = torch.randn(task.d, task.d, generator=torch.Generator().manual_seed(seed)).double()
        assert loss(task.preconditioner + 0.1 * task.best_rate * (step + step.mT)) > best


@pytest.mark.parametrize("curvatures", [None, [0.2, 0.1, 0.0]], ids=["descent", "GD++"])
@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_layers_answer_as_the_steps_do(fields, curvatures):
    task = LinearRegression(**fields, n_test=50, n_queries=2)
    batch, rates = task.dataset("test"), [0.4, 0.3, 0.1]
    matrix = torch.diag(torch.linspace(0.5, 1.0, task.d).double())
    model = linear_regression(task, rates, curvatures, matrix, dtype=torch.float64)
    w = descent(*examples(task, batch), rates, curvatures, matrix)
    asked = batch.inputs[:, -2:, : task.d].double()
    double = torch.float64
    given = model(batch.inputs.to(double), read=batch.read, attention_mask=batch.mask)[..., 0]
    torch.testing.assert_close(given, (asked @ w[..., None])[..., 0], rtol=1e-6, atol=1e-7)


def test_descent_goes_to_least_squares():
    x, y = torch.randn(4, 30, 3), torch.randn(4, 30)
    steps = descent(x, y, 30, [0.5] * 200)
    torch.testing.assert_close(steps, least_norm(x, y), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ridge(x, y, 1e-9), least_norm(x, y), rtol=1e-5, atol=1e-6)


def test_without_examples_the_answer_is_of_least_norm():
    empty = torch.zeros(2, 0, 3), torch.zeros(2, 0)
    assert not least_norm(*empty).any()
    assert not ridge(*empty, 0.5).any()
    assert not descent(*empty, 0, [0.5]).any()


def test_with_fewer_examples_than_dimensions_the_solution_has_least_norm():
    x, w = torch.randn(5, 2, 6), torch.randn(5, 6)
    y = (x @ w[..., None])[..., 0]
    found = least_norm(x, y)
    torch.testing.assert_close((x.double() @ found[..., None])[..., 0], y.double(), rtol=1e-5, atol=1e-5)
    assert bool((found.norm(dim=1) <= w.norm(dim=1)).all())


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("fields", [TASKS["plain"], TASKS["shaped"]], ids=["plain", "shaped"])
def test_the_loss_of_steps_is_what_prompts_give(fields, curved):
    task = LinearRegression(**fields)
    rates, gammas = torch.tensor([0.2, 0.1]).double(), torch.tensor([0.05, 0.0]).double() * curved
    exact = Designs.draw(task, 20_000).loss(rates, gammas).item()
    batch = task.sample(20_000, torch.Generator().manual_seed(5))
    w = descent(*examples(task, batch), rates, gammas if curved else None)
    query = batch.inputs[:, -1, : task.d].double()
    errors = ((w * query).sum(1) - batch.targets[:, 0]).square()
    assert abs(errors.mean().item() - exact) < 5 * errors.std().item() / len(errors) ** 0.5


def test_best_steps_find_the_known_best_and_more_are_better():
    task = LinearRegression(d=5, n_context=10)
    one, two, curved = (
        best_steps(task, steps, curved=bent, n=4000) for steps, bent in ((1, False), (2, False), (2, True))
    )
    assert one.rates[0] == pytest.approx(task.best_rate, rel=0.02)
    assert one.loss == pytest.approx(task.one_layer_loss, rel=0.05)
    assert curved.loss < two.loss < 0.7 * one.loss


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ({}, {"rates": []}, "a finite rate and curvature for each step"),
        ({}, {"rates": [0.1], "curvatures": [0.1, 0.2]}, "a finite rate and curvature for each step"),
        ({}, {"curvatures": [0.1]}, "rates beside curvatures"),
        ({}, {"rates": [0.1], "precondition": torch.eye(2)}, "symmetric preconditioner"),
        ({}, {"rates": [0.1], "precondition": torch.ones(3, 3).triu()}, "symmetric preconditioner"),
        ({"query_is_key": True}, {}, "a query that is no key"),
        ({"tokens": "separate"}, {}, "joint tokens"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, settings, message):
    with pytest.raises(ValueError, match=message):
        linear_regression(LinearRegression(d=3, n_context=4, **fields), **settings)


def test_what_cannot_be_solved_is_refused():
    x, y = torch.zeros(2, 3, 4), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="finite examples"):
        least_norm(x, y.fill_(torch.nan))
    with pytest.raises(ValueError, match="y of shape"):
        ridge(x, torch.zeros(2, 4), 1.0)
    with pytest.raises(ValueError, match="penalty >= 0"):
        ridge(x, torch.zeros(2, 3), -1.0)
    with pytest.raises(ValueError, match="at least 1 step"):
        best_steps(LinearRegression(), 0)
