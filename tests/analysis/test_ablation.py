"""Ablations find the planted component and nothing else, and both ways to compute them agree."""

import numpy as np
import pytest
import torch
from small_models import LENGTH, network, only_writers, preference, tokens

from mechinterp.analysis.ablation import ablation, erase_directions
from mechinterp.analysis.pruning import first_order_scores, prune
from mechinterp.analysis.redundancy import pairwise_ablation
from mechinterp.analysis.references import references
from mechinterp.analysis.sets import Component, components_of
from mechinterp.analysis.setting import Setting
from mechinterp.hooks import Site, mean, patch, run, run_with_cache, zero

X, HELD_OUT = tokens(0), tokens(1, rows=30)
KINDS = {
    "causal": {},
    "bidirectional": {"attention_dir": "bidirectional"},
    "layernorm": {"normalization_type": "LN"},
    "rotary": {"positional_embedding_type": "rotary"},
}
GROUPS = {"first": [0, 1], "other": [4]}


def effect(result):
    return result.extra["effect"].values


@pytest.mark.parametrize("reference", ["zero", "mean", "resample"])
@pytest.mark.parametrize("kind", KINDS)
def test_reruns_and_whole_runs_agree(kind, reference):
    model, given = network(**KINDS[kind]), {"reference": reference, "held_out": HELD_OUT}
    directions = {"one": torch.ones(8), "plane": torch.eye(8)[:2]}
    for fast, slow in (
        [ablation(model, X, preference, what, groups=GROUPS, fast=f, **given) for f in (True, False)]
        for what in ("heads", "mlps", "neurons")
    ):
        np.testing.assert_allclose(fast.values, slow.values, atol=1e-12)
        np.testing.assert_allclose(fast.control, slow.control, atol=1e-12)
    for analysis in (
        lambda f: ablation(model, X, preference, by_position=True, fast=f, **given),
        lambda f: erase_directions(model, X, preference, directions, "resid_mid", fast=f, **given),
        lambda f: pairwise_ablation(model, X, preference, components_of(model, mlps=True), fast=f, **given),
        lambda f: prune(model, X, preference, fast=f, **given),
    ):
        np.testing.assert_allclose(analysis(True).values, analysis(False).values, atol=1e-12)


def test_values_are_those_of_plain_hooks():
    model = network()
    found = ablation(model, X, preference, reference="zero")
    for layer in (0, 1):
        for head in (0, 1):
            site = Site.at(f"blocks.{layer}.attn.hook_z", head=head)
            expected = preference(run(model, X, edits=[zero(site)])[:, -1:]).mean()
            assert found.values[layer, head] == pytest.approx(expected.item())


def test_the_mean_is_that_of_held_out_examples_position_by_position():
    model = network()
    _, cache = run_with_cache(model, HELD_OUT)
    edits = [mean(Site.at("blocks.0.attn.hook_z", head=1), cache)]
    expected = preference(run(model, X, edits=edits)[:, -1:]).mean()
    found = ablation(model, X, preference, held_out=HELD_OUT)
    assert found.values[0, 1] == pytest.approx(expected.item())


def test_the_mean_leaves_padding_out():
    mask = torch.ones_like(HELD_OUT, dtype=torch.bool)
    mask[::2, 0] = False
    name = "blocks.0.attn.hook_z"
    model = network()
    found = references(model, [name], "mean", X, HELD_OUT, held_out_mask=mask)[name]
    _, cache = run_with_cache(model, HELD_OUT, attention_mask=mask)
    torch.testing.assert_close(found[0, 0], cache[name][1::2, 0].mean(0).detach())
    torch.testing.assert_close(found[0, 1], cache[name][:, 1].mean(0).detach())


@pytest.mark.parametrize("reference", ["zero", "mean", "resample"])
def test_only_the_planted_head_has_an_effect(reference):
    found = ablation(only_writers((0, 1)), X, preference, reference=reference, held_out=HELD_OUT)
    others = np.delete(effect(found).ravel(), 1)
    assert effect(found)[0, 1] != 0
    assert (others == 0).all()
    assert found.extra["p_value"].values.ravel()[[0, 2, 3]].tolist() == [1, 1, 1]


