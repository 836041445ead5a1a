"""Fourier analysis: the laws of the transform, and planted frequencies found again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechinterp.analysis.fourier import (
    fourier_basis,
    frequency_power,
    gini,
    key_frequencies,
    pair_frequency_share,
    project_sum_frequencies,
    trigonometric_share,
)
from mechinterp.analysis.progress import excluded, random_frequencies, restricted

PRIMES = (5, 7, 13, 31)


def cosine_logits(p, amplitudes, sign=1):
    """Logits sum_k alpha_k cos(2 pi k (a + b - c) / p)."""
    x = torch.arange(p, dtype=torch.float64)
    phase = 2 * torch.pi / p * (x[:, None, None] + sign * x[:, None] - x)
    return sum(alpha * (k * phase).cos() for k, alpha in amplitudes.items())


@pytest.mark.parametrize("p", [2, 3, 8, 13])
def test_the_basis_is_orthonormal_and_complete(p):
    basis = fourier_basis(p)
    torch.testing.assert_close(basis @ basis.T, torch.eye(p, dtype=torch.float64))


@given(p=st.integers(3, 40), seed=st.integers(0, 5))
@settings(deadline=None)
def test_powers_sum_to_the_energy(p, seed):
    x = torch.randn(p, 3, generator=torch.Generator().manual_seed(seed)).double()
    constant = x.sum(0) ** 2 / p
    torch.testing.assert_close(frequency_power(x).sum(0) + constant, (x**2).sum(0))


@pytest.mark.parametrize("p", [8, 13])
def test_each_frequency_up_to_the_last_is_seen_as_itself(p):
    x = torch.arange(p, dtype=torch.float64)
    for k in range(1, p // 2 + 1):
        power = frequency_power((2 * torch.pi * k * x / p + 0.3).cos())
        assert power.argmax() + 1 == k
        assert power[k - 1] / power.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("p", PRIMES)
def test_planted_frequencies_come_back_with_their_shares(p):
    planted = {1: 2.0, (p - 1) // 2: 3.0}
    shares = trigonometric_share(cosine_logits(p, planted) + torch.randn(p, p, 1))
    assert key_frequencies(shares).tolist() == sorted(planted)
    assert shares[0] == pytest.approx(4 / 13)
    assert shares.sum() == pytest.approx(1.0)


def test_logits_of_a_difference_are_not_trigonometric_in_the_sum():
    assert trigonometric_share(cosine_logits(13, {2: 1.0}, sign=-1)).sum() == pytest.approx(0.0, abs=1e-20)


def test_a_unit_of_one_frequency_has_share_one_and_noise_little():
    p = 31
    x = torch.arange(p, dtype=torch.float64)
    angle = 2 * torch.pi * 4 * x / p
    planted = (angle[:, None].cos() + (angle + 1.0).sin() + angle[:, None].sin() * angle.cos() + 7.0)[
        ..., None
    ]
    share = pair_frequency_share(planted)
    assert share[3, 0] == pytest.approx(1.0)
    noise = pair_frequency_share(torch.randn(p, p, 50, generator=torch.Generator().manual_seed(0)))
    assert noise.max() < 0.05
    assert pair_frequency_share(torch.ones(p, p, 1)).sum() == 0


def test_gini_of_equal_of_one_and_of_a_known_case():
    assert gini(torch.ones(10)).item() == pytest.approx(0.0)
    assert gini(torch.eye(10)[0]).item() == pytest.approx(0.9)
    assert gini(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match="Gini"):
        gini(torch.tensor([1.0, -1.0]))


def test_restricting_keeps_the_frequency_and_excluding_removes_it():
    p, keys = 13, torch.tensor([2, 5])
    logits = cosine_logits(p, {2: 4.0, 5: 3.0})
    noise = torch.randn(p, p, p, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(restricted(logits, keys), logits)
    assert excluded(logits, keys).abs().max() < 1e-12
    other = torch.tensor([1, 3])
    assert project_sum_frequencies(logits, other).abs().max() < 1e-12
    torch.testing.assert_close(excluded(logits + noise, keys), excluded(noise, keys))
    twice = project_sum_frequencies(project_sum_frequencies(noise, keys), keys)
    torch.testing.assert_close(twice, project_sum_frequencies(noise, keys))


def test_random_frequencies_avoid_the_key_ones_and_are_all_that_is_left_where_few_are():
    for chosen in random_frequencies(13, 2, [1, 4], draws=20):
        assert len(set(chosen.tolist())) == 2
        assert not {1, 4} & set(chosen.tolist())
    assert [sorted(chosen.tolist()) for chosen in random_frequencies(13, 3, [1, 2, 3, 4], draws=2)] == [
        [5, 6]
    ] * 2
    assert random_frequencies(5, 2, [1, 2], draws=3) == []
