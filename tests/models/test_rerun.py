"""Reruns from where a patch enters give what the whole forward pass with hooks gives."""

import pytest
import torch
from small_networks import KINDS, inputs, network, padding

from mechinterp.hooks import Edit, Site, patch, run, run_with_cache

STREAMS = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
HEADS = ("q", "k", "v", "z", "pattern")
ROWS = 5
READS = {"last": [-1], "all": None, "two": [1, 3], "each": "each"}


def setting(kind, read="last", side=None, **options):
    model = network(kind, **options).eval()
    x, donor = inputs(model, ROWS), inputs(model, ROWS, seed=9)
    at = torch.tensor([[0], [4], [2], [2], [1]]) if READS[read] == "each" else READS[read]
    forward = {"read": at, "attention_mask": padding(side, ROWS)}
    return model, x, forward, run_with_cache(model, donor)[1]


def name_of(activation, layer):
    inside = {"post": "mlp."} | dict.fromkeys(HEADS, "attn.")
    return f"blocks.{layer}.{inside.get(activation, '')}hook_{activation}"


def slow(model, x, forward, cache, activation, layer, **index):
    axis = "query" if activation == "pattern" else "position"
    site = Site.at(
        name_of(activation, layer), **{axis if k == "position" else k: v for k, v in index.items()}
    )
    return run(model, x, edits=[patch(site, cache)], **forward)


def donor_of(model, cache, activation, layer):
    rotary = model.cfg.positional_embedding_type == "rotary" and activation in "qk"
    name = name_of(activation, layer)
    return cache[name.replace("hook_", "hook_rot_") if rotary else name]


def fast(model, x, forward, cache, activation, layer, at):
    rerun = model.rerun(x, **forward, keep=[f"hook_{activation}"] if activation in STREAMS else [])
    donor, at = donor_of(model, cache, activation, layer), torch.tensor(at)
    if activation in STREAMS:
        change = rerun.enter_stream(layer, activation, at, donor[:, None])
    else:
        change = rerun.enter_heads(layer, activation, at, donor)
    found = rerun.outputs(change)
    return rerun.intact[None].expand(change.delta.shape[1], *rerun.intact.shape) if found is None else found


def agree(found, expected):
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("at", [[2], [1, 2], [0, 1, 2, 3, 4], [4]], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_patches_of_the_stream(kind, layer, at):
    given = setting(kind)
    for activation in STREAMS:
        if KINDS[kind].get("attn_only") and activation in ("resid_mid", "mlp_out"):
            continue
        agree(fast(*given, activation, layer, at)[0], slow(*given, activation, layer, position=at))


@pytest.mark.parametrize("at", [[2], [0, 1, 2, 3, 4], [4]], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_patches_of_heads(kind, layer, at):
    given = setting(kind)
    for activation in HEADS:
        found = fast(*given, activation, layer, at)
        for head in range(given[0].cfg.n_heads):
            agree(found[head], slow(*given, activation, layer, position=at, head=head))


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize(
    "kind", ["causal", "bidirectional", "layernorm", "linear", "alibi", "attention_only"]
)
def test_whatever_is_read_and_padded(kind, side, read):
    given = setting(kind, read, side)
    for activation in ("resid_pre", "attn_out", "resid_post"):
        for layer in (0, 1):
            agree(fast(*given, activation, layer, [1])[0], slow(*given, activation, layer, position=[1]))
    for activation in HEADS:
        for layer in (0, 1):
            found = fast(*given, activation, layer, [3])
            agree(found[1], slow(*given, activation, layer, position=[3], head=1))


@pytest.mark.parametrize("kind", ["causal", "layernorm", "bidirectional"])
def test_all_heads_at_once(kind):
    model, x, forward, cache = setting(kind)
    rerun, at = model.rerun(x, **forward), torch.tensor([1, 4])
    for activation in ("q", "k", "v", "z"):
        change = rerun.enter_heads(0, activation, at, donor_of(model, cache, activation, 0), joint=True)
        agree(rerun.outputs(change)[0], slow(model, x, forward, cache, activation, 0, position=[1, 4]))


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "gelu"])
def test_groups_of_neurons(kind):
    model, x, forward, cache = setting(kind)
    rerun = model.rerun(x, **forward, keep=["mlp.hook_post"])
    groups = [torch.tensor([0, 3]), torch.tensor([5])]
    change = rerun.enter_neurons(0, groups, torch.tensor([0, 2]), cache["blocks.0.mlp.hook_post"])
    for group, found in zip(groups, rerun.outputs(change)):
        agree(found, slow(model, x, forward, cache, "post", 0, neuron=group, position=[0, 2]))


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "layernorm", "attention_only", "linear"])
def test_sets_of_heads_and_mlps(kind):
    model, x, forward, cache = setting(kind)
    generator = torch.Generator().manual_seed(3)
    heads = torch.rand(6, 2, model.cfg.n_heads, generator=generator) < 0.4
    mlps = torch.rand(6, 2, generator=generator) < (0.0 if model.cfg.attn_only else 0.4)
    heads[0], mlps[0] = False, False
    z = {layer: cache[f"blocks.{layer}.attn.hook_z"].mean(0, keepdim=True) for layer in (0, 1)}
    out = {} if model.cfg.attn_only else {layer: cache[f"blocks.{layer}.hook_mlp_out"] for layer in (0, 1)}
    found = model.rerun(x, **forward).pinned(heads, mlps, z, out)
    for which, output in enumerate(found):
        edits = [
            Edit(
                Site.at(f"blocks.{lay}.attn.hook_z", head=head),
                lambda _, n, lay=lay, head=head: z[lay][:, :, [head]],
            )
            for lay, head in heads[which].nonzero().tolist()
        ]
        edits += [
            Edit(Site.at(f"blocks.{lay}.hook_mlp_out"), lambda _, n, lay=lay: out[lay])
            for lay in mlps[which].nonzero().flatten().tolist()
        ]
        agree(output, run(model, x, edits=edits, **forward))


