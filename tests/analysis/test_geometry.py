"""Principal components, circles, clock and pizza, intervals: planted answers."""

import numpy as np
import pytest
import torch

from mechinterp.analysis.clock_pizza import distance_irrelevance, gradient_symmetricity
from mechinterp.analysis.geometry import axis_ratio, circularity, frequency_plane, pca
from mechinterp.analysis.statistics import bootstrap_interval, null_interval, proportion_interval


def ring(p, k, d=10, squash=1.0, seed=0):
    """Numbers on an ellipse of frequency k, in a random plane."""
    angle = 2 * torch.pi * k * torch.arange(p, dtype=torch.float64) / p
    plane = torch.linalg.qr(torch.randn(d, 2, generator=torch.Generator().manual_seed(seed)).double()).Q
    return torch.stack([angle.cos(), squash * angle.sin()], 1) @ plane.T


def test_components_recover_a_planted_axis():
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(6, generator=generator).double(), dim=0)
    x = torch.randn(500, 1, generator=generator).double() * axis * 5 + 0.1 * torch.randn(
        500, 6, generator=generator
    )
    _, axes, share = pca(x, 2)
    assert (axes[0] @ axis).abs() > 0.999
    assert share[0] > 0.98
    with pytest.raises(ValueError, match="components"):
        pca(x, 7)


@pytest.mark.parametrize("squash", [1.0, 0.5])
def test_a_planted_ellipse_is_seen_in_its_plane_with_its_axes(squash):
    embedding = ring(31, 4, squash=squash)
    assert axis_ratio(embedding, 4) == pytest.approx(squash)
    radius = frequency_plane(embedding, 4).norm(dim=1)
    assert radius.min() == pytest.approx(squash, abs=0.02)
    assert radius.max() == pytest.approx(1.0, abs=0.02)


def test_circularity_is_one_for_single_frequencies_and_small_for_noise():
    assert circularity(torch.cat([ring(31, 3), 2 * ring(31, 7)], dim=1)) == pytest.approx(1.0, abs=1e-6)
    noise = torch.randn(31, 50, generator=torch.Generator().manual_seed(0))
    assert circularity(noise) < 0.4


def test_random_embeddings_have_round_rings_too():
    noise = torch.randn(113, 128, generator=torch.Generator().manual_seed(0))
    assert np.mean([axis_ratio(noise, k) for k in range(1, 57)]) > 0.8


def test_distance_irrelevance_of_a_clock_is_one_and_of_a_function_of_distance_zero():
    p = 13
    a = torch.arange(p)
    targets = (a[:, None] + a) % p
    by_sum = torch.randn(p, generator=torch.Generator().manual_seed(0))
    logits = torch.zeros(p, p, p)
    clock = logits.scatter(2, targets[..., None], by_sum[targets][..., None])
    assert distance_irrelevance(clock, targets) == pytest.approx(1.0)
    by_distance = by_sum[(a[:, None] - a) % p]
    assert distance_irrelevance(logits.scatter(2, targets[..., None], by_distance[..., None]), targets) < 1e-6
    with pytest.raises(ValueError, match="odd"):
        distance_irrelevance(torch.randn(4, 4, 4), torch.zeros(4, 4, dtype=torch.long))


def test_gradients_are_symmetric_for_a_sum_of_embeddings_and_not_for_one_alone():
    embedding = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    readout = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    of_the_sum = gradient_symmetricity(lambda x: x.sum(1).tanh() @ readout, embedding)
    assert of_the_sum.min() == pytest.approx(1.0, abs=1e-5)
    of_a_product = gradient_symmetricity(lambda x: (x[:, 0] * x[:, 1]) @ readout, embedding)
    assert of_a_product.mean().abs() < 0.6


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(200):
        low, high = bootstrap_interval(rng.normal(size=40), draws=400, seed=draw)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99
    low, high = proportion_interval(100, 100)
    assert low == pytest.approx(0.025 ** (1 / 100))
    assert high == 1.0
    assert null_interval(np.arange(101)).tolist() == pytest.approx([2.5, 97.5])
