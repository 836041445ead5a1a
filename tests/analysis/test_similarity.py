"""CKA and Procrustes: invariances, planted rotations, and nulls that reject as often as they say."""

import numpy as np
import pytest
import torch

from mechinterp.analysis.procrustes import procrustes
from mechinterp.analysis.similarity import cka, score_and_null, similarity
from mechinterp.analysis.statistics import permutation_p_value
from mechinterp.hooks import run_with_cache
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.result import Result


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


def test_cka_is_blind_to_rotation_scale_and_place():
    x = normal(100, 8)
    assert cka(x, 3 * x @ rotation(8) + 5) == pytest.approx(1.0, abs=1e-12)
    assert cka(x, x @ normal(8, 8, seed=1)) < 0.99  # but not to other linear maps


def test_cka_is_the_ratio_of_norms_and_symmetric():
    x, y = normal(50, 6), normal(50, 9, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    by_hand = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cka(x, y) == pytest.approx(by_hand.item())
    assert cka(x, y) == pytest.approx(cka(y, x))


def test_more_dimensions_than_examples_change_nothing_but_the_cost():
    x, y = normal(20, 50), normal(20, 7, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    by_hand = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cka(x, y) == pytest.approx(by_hand.item())
    assert cka(x.float(), y.float()) == pytest.approx(by_hand.item(), abs=1e-5)


def test_cka_of_independent_noise_lies_in_its_null_far_from_zero():
    observed, null = score_and_null(normal(60, 30), normal(60, 30, seed=1))
    assert observed > 0.25  # about d / n
    low, high = np.quantile(null, [0.005, 0.995])
    assert low < observed < high


def test_procrustes_recovers_a_planted_rotation_on_rows_it_has_not_seen():
    x, turn = normal(200, 10), rotation(10)
    y = 2.5 * (x @ turn) + 7 + 0.01 * normal(200, 10, seed=2)
    found = procrustes(x[:100], y[:100])
    assert torch.allclose(found.matrix, turn, atol=1e-2)
    assert found.scale == pytest.approx(2.5, rel=1e-3)
    assert found.score(x[100:], y[100:]) > 0.999
    assert torch.allclose(found.matrix @ found.matrix.mT, torch.eye(10).double(), atol=1e-12)
    observed, null = score_and_null(x, y, "procrustes", draws=50)
    assert observed > 0.999
    assert null.max() < 0.2


def test_procrustes_fits_noise_and_finds_nothing_on_rows_it_has_not_seen():
    x, y = normal(60, 30), normal(60, 30, seed=1)
    found = procrustes(x[:30], y[:30])
    assert found.score(x[:30], y[:30]) > 0.5
    assert found.score(x[30:], y[30:]) < 0.0
    observed, null = score_and_null(x, y, "procrustes")
    assert np.quantile(null, 0.005) < observed < np.quantile(null, 0.995)


def test_procrustes_turns_into_fewer_and_more_dimensions():
    x = normal(100, 4)
    wide = x @ rotation(9)[:4]
    assert procrustes(x, wide).score(x, wide) == pytest.approx(1.0)
    assert procrustes(wide, x).score(wide, x) == pytest.approx(1.0)
    assert procrustes(x, wide).matrix.shape == (4, 9)


@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_the_null_rejects_independent_noise_about_one_time_in_twenty(measure):
    p_values = []
    for draw in range(200):
        x, y = normal(24, 5, seed=2 * draw), normal(24, 4, seed=2 * draw + 1)
        p_values.append(permutation_p_value(*score_and_null(x, y, measure, draws=39, seed=draw)))
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.1
    assert 0.4 < np.mean(p_values) < 0.6


def layers(n=300, seed=0, noise=0.3):
    """Three layers, each the one before turned and blurred."""
    found, x = {}, normal(n, 10, seed=seed)
    for i in range(3):
        found[f"layer {i}"] = x
        x = x @ rotation(10, seed=seed + i) + noise * normal(n, 10, seed=50 + seed + i)
    return found


@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_layers_of_one_network_fade_with_distance_and_stand_out_of_the_null(measure):
    result = similarity(layers(), measure=measure, draws=39)
    values = result.values
    assert np.diag(values) == pytest.approx(np.ones(3))
    assert values[0, 1] > values[0, 2] > result.extra["null"].sel(end="high")[0, 2]
    off = ~np.eye(3, dtype=bool)
    assert np.isnan(np.diag(result.extra["p"])).all()
    assert (result.extra["p"].values[off] <= 0.05).all()
    assert (result.control.values < 0.2).all()
    low, high = result.interval
    assert low < values.values[off].mean() < high + 0.02


def test_two_networks_are_compared_by_the_names_they_share():
    first, second = layers(), layers(seed=9)
    unrelated = similarity(first, second, draws=39)
    assert (unrelated.extra["p"] > 0.05).sum() >= 8
    same = similarity(first, {name: x @ rotation(10, seed=4) for name, x in first.items()}, draws=9)
    assert same.provenance["mean"] == pytest.approx(1.0)
    assert same.interval == pytest.approx((1.0, 1.0))
    other_names = similarity({"a": first["layer 0"]}, {"b": first["layer 1"]}, draws=9)
    assert other_names.provenance["mean"] == pytest.approx(float(other_names.values[0, 0]), abs=1e-6)


def test_the_correction_takes_away_the_likeness_that_few_examples_feign():
    x, y = normal(400, 20), normal(400, 20, seed=1)
    whole = similarity({"x": x[:100]}, {"y": y[:100]}, draws=9).provenance
    assert whole["mean"] > 0.12
    assert abs(whole["mean corrected for n"]) < 0.05


def network(seed):
    return HookedTransformer(
        TransformerConfig(
            d_model=8, d_head=4, n_layers=2, n_ctx=4, d_vocab=11, d_mlp=16, act_fn="relu", seed=seed
        )
    )


def test_caches_are_read_at_a_position_and_heads_put_side_by_side(tmp_path):
    inputs = torch.randint(11, (64, 4), generator=torch.Generator().manual_seed(0))
    names = ["*.hook_resid_post", "*.hook_z"]
    first, second = (run_with_cache(network(seed), inputs, names=names)[1] for seed in (0, 1))
    result = similarity(first, second, draws=5)
    assert result.values.shape == (4, 4)
    name = "blocks.0.attn.hook_z"
    z = first[name][:, -1].flatten(1)
    assert float(result.values.sel(first=name, second=name)) == pytest.approx(
        cka(z, second[name][:, -1].flatten(1))
    )
    chosen = similarity(first, second, names=[name], position=1, draws=5, seed=3)
    assert chosen.values.item() == pytest.approx(
        cka(first[name][:, 1].flatten(1), second[name][:, 1].flatten(1))
    )
    result.save(tmp_path / "similarity.json")
    assert Result.load(tmp_path / "similarity.json") == result


@pytest.mark.parametrize(
    ("first", "second", "more", "message"),
    [
        ({"a": normal(9, 2)}, None, {}, "at least 2 layers"),
        ({"a": normal(9, 2)}, {"a": normal(8, 2)}, {}, "at least 8, got 9 of a and 8 of a"),
        ({"a": normal(7, 2)}, {"a": normal(7, 2)}, {}, "at least 8, got 7"),
        ({"a": normal(9, 2)}, {"b": torch.ones(9, 2)}, {}, "one vector for all in b"),
        ({"a": normal(9, 2) * np.nan}, {"b": normal(9, 2)}, {}, "NaN.*in a"),
        ({"a": normal(9, 2)}, {"a": normal(9, 2)}, {"names": ["c"]}, r"names among \['a'\], got \['c'\]"),
        ({}, {}, {}, "got none"),
        ({"a": normal(9, 2)}, {"b": normal(9, 2)}, {"draws": 0}, "at least 1 random order"),
        ({"blocks.0.attn.hook_pattern": normal(9, 1, 2, 2)}, None, {}, "expected an axis"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, more, message):
    with pytest.raises(ValueError, match=message):
        similarity(first, second, **more)


def test_clouds_of_different_examples_are_refused():
    for function in (cka, procrustes, score_and_null):
        with pytest.raises(ValueError, match="same examples, at least 3, got 10 of x and 9 of y"):
            function(normal(10, 2), normal(9, 2))


@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_the_figure_shows_the_control_on_the_same_colours(measure):
    figure = similarity(layers(n=40), measure=measure, draws=5).figure()
    value, control = figure.data
    assert (value.zmin, value.zmax, value.colorscale) == (control.zmin, control.zmax, control.colorscale)
    assert value.zmin <= np.min(control.z)
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text