def test_a_patch_that_changes_nothing_or_cannot_be_seen_costs_nothing():
    model, x, forward, _ = setting("causal")
    _, own = run_with_cache(model, x)
    rerun = model.rerun(x, **forward, keep=["hook_attn_out"])
    assert (
        rerun.outputs(
            rerun.enter_stream(0, "attn_out", torch.tensor([1]), own["blocks.0.hook_attn_out"][:, None])
        )
        is None
    )
    donor = own["blocks.1.attn.hook_z"] + 1
    assert rerun.outputs(rerun.enter_heads(1, "z", torch.tensor([1]), donor)) is None


@pytest.mark.parametrize("read", ["last", "each"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_position_a_patch_of_its_own(kind, read):
    model, x, forward, cache = setting(kind, read, n_layers=3)
    at = torch.tensor([0, 2, 3])
    for activation in ("z", "q", "pattern", "resid_pre", "attn_out"):
        rerun = model.rerun(x, **forward, keep=[f"hook_{activation}"] if activation in STREAMS else [])
        for layer in (0, 1):
            donor = donor_of(model, cache, activation, layer)
            if activation in STREAMS:
                change = rerun.enter_stream(layer, activation, at, donor[:, None])
            else:
                change = rerun.enter_heads(layer, activation, at, donor)
            found = rerun.outputs(change.apart()[[1, 2, 0]] if activation in STREAMS else change.apart())
            if activation in STREAMS:
                for row, position in enumerate([2, 3, 0]):
                    agree(found[row], slow(model, x, forward, cache, activation, layer, position=[position]))
                continue
            for row, position in enumerate([0, 2, 3]):
                for head in range(model.cfg.n_heads):
                    agree(
                        found[row * model.cfg.n_heads + head],
                        slow(model, x, forward, cache, activation, layer, position=[position], head=head),
                    )


@pytest.mark.parametrize("side", ["left", "right", "within"])
@pytest.mark.parametrize("kind", ["causal", "rotary", "rotary_pairs", "alibi", "drawn", "sharper"])
def test_patches_of_padded_rows_do_what_they_do_alone(kind, side):
    model, x, forward, _ = setting(kind, "all", side)
    donor = torch.randn(ROWS, 1, 5, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    real = forward["attention_mask"]
    at = real.all(0).nonzero().flatten()

    def reached(inputs, at, given, mask=None):
        rerun = model.rerun(inputs, attention_mask=mask)
        change = rerun.enter_stream(0, "resid_pre", at, given)
        heads = [rerun.received(change, 1, 2, activation, True) for activation in "qkv"]
        keys = rerun.enter_heads(0, "k", at, given[:, 0].unflatten(-1, (3, 4)))
        return [rerun.outputs(change), rerun.outputs(keys), *heads]

    together = reached(x, at, donor, real)
    for row in range(ROWS):
        own = real[row]
        alone = reached(x[[row]][:, own], own.cumsum(0)[at] - 1, donor[[row]][:, :, own])
        for one, other in zip(together, alone):
            agree(one[:, [row]][:, :, own], other)
