"""Linear regression in context: the closed forms against many prompts, and prompts as they should be."""

from dataclasses import replace

import pytest
import torch

from mechinterp.tasks import LinearRegression
from mechinterp.tasks.regression_methods import descent

SHAPE = ((1.0, 0.3, 0.0), (0.3, 2.0, 0.0), (0.0, 0.0, 0.5))


def mean_errors(n=20_000, **fields):
    task = LinearRegression(n_test=n, **fields)
    batch = task.dataset("test")
    return task, task.measures(torch.zeros(n, 1, 1), batch)


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({"d": 5, "n_context": 10}, 1.875),
        ({"d": 5, "n_context": 50}, 0.536),
        ({"d": 10, "n_context": 10}, 5.238),
        ({"d": 20, "n_context": 40}, 6.885),
        ({"d": 5, "n_context": 5, "max_context": 50}, 1.198),
        ({"d": 10, "n_context": 5, "max_context": 50}, 3.662),
        ({"d": 20, "n_context": 5, "max_context": 50}, 10.49),
    ],
)
def test_the_loss_of_one_step_is_the_published_one(fields, loss):
    assert LinearRegression(**fields).one_step_loss == pytest.approx(loss, abs=6e-4 * max(1, loss))


@pytest.mark.parametrize(
    "fields",
    [
        {"d": 5, "n_context": 10},
        {"d": 4, "n_context": 2, "max_context": 9, "noise": 0.5},
        {"d": 3, "n_context": 8, "noise": 0.5, "w_scale": 2.0, "x_scale": 1.5, "covariance": SHAPE},
    ],
)
def test_closed_forms_are_what_many_prompts_give(fields):
    task = LinearRegression(n_test=20_000, **fields)
    batch = task.dataset("test")
    errors = task.measures(torch.zeros(20_000, 1, 1), batch)
    assert errors["mse"] == pytest.approx(task.variance, rel=0.06)
    assert errors["mse_gd"] == pytest.approx(task.one_step_loss, rel=0.06)
    assert errors["mse_ridge"] <= errors["mse_ols"] * 1.001
    for rate in (0.9, 1.1):  # any other rate is worse
        other = rate * batch.variables["gd"] - batch.targets
        assert (other**2).mean() > errors["mse_gd"]


def test_least_squares_are_exact_without_noise_and_of_least_norm_with_few_examples():
    _, errors = mean_errors(100, d=4, n_context=4)
    assert errors["mse_ols"] < 1e-4
    _, few = mean_errors(20_000, d=20, n_context=5, max_context=50)
    assert few["mse_ols"] == pytest.approx(2.609, rel=0.05)