def test_erasing_a_direction_that_is_not_read_does_nothing_and_the_readout_direction_all():
    model = network(n_layers=1, attn_only=True)
    readout = (model.W_U[:, 1] - model.W_U[:, 2]).detach()
    aside = torch.linalg.qr(torch.stack((readout, *torch.eye(8, dtype=torch.float64)[:2]), 1)).Q[:, 1]
    found = erase_directions(model, X, preference, {"read": readout, "aside": aside})
    constant = (model.b_U[1] - model.b_U[2]).item()
    assert found.values.sel(direction="read").item() == pytest.approx(constant)
    np.testing.assert_allclose(found.extra["effect"].sel(direction="aside"), 0, atol=1e-12)


def saturating(outputs):
    """Satisfied by half of what both planted heads give."""
    return preference(outputs).clamp(max=0.5)


def test_a_redundant_pair_shows_only_together():
    model = only_writers((0, 0), (0, 1), n_layers=1, attn_only=True)
    attn = model.blocks[0].attn
    with torch.no_grad():  # both heads do the same, enough for the metric
        for weights in (attn.W_Q, attn.W_K, attn.W_V, attn.b_Q, attn.b_K, attn.b_V, attn.W_O):
            weights[1] = weights[0]
        model.embed.W_E.zero_()
        model.W_pos.zero_()
        attn.W_V.zero_()
        attn.b_V.zero_()
        attn.b_V[:, 0] = 1.0
        attn.W_O.zero_()
        attn.W_O[:, 0] = model.W_U[:, 1] - model.W_U[:, 2]
        model.b_U.zero_()
    found = pairwise_ablation(model, X, saturating, reference="zero")
    single, joint = np.diag(effect(found)), effect(found)[0, 1]
    np.testing.assert_allclose(single, 0, atol=1e-12)
    assert joint == pytest.approx(-0.5)
    assert found.extra["interaction"].values[0, 1] == pytest.approx(-0.5)
    assert found.extra["interaction_p"].values[0, 1] < 0.05


def test_effects_that_add_up_have_no_interaction():
    model = network(n_layers=1, attn_only=True)  # two heads of one layer, a linear readout
    found = pairwise_ablation(model, X, preference, reference="zero")
    np.testing.assert_allclose(found.extra["interaction"], 0, atol=1e-12)


@pytest.mark.parametrize("order", ["greedy", "first_order"])
def test_the_planted_head_goes_last(order):
    def sharp(outputs):
        return -(preference(outputs) - intact).abs()

    model = only_writers((1, 0))
    intact = preference(model(X)[:, -1:]).detach()
    found = prune(model, X, sharp if order == "greedy" else preference, order=order, reference="zero")
    if order == "greedy":
        assert found.extra["order"].values[-1] == "L1H0"
        np.testing.assert_allclose(found.values[:-1], 0, atol=1e-12)
        assert found.values[-1] < 0
        assert found.control[1] < 0
    assert set(found.extra["order"].values) == {str(one) for one in components_of(model, mlps=True)}


def test_first_order_scores_of_a_linear_path_are_exact():
    model, setting = network(attn_only=True), None
    setting = Setting(model, X, preference)
    last = [Component(1, 0), Component(1, 1)]
    reference = references(model, ["blocks.1.attn.hook_z"], "mean", X, HELD_OUT)
    scores = first_order_scores(setting, last, reference)
    single = ablation(model, X, preference, held_out=HELD_OUT)
    np.testing.assert_allclose(scores.mean(1), single.extra["effect"].sel(layer=1), atol=1e-12)


def test_first_order_scores_see_what_goes_by_way_of_later_components():
    model = network()
    setting = Setting(model, X, preference)
    every = components_of(model, mlps=True)
    becomes = references(model, sorted({one.hook for one in every}), "mean", X, HELD_OUT)
    cache = run_with_cache(model, X)[1]

    def moved(one, amount):
        site = Site.at(one.hook) if one.head is None else Site.at(one.hook, head=one.head)
        change = {one.hook: cache[one.hook] + amount * (becomes[one.hook] - cache[one.hook])}
        return preference(run(model, X, edits=[patch(site, change)]))

    found = first_order_scores(setting, every, becomes)
    for one, score in zip(every, found):
        slope = (moved(one, 1e-5) - moved(one, -1e-5)) / 2e-5
        np.testing.assert_allclose(score, slope.detach(), atol=1e-7)


