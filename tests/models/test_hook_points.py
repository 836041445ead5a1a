"""Hooks see everything and, unless they change something, change nothing."""

import pytest
import torch
from small_networks import FLAGS, KINDS, inputs, network, padding

from mechinterp.models.distinct import Distinct

GATED = {
    "use_attn_result": ("attn.hook_result",),
    "use_split_qkv_input": ("attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input"),
    "use_attn_in": ("attn.hook_attn_in",),
    "use_hook_mlp_in": ("hook_mlp_in",),
}


def nothing(tensor, hook):
    """Returns ``None``."""


def same(tensor, hook):
    return tensor


def with_hooks_everywhere(model, hook, *args, **options):
    return model.run_with_hooks(*args, fwd_hooks=[(name, hook) for name in model.hook_dict], **options)


def fired(model, *args, **options):
    names = []
    with_hooks_everywhere(model, lambda tensor, hook: names.append(hook.name), *args, **options)
    return names


@pytest.fixture
def plain(monkeypatch):
    """No reuse of distinct inputs: every activation is computed where it stands."""
    monkeypatch.setattr(Distinct, "pays", property(lambda self: False))


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("hook", [nothing, same])
@pytest.mark.parametrize("kind", KINDS)
def test_inert_hooks_leave_outputs_bit_identical(kind, hook, side, plain):
    model = network(kind, dtype=torch.float32)
    x, mask = inputs(model), padding(side)
    expected = model(x, attention_mask=mask)
    assert torch.equal(with_hooks_everywhere(model, hook, x, attention_mask=mask), expected)


@pytest.mark.parametrize("flag", FLAGS)
def test_inert_hooks_at_gated_points_leave_outputs_bit_identical(flag, plain):
    model = network(dtype=torch.float32, **{flag: True})
    x = inputs(model)
    assert torch.equal(with_hooks_everywhere(model, same, x), model(x))


@pytest.mark.parametrize("flag", FLAGS)
def test_gated_points_do_not_change_the_numbers(flag):
    model, gated = network("layernorm"), network("layernorm", **{flag: True})
    x = inputs(model)
    torch.testing.assert_close(with_hooks_everywhere(gated, same, x), model(x))


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_point_fires(kind):
    model = network(kind)
    gated = {f"blocks.{layer}.{name}" for layer in (0, 1) for names in GATED.values() for name in names}
    assert set(fired(model, inputs(model))) == set(model.hook_dict) - gated


@pytest.mark.parametrize("kind", ["causal", "layernorm", "rotary", "attention_only"])
def test_every_hook_point_fires_where_the_config_says(kind):
    there = set(FLAGS) - ({"use_hook_mlp_in"} if kind == "attention_only" else set())  # it has no MLP
    model = network(kind, **dict.fromkeys(there, True))
    assert set(fired(model, inputs(model))) == set(model.hook_dict)


@pytest.mark.parametrize(("flag", "names"), GATED.items(), ids=GATED)
def test_a_flag_opens_its_own_hook_points(flag, names):
    model = network()
    x = inputs(model)
    before = set(fired(model, x))
    getattr(model, f"set_{flag}")(True)
    assert set(fired(model, x)) - before == {f"blocks.{layer}.{name}" for layer in (0, 1) for name in names}


@pytest.mark.parametrize("kind", ["causal", "layernorm", "attention_only", "vectors"])
def test_every_hook_point_fires_once(kind):
    model = network(kind)
    names = fired(model, inputs(model))
    assert len(names) == len(set(names))


def test_reading_some_positions_hides_no_activation():
    model = network()
    x = inputs(model)
    _, cache = model.run_with_cache(x, read=(-1,))
    assert cache["blocks.1.hook_resid_post"].shape == (*x.shape, 12)


IN_PLACE = {
    "hook_q_input": {"use_split_qkv_input": True},
    "hook_k_input": {"use_split_qkv_input": True},
    "hook_v_input": {"use_split_qkv_input": True},
    "hook_attn_in": {"use_attn_in": True},
}


@torch.no_grad()
@pytest.mark.parametrize(("name", "flags"), IN_PLACE.items(), ids=IN_PLACE)
def test_writing_in_place_into_one_heads_input_leaves_the_others(name, flags):
    model = network(**flags)
    x = inputs(model)
    point = f"blocks.0.attn.{name}"

    def clear_head_1(tensor, hook):
        tensor[:, :, 1] = 0.0
        return tensor

    _, before = model.run_with_cache(x)
    with model.hooks(fwd_hooks=[(point, clear_head_1)]):
        _, after = model.run_with_cache(x)
    assert torch.equal(after[point][:, :, 0], before[point][:, :, 0])
    assert torch.equal(after["blocks.0.hook_resid_pre"], before["blocks.0.hook_resid_pre"])
    changed = {
        letter
        for letter in "qkv"
        if not torch.equal(*(c[f"blocks.0.attn.hook_{letter}"] for c in (before, after)))
    }
    assert changed == ({"q", "k", "v"} if name == "hook_attn_in" else {name[5]})


@torch.no_grad()
def test_writing_in_place_into_one_examples_positions_leaves_the_others():
    model = network()
    x = inputs(model)

    def clear_example_0(tensor, hook):
        tensor[0] = 0.0
        return tensor

    weights = model.W_pos.clone()
    changed = model.run_with_hooks(x, fwd_hooks=[("hook_pos_embed", clear_example_0)])
    assert torch.equal(model.W_pos, weights)
    torch.testing.assert_close(changed[1:], model(x)[1:])
    assert not torch.allclose(changed[0], model(x)[0])


def test_backward_hooks_see_every_gradient():
    model = network("classes", n_layers=1)
    gradients = {}
    hooks = [(name, lambda grad, hook: gradients.update({hook.name: grad})) for name in model.hook_dict]
    with model.hooks(bwd_hooks=hooks):
        model(inputs(model)).pow(2).sum().backward()
    assert set(gradients) == set(fired(model, inputs(model)))
