"""Principal components, circles, clock and pizza, spectra, rank collapse, intervals: planted answers."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.clock_pizza import distance_irrelevance, gradient_symmetricity
from mechinterp.analysis.geometry import (
    axis_ratio,
    circularity,
    frequency_plane,
    participation_ratio,
    pca,
    random_singular_values,
    spectrum,
)
from mechinterp.analysis.jackknife import jackknife_interval
from mechinterp.analysis.rank_collapse import rank_collapse, residual_share
from mechinterp.analysis.statistics import (
    bootstrap_interval,
    null_interval,
    proportion_interval,
    seeds_interval,
)
from mechinterp.models import HookedTransformer, TransformerConfig


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
    assert null_interval(np.arange(1, 100)).tolist() == pytest.approx([2.5, 97.5])


def cloud(n, deviations, seed=0):
    """Vectors with given standard deviations along random orthogonal axes."""
    generator = torch.Generator().manual_seed(seed)
    d = len(deviations)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator).double()).Q
    return torch.randn(n, d, generator=generator).double() * torch.tensor(deviations).double() @ axes + 3


@pytest.mark.parametrize("k", [1, 3, 10])
def test_k_equal_directions_have_a_participation_ratio_of_k(k):
    variances = torch.cat([torch.full((k,), 2.5), torch.zeros(20 - k)])
    assert participation_ratio(variances) == pytest.approx(k)
    assert participation_ratio(torch.stack([variances, 7 * variances])).tolist() == pytest.approx([k, k])


def test_variances_that_are_none_have_no_participation_ratio():
    for bad in (torch.zeros(3), torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="expected variances >= 0, not all zero"):
            participation_ratio(bad)


def test_singular_values_of_a_flat_cloud_stand_above_random_ones_and_then_below():
    result = spectrum(cloud(300, [1.0] * 4 + [0.05] * 16), draws=20)
    low, high = result.extra["null"].values
    assert (result.values[:4] > high[:4]).all()
    assert (result.values[4:] < low[4:]).all()
    assert result.provenance["participation ratio"] == pytest.approx(4, abs=0.2)
    assert result.interval[0] < 4.1 < result.interval[1] + 0.1
    total = float((result.values**2).sum())
    assert total == pytest.approx(20 * result.trivial**2)


def test_noise_has_the_singular_values_of_noise():
    result = spectrum(cloud(200, [1.0] * 15), draws=50)
    low, high = result.extra["null"].values
    inside = (result.values.values > low) & (result.values.values < high)
    assert inside.mean() > 0.7


@pytest.mark.parametrize(("n", "d"), [(30, 6), (6, 30), (8, 8)])
def test_random_singular_values_are_those_of_normal_matrices(n, d):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.linalg.svdvals(torch.randn(2000, n, d, generator=generator).double())
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    found = random_singular_values(n, d, 2000)
    assert found.mean(0) == pytest.approx(drawn.mean(0).numpy(), abs=0.006)
    assert found.std(0) == pytest.approx(drawn.std(0).numpy(), abs=0.006)


def test_intervals_of_participation_ratios_cover_the_truth_where_a_bootstrap_does_not():
    deviations = np.linspace(1.0, 0.2, 10)
    truth = participation_ratio(torch.tensor(deviations**2)).item()
    covered = boot = 0
    for seed in range(100):
        x = cloud(120, deviations, seed)

        def ratio(rows, x=x):
            return participation_ratio(torch.linalg.eigvalsh(x[rows].mT.cov()).clamp(min=0)).item()

        low, high = jackknife_interval(ratio, len(x), seed=seed)
        covered += low <= truth <= high
        if seed < 20:
            resampled = [ratio(torch.randint(120, (120,))) for _ in range(50)]
            boot += np.quantile(resampled, 0.025) <= truth <= np.quantile(resampled, 0.975)
    assert 0.87 <= covered / 100 <= 1.0
    assert boot / 20 < 0.6


def test_a_jackknifed_mean_has_the_interval_of_the_mean():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0)).double()
    found = jackknife_interval(lambda rows: values[rows].mean().item(), 20)
    assert found == pytest.approx(seeds_interval(values))
    with pytest.raises(ValueError, match="at least 3 examples"):
        jackknife_interval(lambda rows: 0.0, 2)


def test_weights_have_a_spectrum_without_an_interval():
    weights = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    result = spectrum(weights, centre=False, sampled=False, provenance={"matrix": "W_E"}, draws=5)
    assert result.values.values.tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert result.interval is None
    assert result.provenance["matrix"] == "W_E"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.randn(2, 4), "at least 3 finite vectors"),
        (torch.full((5, 4), float("nan")), "at least 3 finite vectors"),
        (torch.full((5, 4), 1.1), "the same for every row"),
    ],
)
def test_clouds_without_a_shape_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        spectrum(x)


def test_the_residual_is_none_of_equal_positions_and_all_of_opposite_ones():
    same = torch.ones(2, 5, 3)
    assert residual_share(same).tolist() == [0.0, 0.0]
    assert residual_share(torch.tensor([[1.0, -2.0], [-1.0, 2.0]])) == pytest.approx(1.0)
    assert residual_share(torch.zeros(2, 3)) == 0.0
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).double()
    left = x - x.mean(0)
    norm = [np.sqrt(np.linalg.norm(m, 1) * np.linalg.norm(m, np.inf)) for m in (left.numpy(), x.numpy())]
    assert residual_share(x) == pytest.approx(norm[0] / norm[1])
    assert residual_share(3 * x) == pytest.approx(residual_share(x))


def test_padding_does_not_count_in_the_residual():
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    assert residual_share(x, mask)[1] == pytest.approx(residual_share(x[1, :2]))
    with pytest.raises(ValueError, match="at least 2 positions in each example, got 1"):
        residual_share(x, torch.tensor([[True, True, True, True], [True, False, False, False]]))


def network(n_layers=3, seed=0, **changes):
    base = {"d_model": 16, "d_head": 8, "n_ctx": 6, "d_vocab": 11, "d_mlp": 32, "act_fn": "relu"}
    return HookedTransformer(TransformerConfig(**base | changes, n_layers=n_layers, seed=seed))


def tokens(n=80, length=6):
    return torch.randint(11, (n, length), generator=torch.Generator().manual_seed(0))


def test_positions_that_all_attend_to_everything_collapse_below_random_ones():
    model = network(attn_only=True, attention_dir="bidirectional", positional_embedding_type="none")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()  # even attention adds the same vector at every position
            block.attn.W_O *= 10
    result = rank_collapse(model, tokens())
    assert (np.diff(result.values) < 0).all()
    assert result.values[0] == pytest.approx(float(result.control[0]), abs=0.02)
    assert result.interval[1] < result.control[-1]
    assert result.values.layer.values.tolist() == [*(f"blocks.{i}.hook_resid_pre" for i in range(3)),
                                                   "blocks.2.hook_resid_post"]  # fmt: skip


def test_padded_examples_and_an_untrained_control():
    mask = torch.arange(6) < torch.randint(2, 7, (80, 1), generator=torch.Generator().manual_seed(1))
    result = rank_collapse(network(), tokens(), mask=mask, untrained=network(seed=5))
    assert result.control_kind == "untrained network"
    again = rank_collapse(network(seed=5), tokens(), mask=mask)
    assert result.control.values == pytest.approx(again.values.values)
    scrambled = tokens().masked_fill(~mask, 0)
    assert rank_collapse(network(seed=5), scrambled, mask=mask).values.values == pytest.approx(
        again.values.values, abs=1e-6
    )


@pytest.mark.parametrize(
    ("inputs", "names", "message"),
    [
        (tokens(1), None, "at least 2 examples"),
        (tokens(5, 1), None, "at least 2 positions"),
        (tokens(), ["blocks.0.attn.hook_z"], r"shape \[batch, position, d\], got \['blocks.0.attn.hook_z'\]"),
        (tokens(), ["blocks.0.hook_resid"], "matches no hook point"),
    ],
)
def test_collapse_of_what_cannot_collapse_is_refused(inputs, names, message):
    with pytest.raises(ValueError, match=message):
        rank_collapse(network(), inputs, names)


@pytest.mark.parametrize(
    "result",
    [lambda: spectrum(cloud(50, [1.0] * 5), draws=5), lambda: rank_collapse(network(), tokens())],
    ids=["singular_values", "rank_collapse"],
)
def test_figures_show_the_control_beside_the_value(result):
    measured = result()
    figure = measured.figure()
    by_name = {trace.name: trace for trace in figure.data}
    assert np.array(by_name["measured"].y) == pytest.approx(measured.values.values)
    assert np.array(by_name[measured.control_kind].y) == pytest.approx(measured.control.values)
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text


def test_the_hand_built_embedding_fills_the_dimensions_it_was_given():
    model = constructions.modular_addition(tasks.ModularAddition(p=29), frequencies=(1, 4, 9))
    result = spectrum(model.W_E[:29].detach(), sampled=False, draws=5)
    assert result.provenance["participation ratio"] == pytest.approx(6.0)


def test_the_example_runs(capsys):
    example = Path(__file__).parents[2] / "examples" / "geometry.py"
    runpy.run_path(str(example))["main"](p=13, draws=5)
    said = capsys.readouterr().out
    assert all(name in said for name in ("singular_values", "similarity", "rank_collapse"))
    assert len(example.read_text().splitlines()) <= 30
