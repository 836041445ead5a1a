"""Edits do what they say on their slice and nothing elsewhere, and are never silent."""

import contextlib

import pytest
import torch

from mechinterp.hooks import (
    Edit,
    Site,
    axes_of,
    mean,
    patch,
    project_out,
    resample,
    resolve,
    run,
    run_with_cache,
    scale,
    steer,
    zero,
)
from mechinterp.models import HookedTransformer, TransformerConfig

ROWS, LENGTH = 6, 5
SIZES = {
    "batch": ROWS,
    "position": LENGTH,
    "query": LENGTH,
    "key": LENGTH,
    "head": 3,
    "d_head": 4,
    "d_model": 12,
    "neuron": 10,
}


def network(**changes):
    fields = {"d_model": 12, "d_head": 4, "n_layers": 2, "n_ctx": 5, "d_mlp": 10, "d_vocab": 9}
    return HookedTransformer(TransformerConfig(**fields | {"dtype": torch.float64} | changes))


def tokens(seed=0):
    return torch.randint(9, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def other(model):
    """The activations of another batch."""
    return run_with_cache(model, tokens(1))[1]


def inside(site, name):
    """Where a site is, entry by entry: an entry is inside if each of its indices was chosen."""
    wanted, where = dict(site.index), torch.ones([], dtype=torch.bool)
    for axis in axes_of(name):
        chosen = torch.zeros(SIZES[axis], dtype=torch.bool)
        chosen[wanted.get(axis, slice(None))] = True
        where = where[..., None] & chosen
    return where


EVERY_OTHER = torch.tensor([True, False, True, False, True])
SITES = {
    "everything": Site.at("blocks.0.hook_resid_post"),
    "one_head": Site.at("blocks.0.attn.hook_z", head=1),
    "last_head_by_its_negative": Site.at("blocks.1.attn.hook_z", head=-1),
    "heads_and_positions": Site.at("blocks.0.attn.hook_z", head=[0, 2], position=[1, 3, -1]),
    "three_lists": Site.at("blocks.0.attn.hook_q", position=[0, 2], head=[2, 0], d_head=[1, 3]),
    "list_slice_and_integer": Site.at("blocks.1.attn.hook_v", position=slice(1, 3), head=2, d_head=[0, 3]),
    "mask": Site.at("blocks.0.hook_attn_out", position=EVERY_OTHER),
    "mask_and_list": Site.at("blocks.0.attn.hook_z", position=EVERY_OTHER, head=[0, 1]),
    "mask_as_a_list": Site.at("blocks.0.attn.hook_k", head=[True, False, True]),
    "backwards": Site.at("blocks.0.hook_mlp_out", position=[3, 1, 0]),
    "slice_from_the_end": Site.at("hook_embed", position=slice(-2, None)),
    "every_second": Site.at("hook_pos_embed", position=slice(None, None, 2)),
    "neurons": Site.at("blocks.1.mlp.hook_post", neuron=[3, 5], position=-1),
    "pattern_rows": Site.at("blocks.0.attn.hook_pattern", head=1, query=-1),
    "pattern_entries": Site.at("blocks.0.attn.hook_pattern", head=[0, 1], query=[2, 4], key=[0, 2]),
    "tensor": Site.at("blocks.0.hook_resid_mid", position=torch.tensor([0, 4])),
}
ROW_SITES = {"rows": Site.at("blocks.0.hook_resid_pre", batch=[0, 2]), "row": Site.at("hook_embed", batch=-1)}


def unit(size, k=1):
    return torch.randn(k, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def last_size(site):
    return SIZES[axes_of(site.name)[-1]]


def without(old, directions):
    """What is left of the last axis beside some directions, by least squares."""
    found = torch.linalg.lstsq(directions.mT, old.reshape(-1, old.shape[-1]).mT).solution
    return old - (directions.mT @ found).mT.reshape(old.shape)


def average(other):
    return other.mean(0, keepdim=True).expand(other.shape)


# Each edit, made from a site and another run's cache, and what the whole tensor would become, given
# also its value in the other run, if the edit were everywhere.
EDITS = {
    "zero": (lambda site, cache: zero(site), lambda old, other: 0 * old),
    "scale": (lambda site, cache: scale(site, -2.0), lambda old, other: -2 * old),
    "patch": (patch, lambda old, other: other),
    "mean": (mean, lambda old, other: average(other)),
    "own": (lambda site, cache: Edit(site, lambda old, _: old.exp()), lambda old, other: old.exp()),
    "number": (lambda site, cache: Edit(site, lambda *_: torch.tensor(3)), lambda old, other: 3 + 0 * old),
}
# The same for edits made from directions, shape [k, size of the last axis].
WHOLE_VECTOR_EDITS = {
    "steer": (lambda site, d: steer(site, d[0], 0.5), lambda old, d: old + 0.5 * d[0]),
    "project_out_one": (lambda site, d: project_out(site, d[0]), lambda old, d: without(old, d[:1])),
    "project_out_several": (lambda site, d: project_out(site, d), lambda old, d: without(old, d)),
}
WHOLE_VECTOR_SITES = {
    name: site for name, site in SITES.items() if axes_of(site.name)[-1] not in dict(site.index)
}


def edited(model, edit):
    """A hook point's tensor without and with an edit."""
    _, before = run_with_cache(model, tokens(), names=edit.site.name)
    _, after = run_with_cache(model, tokens(), edits=[edit], names=edit.site.name)
    return before[edit.site.name], after[edit.site.name]


@pytest.mark.parametrize(("make", "everywhere"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_an_edit_changes_its_slice_and_nothing_elsewhere(site, make, everywhere, model, other):
    before, after = edited(model, make(site, other))
    where = inside(site, site.name).expand(before.shape)
    expected = torch.where(where, everywhere(before, other[site.name]), before)
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(after[~where], before[~where])


@pytest.mark.parametrize(("make", "everywhere"), WHOLE_VECTOR_EDITS.values(), ids=WHOLE_VECTOR_EDITS)
@pytest.mark.parametrize("site", WHOLE_VECTOR_SITES.values(), ids=WHOLE_VECTOR_SITES)
def test_an_edit_of_directions_changes_its_slice_and_nothing_elsewhere(site, make, everywhere, model):
    directions = unit(last_size(site), 2)
    before, after = edited(model, make(site, directions))
    where = inside(site, site.name).expand(before.shape)
    torch.testing.assert_close(after, torch.where(where, everywhere(before, directions), before))
    assert torch.equal(after[~where], before[~where])


@pytest.mark.parametrize("site", ROW_SITES.values(), ids=ROW_SITES)
def test_rows_can_be_edited_alone(site, model):
    before, after = edited(model, zero(site))
    rows = torch.zeros(ROWS, dtype=torch.bool)
    rows[dict(site.index)["batch"]] = True
    assert not after[rows].any()
    assert torch.equal(after[~rows], before[~rows])


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_resampling_takes_the_slice_of_some_row_of_the_cache(site, model, other):
    before, after = edited(model, resample(site, other, seed=1))
    donors, rows = site.read(site.name, other[site.name]), site.read(site.name, after)
    assert all(any(torch.equal(row, donor) for donor in donors) for row in rows)
    where = inside(site, site.name)[0].expand(before.shape)
    assert torch.equal(after[~where], before[~where])


def test_resampling_follows_its_seed(model, other):
    site = SITES["one_head"]
    draws = [edited(model, resample(site, other, seed=seed))[1] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_resampling_takes_the_same_rows_at_every_site(model, other):
    _, cache = run_with_cache(model, tokens(), edits=[resample(Site("blocks.*.attn.hook_z"), other)])
    rows = [
        [donor for donor in range(ROWS) if torch.equal(cache["z", layer][row], other["z", layer][donor])]
        for layer in (0, 1)
        for row in range(ROWS)
    ]
    assert rows[:ROWS] == rows[ROWS:]


# Directions.
def test_projecting_out_leaves_nothing_along_the_span(model):
    site, directions = SITES["everything"], unit(12, 3)
    _, after = edited(model, project_out(site, directions))
    torch.testing.assert_close(after @ directions.mT, torch.zeros(ROWS, LENGTH, 3, dtype=torch.float64))


def test_projecting_out_twice_is_projecting_out_once(model):
    edit = project_out(SITES["everything"], unit(12, 3))
    x = tokens()
    torch.testing.assert_close(run(model, x, edits=[edit, edit]), run(model, x, edits=[edit]))


@pytest.mark.parametrize("more", [torch.zeros(1, 12), 2.0 * torch.eye(12)[:1]], ids=["zero", "parallel"])
def test_projecting_out_takes_dependent_directions_once(more, model):
    site, axis = SITES["everything"], torch.eye(12)[:1]
    _, once = edited(model, project_out(site, axis))
    _, both = edited(model, project_out(site, torch.cat([axis, more])))
    torch.testing.assert_close(both, once)


def test_projecting_out_more_directions_than_dimensions_leaves_nothing(model):
    _, after = edited(model, project_out(SITES["everything"], unit(12, 20)))
    torch.testing.assert_close(after, torch.zeros_like(after))


def test_projecting_out_nothing_changes_nothing(model):
    before, after = edited(model, project_out(SITES["everything"], torch.zeros(12)))
    assert torch.equal(after, before)


def test_steering_the_last_stream_moves_the_logits_along_the_readout(model):
    direction = unit(12)[0]
    steered = run(model, tokens(), edits=[steer(Site("blocks.1.hook_resid_post"), direction, 3.0)])
    moved = steered - run(model, tokens())
    torch.testing.assert_close(moved, (3.0 * direction @ model.W_U).expand(ROWS, LENGTH, -1))


# Composition.
def test_edits_at_one_place_apply_in_the_order_given(model):
    site = SITES["everything"]
    double, add = scale(site, 2.0), Edit(site, lambda old, _: old + 1)
    before, _ = edited(model, double)
    for edits, expected in [([double, add], 2 * before + 1), ([add, double], 2 * (before + 1))]:
        _, cache = run_with_cache(model, tokens(), edits=edits)
        torch.testing.assert_close(cache[site.name], expected)


def test_edits_at_two_places_both_act(model):
    sites = [Site.at("blocks.0.attn.hook_z", head=0), Site.at("blocks.1.attn.hook_z", head=2)]
    _, cache = run_with_cache(model, tokens(), edits=[zero(site) for site in sites])
    assert not cache["z", 0][:, :, 0].any()
    assert not cache["z", 1][:, :, 2].any()
    assert cache["z", 0][:, :, 1:].all()
    assert cache["z", 1][:, :, :2].all()


def test_a_pattern_of_names_edits_every_match(model):
    _, cache = run_with_cache(model, tokens(), edits=[zero(Site.at("blocks.*.attn.hook_z", head=1))])
    assert not any(cache["z", layer][:, :, 1].any() for layer in (0, 1))


@pytest.mark.parametrize("layer", [0, 1])
def test_patching_a_whole_layer_gives_the_other_runs_output(layer, model, other):
    edit = patch(Site(f"blocks.{layer}.hook_resid_post"), other)
    assert torch.equal(run(model, tokens(), edits=[edit]), run_with_cache(model, tokens(1))[0])


def test_patching_a_run_into_itself_changes_nothing(model):
    expected, cache = run_with_cache(model, tokens())
    assert torch.equal(run(model, tokens(), edits=[patch(Site("blocks.*.attn.hook_z"), cache)]), expected)


def test_no_edits_is_the_plain_run(model):
    assert torch.equal(run(model, tokens()), model(tokens()))


def test_edits_pass_options_on(model):
    edit = zero(SITES["one_head"])
    some = run(model, tokens(), edits=[edit], read=(0, -1))
    assert torch.equal(some, run(model, tokens(), edits=[edit])[:, [0, -1]])


def test_gradients_flow_through_edits(model):
    amount, site = torch.tensor(0.5, dtype=torch.float64, requires_grad=True), SITES["neurons"]
    changes = [
        Edit(site, lambda old, _: amount * old),
        steer(Site.at("blocks.0.hook_resid_mid", position=1), amount * unit(12)[0]),
    ]
    for edit in changes:
        run(model, tokens(), edits=[edit]).pow(2).sum().backward()
        assert amount.grad.abs() > 1e-6
        amount.grad = None


def test_gradients_of_the_weights_flow_past_edits():
    model = network()
    run(model, tokens(), edits=[zero(Site.at("blocks.0.attn.hook_z", head=1))]).pow(2).sum().backward()
    assert not model.blocks[0].attn.W_O.grad[1].any()
    assert model.blocks[0].attn.W_O.grad[0].any()


# Out of place, always.
@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
def test_caches_stay_as_they_were(site, model):
    _, cache = run_with_cache(model, tokens())
    saved = {name: tensor.clone() for name, tensor in cache.items()}
    run(model, tokens(), edits=[patch(site, cache), scale(site, 2.0), zero(site)])
    assert all(torch.equal(cache[name], saved[name]) for name in saved)


def test_inputs_stay_as_they_were(model):
    stream = unit(12, ROWS * LENGTH).unflatten(0, (ROWS, LENGTH))
    saved = stream.clone()
    run(model, stream, start_at_layer=0, edits=[zero(Site("blocks.0.hook_resid_pre"))])
    assert torch.equal(stream, saved)


def test_weights_stay_as_they_were():
    model = network()
    saved = {name: weight.clone() for name, weight in model.named_parameters()}
    run(model, tokens(), edits=[zero(Site("hook_embed")), zero(Site("hook_pos_embed"))])
    assert all(torch.equal(weight, saved[name]) for name, weight in model.named_parameters())


# Nothing is silent.
@pytest.mark.parametrize("edit", [zero(Site("blocks.0.attn.hook_Z")), zero(Site("blocks.*.attn.hook_zz"))])
def test_a_site_that_matches_nothing_names_the_nearest(edit, model):
    with pytest.raises(
        ValueError, match=r"expected a site .+ got 'blocks.+attn.hook_.+ nearest .+attn.hook_z'"
    ):
        run(model, tokens(), edits=[edit])


GATED = ("attn.hook_result", "attn.hook_q_input", "attn.hook_attn_in", "hook_mlp_in")


@pytest.mark.parametrize("name", GATED)
def test_an_edit_that_never_fires_is_an_error_with_a_remedy(name, model):
    with pytest.raises(RuntimeError, match=r"zero at blocks.1.+ never fired.+use_attn_result.+another site"):
        run(model, tokens(), edits=[zero(SITES["one_head"]), zero(Site(f"blocks.1.{name}"))])


@pytest.mark.parametrize("name", GATED)
def test_the_remedy_works(name):
    model = network(use_attn_result=True, use_split_qkv_input=True, use_attn_in=True, use_hook_mlp_in=True)
    site = Site.at(f"blocks.1.{name}", position=1)
    assert not torch.equal(run(model, tokens(), edits=[zero(site)]), run(model, tokens()))


def test_an_edit_beyond_the_last_layer_run_is_an_error(model):
    with pytest.raises(RuntimeError, match="never fired"):
        run(model, tokens(), stop_at_layer=1, edits=[zero(Site("blocks.1.hook_resid_pre"))])


@pytest.mark.parametrize("shape", [(ROWS, LENGTH, 13), (ROWS, 2, 12), (2, ROWS, LENGTH, 12), (0,)])
def test_an_edit_that_changes_the_shape_is_an_error(shape, model):
    edit = Edit(SITES["everything"], lambda old, _: torch.zeros(shape), "reshape")
    with pytest.raises(ValueError, match=r"reshape at blocks.0.hook_resid_post .+shape \(6, 5, 12\), got"):
        run(model, tokens(), edits=[edit])


BAD_INDICES = {
    "axis": ({"neuron": 1}, r"one of \['batch', 'position', 'head', 'd_head'\]; got 'neuron'"),
    "too_large": ({"head": 3}, r"within \[-3, 3\)"),
    "too_negative": ({"head": [0, -4]}, r"within \[-3, 3\)"),
    "empty_list": ({"head": []}, "at least one index"),
    "empty_mask": ({"position": torch.zeros(5, dtype=torch.bool)}, "at least one index"),
    "empty_slice": ({"position": slice(5, 7)}, "at least one index"),
    "mask_of_other_length": ({"position": torch.ones(4, dtype=torch.bool)}, "a mask of 5 entries"),
}


@pytest.mark.parametrize(("index", "words"), BAD_INDICES.values(), ids=BAD_INDICES)
def test_an_index_that_cannot_be_is_an_error(index, words, model):
    with pytest.raises(ValueError, match=f"expected .*{words}"):
        run(model, tokens(), edits=[zero(Site.at("blocks.0.attn.hook_z", **index))])


@pytest.mark.parametrize("shape", [(), (1,), (13,), (3, 1)])
@pytest.mark.parametrize("make", [steer, project_out])
def test_a_direction_of_another_length_is_an_error(make, shape, model):
    with pytest.raises(ValueError, match=r"a direction of 12 entries, as the last axis of .+ has, got"):
        run(model, tokens(), edits=[make(SITES["everything"], torch.ones(shape))])


def test_a_mean_over_chosen_rows_is_an_error(model, other):
    with pytest.raises(ValueError, match="without a batch index"):
        run(model, tokens(), edits=[mean(Site.at("hook_embed", batch=0), other)])


# Hooks come and go.
def fail(old, name):
    raise KeyError("inside the edit")


def attached(model):
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_points())


ENDINGS = {
    "a_run": zero(SITES["one_head"]),
    "an_error_inside": Edit(SITES["one_head"], fail),
    "an_error_before": zero(Site("nowhere")),
}


@pytest.mark.parametrize("edit", ENDINGS.values(), ids=ENDINGS)
def test_hooks_are_gone_after_a_run_and_after_an_exception(edit):
    model = network()
    expected = model(tokens())
    with contextlib.suppress(KeyError, ValueError):
        run(model, tokens(), edits=[edit])
    assert attached(model) == 0
    assert torch.equal(model(tokens()), expected)


def test_other_hooks_stay():
    model, seen = network(), []
    model.add_hook("hook_embed", lambda tensor, hook: seen.append(hook.name))
    run(model, tokens(), edits=[zero(Site("hook_embed"))])
    assert seen == ["hook_embed"]
    assert attached(model) == 1


# What is kept.
def test_the_cache_shows_what_came_of_the_edits(model):
    site = SITES["one_head"]
    outputs, cache = run_with_cache(model, tokens(), edits=[zero(site)])
    assert not cache[site.name][:, :, 1].any()
    assert torch.equal(outputs, run(model, tokens(), edits=[zero(site)]))


@pytest.mark.parametrize(
    ("names", "kept"),
    {
        "hook_embed": ["hook_embed"],
        "blocks.*.hook_mlp_out": ["blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"],
        ("hook_embed", "blocks.1.*.hook_z"): ["blocks.1.attn.hook_z", "hook_embed"],
    }.items(),
)
def test_only_the_names_asked_for_are_kept(names, kept, model):
    _, cache = run_with_cache(model, tokens(), names=names)
    assert sorted(cache) == kept


def test_everything_that_fires_is_kept_by_default(model):
    _, cache = run_with_cache(model, tokens())
    _, expected = model.run_with_cache(tokens())
    assert set(cache) == set(expected)
    assert all(torch.equal(cache[name], expected[name]) for name in cache)


def test_what_is_kept_has_no_gradient(model):
    assert not any(tensor.requires_grad for tensor in run_with_cache(model, tokens())[1].values())


def test_a_name_to_keep_that_matches_nothing_is_an_error(model):
    with pytest.raises(ValueError, match=r"nearest are .+hook_embed"):
        run_with_cache(model, tokens(), names=["hook_embedding"])


def test_a_name_to_keep_that_never_fires_is_an_error(model):
    with pytest.raises(
        RuntimeError, match=r"every name to be kept, but blocks.0.attn.hook_result never fired"
    ):
        run_with_cache(model, tokens(), names=["hook_embed", "blocks.*.attn.hook_result"])


# Sites.
def test_a_site_is_named_as_it_was_written():
    assert str(Site.at("hook_embed", batch=[0, 2], position=-1)) == "hook_embed[batch=[0, 2], position=-1]"
    assert str(Site("hook_embed")) == "hook_embed"


def test_a_site_reads_its_slice_with_every_axis_kept(other):
    z = other["blocks.0.attn.hook_z"]
    read = Site.at("blocks.0.attn.hook_z", head=[2, 0], position=-1).read("blocks.0.attn.hook_z", z)
    assert torch.equal(read, z[:, -1:][:, :, [2, 0]])


def test_a_question_mark_stands_for_one_character(model):
    assert resolve(model, Site("blocks.?.attn.hook_q")) == ["blocks.0.attn.hook_q", "blocks.1.attn.hook_q"]


@pytest.mark.parametrize("flag", [{"use_split_qkv_input": True}, {"use_attn_in": True}])
def test_axes_are_those_of_the_tensor(flag):
    model = network(
        normalization_type="LN", **dict.fromkeys(("use_attn_result", "use_hook_mlp_in"), True), **flag
    )
    _, cache = run_with_cache(model, tokens())
    sizes = SIZES | {"output": 9}
    for name, tensor in cache.items():
        axes = axes_of(name, tensor.ndim)
        scale_last = {"d_model": 1} if name.endswith("hook_scale") else {}
        assert [(sizes | scale_last)[axis] for axis in axes] == list(tensor.shape), name


def test_a_cache_can_be_kept_in_half_precision_and_the_run_stays_as_it_is(model):
    full, cache = run_with_cache(model, tokens(), names="*resid_post")
    same, half = run_with_cache(model, tokens(), names="*resid_post", dtype=torch.bfloat16)
    assert torch.equal(full, same)
    assert {kept.dtype for kept in half.values()} == {torch.bfloat16}
    for name in cache:
        torch.testing.assert_close(half[name].double(), cache[name], rtol=1e-2, atol=1e-2)
