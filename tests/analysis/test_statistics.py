"""Intervals cover, tests keep their level, and each meets a case worked out by hand."""

import numpy as np
import pytest
import torch

from mechinterp.analysis import statistics as s


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sign_flips_of_three_equal_effects_are_worked_out_by_hand():
    # Of 8 sign patterns two reach the observed sum, +++ and ---.
    assert s.sign_flip_p_values(torch.ones(3, 1, dtype=torch.float64)).item() == 2 / 8


def test_no_effect_has_p_1():
    assert (s.sign_flip_p_values(torch.zeros(20, 4)) == 1).all()


@pytest.mark.parametrize("n", [8, 40])
def test_the_sign_flip_test_keeps_its_level(n):
    p = s.sign_flip_p_values(normal(n, 4000))
    assert 0.035 < (p <= 0.05).double().mean() < 0.06


def test_the_sign_flip_test_finds_an_effect():
    assert s.sign_flip_p_values(normal(30, 1) + 2).item() < 0.001


def test_bootstrap_intervals_of_means_cover():
    low, high = s.bootstrap_means(normal(60, 1000))
    assert 0.91 < ((low <= 0) & (high >= 0)).double().mean() < 0.97


def test_bootstrap_of_one_column_agrees_with_the_plain_one():
    x = normal(50)
    low, high = s.bootstrap_means(x[:, None], draws=4000)
    plain = s.bootstrap_interval(x.numpy(), draws=4000, seed=1)
    np.testing.assert_allclose((low.item(), high.item()), plain, atol=0.03)


def test_benjamini_hochberg_of_a_textbook_case():
    adjusted = s.benjamini_hochberg([0.01, 0.02, 0.03, np.nan, 0.5])
    np.testing.assert_allclose(adjusted, [0.04, 0.04, 0.04, np.nan, 0.5])


def test_benjamini_hochberg_holds_the_false_discovery_rate():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(300):
        p = rng.uniform(size=100)
        p[:10] = 1e-6
        found = s.benjamini_hochberg(p) <= 0.05
        rates.append(found[10:].sum() / max(1, found.sum()))
    assert np.mean(rates) < 0.05


def test_the_observed_value_counts_in_its_null():
    assert s.permutation_p_value(5.0, [0, 1, 2]) == 1 / 4
    assert s.permutation_p_value(-5.0, [0, 1, 2], "less") == 1 / 4
    assert s.permutation_p_value(5.0, [0, 1, 2], "two-sided") == 2 / 4
    with pytest.raises(ValueError, match="alternative"):
        s.permutation_p_value(0.0, [1.0], "both")


def test_the_interval_over_seeds_is_students():
    low, high = s.seeds_interval([1.0, 2.0, 3.0])
    assert (low + high) / 2 == pytest.approx(2)
    assert (high - low) / 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize("call", [s.sign_flip_p_values, s.bootstrap_means])
def test_one_example_says_nothing(call):
    with pytest.raises(ValueError, match="at least 2"):
        call(torch.ones(1, 3))