@pytest.mark.parametrize("tokens", ["joint", "separate"])
def test_prompts_hold_what_they_say(tokens):
    task = LinearRegression(d=3, n_context=2, max_context=6, tokens=tokens, n_test=50)
    batch = task.dataset("test")
    assert batch.inputs.shape == (50, task.n_ctx, 4)
    k, w = batch.variables["k"], batch.variables["w"]
    assert sorted(k.unique().tolist()) == [2, 3, 4, 5, 6]
    assert not bool(batch.mask[:, -1].any())
    assert torch.equal(batch.mask.sum(1), k * (1 if tokens == "joint" else 2))
    assert not bool(batch.inputs[:, :-1][~batch.mask[:, :-1]].any())
    x, y = batch.inputs[:, :-1, :3], batch.inputs[:, :-1, 3]
    x, y = (x, y) if tokens == "joint" else (x[:, ::2], y[:, 1::2])
    torch.testing.assert_close((x @ w[..., None])[..., 0], y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((batch.inputs[:, -1, :3] * w).sum(1), batch.targets[:, 0])
    assert not bool(batch.inputs[:, -1, 3].any())


def test_splits_differ_and_seeds_are_kept():
    task = LinearRegression(n_test=20)
    assert torch.equal(task.dataset("test").inputs, task.dataset("test").inputs)
    assert not torch.equal(task.dataset("test").inputs, task.dataset("train").inputs)
    fresh = task.sample(20, torch.Generator().manual_seed(0), variables=False)
    assert fresh.inputs.shape == task.dataset("test").inputs.shape
    assert not fresh.variables


def test_a_batch_mixes_all_numbers_of_examples():
    task = LinearRegression(d=2, n_context=3, max_context=12)
    k = task.sample(400, torch.Generator().manual_seed(0)).variables["k"]
    counts = k.bincount()[3:]
    assert len(counts) == 10
    assert int(counts.min()) >= 30


def test_queries_share_examples_and_are_answered_each():
    task = LinearRegression(d=3, n_context=7, n_queries=4, n_test=30)
    batch = task.dataset("test")
    assert batch.read == (-4, -3, -2, -1)
    query = batch.inputs[:, -4:, :3]
    torch.testing.assert_close((query @ batch.variables["w"][..., None])[..., 0], batch.targets)
    torch.testing.assert_close((query @ batch.variables["w_gd"][..., None])[..., 0], batch.variables["gd"])
    torch.testing.assert_close(batch.variables["ols"], batch.targets, rtol=1e-3, atol=1e-3)


def test_tokens_may_be_wider_than_x():
    batch = LinearRegression(d=2, n_context=4, width=5, n_test=10).dataset("test")
    assert batch.inputs.shape[-1] == 6
    assert not batch.inputs[..., 2:5].any()
    assert batch.inputs[:, :-1, -1].any()


def test_the_query_may_be_a_key():
    assert LinearRegression(query_is_key=True, n_test=4).dataset("test").mask.all()


def test_no_examples_leave_the_bare_query():
    task = LinearRegression(d=2, n_context=3)
    batch = task.prompts(torch.zeros(5, dtype=torch.long), torch.Generator().manual_seed(0))
    assert batch.inputs.shape == (5, 1, 3)
    assert not any(batch.variables[name].any() for name in ("gd", "ols", "ridge"))


def test_a_curriculum_ends_with_the_whole_task():
    task = LinearRegression(n_context=5, max_context=50)
    stages = task.stages(4)
    assert [stage.longest for stage in stages] == [15, 27, 38, 50]
    assert stages[-1] == task
    with pytest.raises(ValueError, match="1 to 46 stages"):
        task.stages(47)


def test_the_best_matrix_beats_the_best_rate_where_x_is_shaped():
    shaped = LinearRegression(d=3, n_context=8, covariance=SHAPE)
    plain = LinearRegression(d=3, n_context=8)
    assert shaped.one_layer_loss < 0.99 * shaped.one_step_loss
    assert plain.one_layer_loss == pytest.approx(plain.one_step_loss)
    torch.testing.assert_close(plain.preconditioner, plain.best_rate * torch.eye(3).double())


def test_numbers_that_are_not_finite_are_refused():
    task = LinearRegression(d=2, n_context=3)
    x, y = torch.zeros(4, 3, 2), torch.full((4, 3), torch.nan)
    with pytest.raises(ValueError, match="finite examples"):
        task.batch(x, y, torch.zeros(4, 1, 2), torch.zeros(4, 2))


def test_scores():
    task = LinearRegression(n_test=500)
    batch = task.dataset("test")
    assert task.score(batch.targets[..., None], batch) == 1.0
    assert task.score(torch.zeros(500, 1, 1), batch) == pytest.approx(task.trivial, abs=0.1)
    assert task.score(batch.variables["gd"][..., None], batch) > task.learned_at


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d": 0}, "d >= 1"),
        ({"n_context": 0}, "n_context >= 1"),
        ({"n_queries": 0}, "n_queries >= 1"),
        ({"n_queries": 2, "query_is_key": True}, "one query where it is a key"),
        ({"d": 4, "width": 3}, "width >= d"),
        ({"n_context": 9, "max_context": 4}, "max_context >= n_context"),
        ({"noise": -0.1}, "noise >= 0"),
        ({"noise": float("nan")}, "noise >= 0"),
        ({"x_scale": 0.0}, "x_scale"),
        ({"tokens": "both"}, "tokens joint or separate"),
        ({"d": 2, "covariance": SHAPE}, "covariance of 2 rows"),
        ({"d": 2, "covariance": ((1.0, 2.0), (2.0, 1.0))}, "eigenvalues are positive"),
        ({"d": 1, "covariance": ((float("nan"),),)}, "symmetric covariance"),
    ],
)  # fmt: skip
def test_wrong_tasks_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LinearRegression(**fields)


