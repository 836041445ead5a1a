"""Ridge of many cells at once: scikit-learn's answers, the laws of leave-one-out, and planted directions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as OneRidge
from sklearn.linear_model import RidgeCV

from mechinterp.analysis.probes import fit_ridge
from mechinterp.analysis.probes.ridge import PENALTIES, _left_out_error, fit_cells
from mechinterp.analysis.probes.scores import r_squared

ALPHAS = np.array(PENALTIES)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def data(n, d, targets, cells=3, noise=0.5, dtype=torch.float32, seed=0):
    """Activations with a mean and unequal axes, and targets that lie in them with noise."""
    x = normal(cells, n + 40, d, seed=seed, dtype=dtype) * torch.logspace(-1.5, 0.5, d, dtype=dtype) + 3
    y = x[0] @ normal(d, targets, seed=seed + 1, dtype=dtype) + noise * normal(n + 40, targets, dtype=dtype)
    return x[:, :n], y[:n].double(), x[:, n:], y[n:].double()


def in_a_loop(x, y, new, **settings):
    """Predictions and penalties of scikit-learn, one fit a cell."""
    fits = [RidgeCV(ALPHAS, **settings).fit(each.numpy(), y.numpy()) for each in x]
    predicted = np.stack([fit.predict(each.numpy()).reshape(len(each), -1) for fit, each in zip(fits, new)])
    return predicted, np.stack([np.broadcast_to(fit.alpha_, y.shape[1:]) for fit in fits])


SHAPES = {
    "n > d": (200, 16),
    "n < d": (30, 64),
    "n = d": (32, 32),
    "n = d + 1": (33, 32),
    "n = d + 2": (34, 32),
}


@pytest.mark.parametrize(("n", "d"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("targets", [1, 5])
@pytest.mark.parametrize("noise", [1e-3, 20.0])
def test_it_is_ridge_cv_in_a_loop(n, d, targets, noise):
    x, y, new, truth = data(n, d, targets, noise=noise)
    predicted, penalty = fit_ridge(x, y[None], new)
    expected, alphas = in_a_loop(x, y, new, alpha_per_target=True)
    np.testing.assert_allclose(penalty, alphas)
    ours, theirs = (
        r_squared(torch.as_tensor(p)[..., None], truth[None, ..., None]) for p in (predicted, expected)
    )
    assert (ours - theirs).abs().max() < 1e-4


def test_targets_can_share_a_penalty_as_ridge_cv_does_by_default():
    x, y, new, _ = data(200, 16, 5, noise=20.0)
    predicted, penalty = fit_ridge(x, y[None], new, together=5)
    expected, alphas = in_a_loop(x, y, new)
    np.testing.assert_allclose(penalty, alphas)
    np.testing.assert_allclose(predicted, expected, atol=1e-4)
    assert (penalty == penalty[:, :1]).all()


def test_the_penalty_is_the_one_with_the_least_left_out_error():
    x, y, _, _ = data(25, 6, 1, cells=1, noise=10.0, dtype=torch.float64)
    left_out = [
        np.mean([
            (OneRidge(alpha=a).fit(np.delete(x[0], i, 0), np.delete(y[:, 0], i)).predict(x[0, i : i + 1])
             - y[i].numpy()).item() ** 2 for i in range(25)
        ]) for a in ALPHAS
    ]  # fmt: skip
    _, penalty = fit_ridge(x, y[None], x)
    assert penalty.item() == ALPHAS[np.argmin(left_out)]


@pytest.mark.parametrize("n", [60, 20])
def test_activations_of_low_rank_and_large_scale_are_fitted_as_scikit_learn_does(n):
    x = 1e3 * normal(2, n + 40, 4, dtype=torch.float64) @ normal(4, 32, seed=1, dtype=torch.float64)
    y = x[0, :, :1] / 1e3 + 0.1 * normal(n + 40, 1, seed=2, dtype=torch.float64)
    predicted, _ = fit_ridge(x[:, :n], y[None, :n], x[:, n:])
    expected, _ = in_a_loop(x[:, :n], y[:n], x[:, n:])
    np.testing.assert_allclose(predicted, expected, atol=1e-3)  # scikit-learn's own rounding is 1e-4 here


def test_a_planted_direction_is_read_and_noise_is_not():
    y = normal(600, 1, seed=3)
    x = normal(2, 600, 20)
    x[1] += y * normal(20, seed=4)
    predicted, _ = fit_ridge(x[:, :450], y[None, :450].double(), x[:, 450:])
    score = r_squared(predicted[..., None], y[450:, :, None].double())
    assert score[0].abs() < 0.1
    assert score[1] > 0.9


def test_each_cell_can_have_its_own_targets_and_one_cell_can_serve_all():
    x, _, new, _ = data(80, 8, 1)
    y = normal(3, 80, 2, seed=5, dtype=torch.float64)
    together, _ = fit_ridge(x, y, new)
    alone = torch.cat([fit_ridge(x[i : i + 1], y[i : i + 1], new[i : i + 1])[0] for i in range(3)])
    torch.testing.assert_close(together, alone)
    same, _ = fit_ridge(x[:1], y, new[:1])
    torch.testing.assert_close(same[2:], fit_ridge(x[:1], y[2:], new[:1])[0])


def test_many_cells_and_columns_in_runs_are_as_few(monkeypatch):
    x, y, new, _ = data(40, 6, 6, cells=9)
    whole = fit_ridge(x, y[None], new, together=2)
    monkeypatch.setattr("mechinterp.analysis.probes.ridge._MOST", 40 * 7 * 3)
    threads = torch.get_num_threads()
    torch.testing.assert_close(fit_ridge(x, y[None], new, together=2), whole)
    assert torch.get_num_threads() == threads


def test_penalties_must_be_positive_and_columns_divide_into_runs():
    x, y, new, _ = data(20, 3, 3)
    with pytest.raises(ValueError, match=r"expected positive penalties, got \[0.0\]"):
        fit_ridge(x, y[None], new, [0.0])
    with pytest.raises(ValueError, match="runs of 2, got 3 columns"):
        fit_ridge(x, y[None], new, together=2)


@pytest.mark.parametrize(("inputs", "d"), [(40, 8), (20, 40)])
def test_equal_rows_are_left_out_together(inputs, d):
    token = torch.randint(inputs, (150,), generator=torch.Generator().manual_seed(0))
    x = normal(inputs, d, dtype=torch.float64)[token]
    y = normal(150, 1, seed=1, dtype=torch.float64) + x[:, :1]
    errors = []
    for alpha in ALPHAS:
        missed = [
            (OneRidge(alpha=alpha).fit(x[token != one], y[token != one, 0]).predict(x[token == one])
             - y[token == one, 0].numpy()) ** 2 for one in token.unique()
        ]  # fmt: skip
        errors.append(np.concatenate(missed).sum())
    _, penalty, _ = fit_cells(x[None], y[None], x[None], PENALTIES, 1, False, token)
    assert penalty.item() == ALPHAS[np.argmin(errors)]
    u, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    shrunk = 1 / (s[:, None] ** 2 + torch.tensor(ALPHAS))
    centred = y - y.mean()
    ours = _left_out_error(u * s, shrunk, centred, v @ (x - x.mean(0)).mT @ centred, token)
    np.testing.assert_allclose(ours[0], errors, rtol=1e-8)
