"""TransformerLens 4's activation patching gives what our own edits give."""

import functools

import pytest
import torch
from tool_networks import LENGTH, logit_difference, network, tokens

from mechinterp.hooks import Edit, Site, patch, run, run_with_cache

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens import patching
from transformer_lens.utilities import get_act_name

EVERY_FUNCTION = {
    name.removeprefix("get_act_patch_"): getattr(patching, name)
    for name in dir(patching)
    if name.startswith("get_act_patch_")
}
SINGLE = {name: f for name, f in EVERY_FUNCTION.items() if isinstance(f, functools.partial)}
STACKED = {name: f for name, f in EVERY_FUNCTION.items() if name.endswith("_every")}
DIRECT = {name: f for name, f in EVERY_FUNCTION.items() if name.startswith("direct_path")}
AXES = {"pos": "position", "head": "head", "head_index": "head", "dest_pos": "query", "src_pos": "key"}


def test_no_patching_function_is_forgotten():
    assert len(SINGLE) == 15
    assert sorted([*SINGLE, *STACKED, *DIRECT]) == sorted(EVERY_FUNCTION)


def sites(function):
    """The sites that a function patches, in the order and shape of its result."""
    activation, axes = function.keywords["activation_name"], function.keywords["index_axis_names"][1:]
    sizes = [2] + [2 if "head" in axis else LENGTH for axis in axes]
    for layer, *index in torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes)).tolist():
        yield Site.at(get_act_name(activation, layer), **dict(zip((AXES[axis] for axis in axes), index)))


@pytest.mark.parametrize("kind", ["plain", "layernorm", "rotary", "linear"])
@pytest.mark.parametrize("function", SINGLE.values(), ids=SINGLE)
def test_each_function_gives_what_edits_give(function, kind):
    model, corrupted = network(kind), tokens(1)
    _, clean = model.run_with_cache(tokens())
    found = function(model, corrupted, clean, logit_difference)
    ours = [logit_difference(run(model, corrupted, edits=[patch(site, clean)])) for site in sites(function)]
    torch.testing.assert_close(found, torch.stack(ours).view(found.shape).float())


@pytest.mark.parametrize("function", (SINGLE | STACKED).values(), ids=SINGLE | STACKED)
def test_patching_a_run_into_itself_gives_the_baseline(function):
    model = network()
    logits, clean = model.run_with_cache(tokens())
    found = function(model, tokens(), clean, logit_difference)
    torch.testing.assert_close(found, logit_difference(logits).float().expand(found.shape))


PARTS = {
    "attn_head_all_pos_every": [f"attn_head_{part}_all_pos" for part in ("out", "q", "k", "v", "pattern")],
    "attn_head_by_pos_every": [f"attn_head_{part}_by_pos" for part in ("out", "q", "k", "v", "pattern")],
    "block_every": ["resid_pre", "attn_out", "mlp_out"],
}


@pytest.mark.parametrize("name", STACKED)
def test_a_stack_holds_its_parts(name):
    model, corrupted = network(), tokens(1)
    _, clean = model.run_with_cache(tokens())
    stacked = STACKED[name](model, corrupted, clean, logit_difference)
    parts = [SINGLE[part](model, corrupted, clean, logit_difference) for part in PARTS[name]]
    if name == "attn_head_by_pos_every":
        parts[-1] = parts[-1].mT  # of patterns, heads come before positions
    assert torch.equal(stacked, torch.stack(parts))


def test_results_of_each_example_come_with_their_baseline():
    model, corrupted = network(), tokens(1)
    _, clean = model.run_with_cache(tokens())
    function = functools.partial(patching.get_act_patch_resid_pre, model, corrupted, clean)
    found = function(lambda logits: logits[:, -1, 1], reduce="none", baseline=True)
    torch.testing.assert_close(found.baseline, model(corrupted)[:, -1, 1].detach().float())
    torch.testing.assert_close(found.mean(), function(lambda logits: logits[:, -1, 1].mean()))


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("kind", ["plain", "layernorm", "rotary"])
def test_a_direct_path_is_one_heads_write_into_one_heads_input(kind, component):
    model, corrupted = network(kind), tokens(1)
    clean_z, z = (run_with_cache(model, x)[1]["z", 0][:, :, 1] for x in (tokens(), corrupted))
    write = ((clean_z - z) @ model.blocks[0].attn.W_O[1])[:, :, None]
    caches = [model.run_with_cache(x)[1] for x in (tokens(), corrupted)]
    found = patching.get_act_patch_direct_path(
        model, corrupted, *caches, logit_difference, src_layer=0, src_head=1, component=component
    )
    model.set_use_split_qkv_input(True)
    for head in range(2):
        site = Site.at(f"blocks.1.attn.hook_{component}_input", head=head)
        ours = logit_difference(run(model, corrupted, edits=[Edit(site, lambda old, _: old + write)]))
        torch.testing.assert_close(found[1, head], ours.float())


def test_direct_paths_of_all_sources_hold_those_of_each():
    model, corrupted = network(), tokens(1)
    arguments = (
        model,
        corrupted,
        *(model.run_with_cache(x)[1] for x in (tokens(), corrupted)),
        logit_difference,
    )
    every = patching.get_act_patch_direct_path_all_sources(*arguments)
    for head in range(2):
        assert torch.equal(
            every[0, head], patching.get_act_patch_direct_path(*arguments, src_layer=0, src_head=head)
        )
    assert not every[1].any()  # nothing comes after the last layer


@pytest.mark.parametrize("function", DIRECT.values(), ids=DIRECT)
def test_a_direct_path_of_a_run_into_itself_gives_the_baseline(function):
    model = network()
    logits, clean = model.run_with_cache(tokens())
    source = {"src_layer": 0, "src_head": 0} if function is patching.get_act_patch_direct_path else {}
    found = function(model, tokens(), clean, clean, logit_difference, **source)
    later = found[1] if source else found[0, :, 1]
    torch.testing.assert_close(later, logit_difference(logits).float().expand(later.shape))


@pytest.mark.parametrize("before", [False, True])
def test_direct_paths_leave_the_flags_as_they_were(before):
    model = network(use_attn_in=before)
    _, clean = model.run_with_cache(tokens())
    patching.get_act_patch_direct_path(
        model, tokens(), clean, clean, logit_difference, src_layer=0, src_head=0
    )
    assert (model.cfg.use_attn_in, model.cfg.use_split_qkv_input) == (before, False)