def test_donors_have_real_tokens_wherever_the_input_has():
    model = network()
    real, held_real = (torch.ones_like(x, dtype=torch.bool) for x in (X, HELD_OUT))
    held_real[:20, 0] = real[6:, 0] = False  # left padding: two thirds of the donors, half of the inputs
    given = {"attention_mask": real, "held_out_mask": held_real, "seed": 3}
    name = "blocks.0.attn.hook_z"
    found = references(model, [name], "resample", X, HELD_OUT, **given)[name]
    whole = run_with_cache(model, HELD_OUT, attention_mask=held_real)[1][name]
    donors = [int((whole - row).abs().flatten(1).sum(1).argmin()) for row in found]
    assert all(donor >= 20 for donor in donors[:6])
    assert min(donors[6:]) < 20
    held_real[:, 0] = False
    for kind in ("resample", "mean"):
        with pytest.raises(ValueError, match="real tokens wherever"):
            references(model, [name], kind, X, HELD_OUT, **given)


def test_pairs_and_pruning_have_figures():
    pairs = pairwise_ablation(network(), X, preference, reference="zero")
    pruned = prune(network(), X, preference, reference="zero")
    assert [pairs.name, pruned.name] == ["pairwise_ablation", "pruning"]
    assert pairs.figure().data[0].zmid == 0
    assert np.isnan(np.diag(pairs.extra["p_value"])).all()  # beside themselves
    assert not np.isnan(pairs.extra["p_value"].values[~np.eye(len(pairs.values), dtype=bool)]).any()
    assert "L0H0" in pruned.figure().layout.xaxis.ticktext


def test_progress_goes_to_the_end():
    told = []
    ablation(network(), X, preference, reference="zero", progress=lambda i, n: told.append((i, n)))
    assert told[-1] == (8, 8)
    assert [i for i, _ in told] == list(range(1, 9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"what": "hats"}, "expected heads, mlps or neurons"),
        ({"what": "neurons"}, "expected groups"),
        ({"what": "neurons", "groups": {"a": [3, 3]}, "reference": "zero"}, "each once"),
        ({"what": "neurons", "groups": {"a": []}, "reference": "zero"}, "at least one neuron"),
        ({"reference": "median"}, '"zero", "mean" or "resample"'),
        ({}, "held_out examples for a mean"),
        ({"held_out": X}, "other than the inputs"),
        ({"held_out": tokens(length=LENGTH + 1)}, "position by position"),
        ({"reference": "zero", "inputs": X[:1]}, "at least 2 examples"),
        ({"reference": "zero", "metric": lambda o: o.mean()}, "one number for each"),
        ({"reference": "zero", "metric": lambda o: o[:, 0, 0] / 0}, "finite"),
        ({"reference": "zero", "attention_mask": torch.zeros_like(X)}, "empty mask"),
        ({"reference": "zero", "layers": [2]}, "layers within"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"inputs": X, "metric": preference} | change
    with pytest.raises(ValueError, match=message):
        ablation(network(), **given)


def test_dropout_is_refused():
    model = network(dropout=0.1).train()
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        prune(model, X, preference, reference="zero")


@pytest.mark.parametrize("components", [[], [Component(0, 5)], [Component(0, 0)] * 2])
def test_strange_components_are_refused(components):
    with pytest.raises(ValueError, match="different components of this network"):
        pairwise_ablation(network(), X, preference, components, reference="zero")


def test_an_incomplete_order_is_refused():
    with pytest.raises(ValueError, match="an order of all"):
        prune(network(), X, preference, order=[Component(0, 0)], reference="zero")


@pytest.mark.parametrize("direction", [torch.ones(3), torch.zeros(8), torch.full((8,), torch.nan)], ids=str)
def test_strange_directions_are_refused(direction):
    with pytest.raises(ValueError, match="to be finite, not zero, of 8 entries"):
        erase_directions(network(), X, preference, {"d": direction})