@pytest.mark.parametrize("fields", [{"d": 50, "n_context": 1}, {"d": 20, "n_context": 1}, {"noise": 20.0}])
def test_a_network_that_answers_0_has_never_learned(fields):
    for seed in range(10):
        task = LinearRegression(**fields, seed=seed, n_test=512)
        batch = task.dataset("test")
        score = task.score(torch.zeros(512, 1, 1), batch)
        assert score == pytest.approx(0, abs=1e-12)
        assert score < task.learned_at


@pytest.mark.parametrize("noise", [1e-10, 1e-8, 1e-7, 1e-6])
def test_bayes_with_hardly_any_noise_is_least_squares(noise):
    batch = LinearRegression(d=5, n_context=3, noise=noise).dataset("test")
    torch.testing.assert_close(batch.variables["ridge"], batch.variables["ols"], atol=1e-4, rtol=1e-4)


def test_the_loss_of_a_step_is_known_at_every_rate_and_number_of_examples():
    skewed = ((2.0, 0.5), (0.5, 1.0))
    task = LinearRegression(d=2, n_context=6, noise=0.7, covariance=skewed, w_scale=1.5)
    assert task.step_loss(task.best_rate, 6) == pytest.approx(task.one_step_loss)
    batch = replace(task, n_test=200_000).dataset("test")
    x, y, query = batch.inputs[:, :-1, :2], batch.inputs[:, :-1, -1], batch.inputs[:, -1, :2]
    for rate in (0.1, 0.5):
        answers = (query.double() * descent(x, y, 6, [rate])).sum(-1)
        errors = (answers - batch.targets[:, 0].double()).square()
        apart = errors.mean() - task.step_loss(rate, 6)
        assert abs(float(apart)) < 4 * float(errors.std()) / 200_000**0.5


BAD_COVARIANCES = {
    "ragged": (((1.0, 0.0), (0.0,)), "2 rows of 2 numbers"),
    "flat": (((1.0,),), "2 rows of 2 numbers"),
    "nan": (((float("nan"), 0.0), (0.0, 1.0)), "a finite, symmetric covariance"),
    "skew": (((1.0, 0.5), (0.0, 1.0)), "a finite, symmetric covariance"),
}


@pytest.mark.parametrize("name", BAD_COVARIANCES)
def test_what_is_no_covariance_is_refused(name):
    covariance, message = BAD_COVARIANCES[name]
    with pytest.raises(ValueError, match=message):
        LinearRegression(d=2, covariance=covariance)


def test_a_mean_over_keys_with_the_query_loses_less_where_prompts_differ_in_length():
    fields = {"d": 5, "n_context": 5, "max_context": 50}
    alone, with_query = (LinearRegression(**fields, query_is_key=also) for also in (False, True))
    assert alone.one_layer_loss / alone.variance == pytest.approx(0.2396, abs=2e-4)
    assert with_query.one_layer_loss / with_query.variance == pytest.approx(0.2308, abs=2e-4)
    batch = replace(with_query, n_test=40_000).dataset("test")  # the best of all rates, on the same prompts
    of_examples, y = (x.flatten().double() for x in (batch.variables["gd"], batch.targets))
    of_keys = of_examples * batch.variables["k"] / (batch.variables["k"] + 1)
    least = [(y - (z @ y) / (z @ z) * z).square().mean() for z in (of_examples, of_keys)]
    assert least[1] / least[0] == pytest.approx(0.2308 / 0.2396, abs=0.005)
    one = [LinearRegression(d=5, n_context=9, query_is_key=also).one_layer_loss for also in (False, True)]
    assert one[0] == pytest.approx(one[1])
