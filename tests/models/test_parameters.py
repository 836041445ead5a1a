"""Weights: drawn from a seed, tied where asked, copied and saved whole."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from small_networks import KINDS, config, inputs, network

from mechinterp.models import HookedTransformer


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_draws_the_same_weights(kind):
    assert same_weights(HookedTransformer(config(kind)), HookedTransformer(config(kind)))


def test_another_seed_draws_other_weights():
    one, other = HookedTransformer(config()), HookedTransformer(config(seed=1))
    matrices = [name for name, weight in one.named_parameters() if weight.ndim > 1 and ".b_" not in name]
    assert len(matrices) == 15
    assert not any(torch.equal(one.get_parameter(name), other.get_parameter(name)) for name in matrices)


def test_building_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    HookedTransformer(config())
    assert torch.equal(torch.get_rng_state(), before)


def test_resetting_draws_from_the_given_generator():
    model = network("layernorm")
    model.reset_parameters(torch.Generator().manual_seed(model.cfg.seed))
    assert same_weights(model, HookedTransformer(config("layernorm")))


STANDARD_DEVIATIONS = {
    "fan_in": {
        "embed.W_E": 1 / 8,
        "blocks.0.attn.W_Q": 1 / 8,
        "blocks.0.mlp.W_out": 1 / 32,
        "unembed.W_U": 1 / 8,
    },
    "nanda": {
        "embed.W_E": 1 / 8,
        "blocks.0.attn.W_Q": 1 / 8,
        "blocks.0.mlp.W_out": 1 / 8,
        "unembed.W_U": 1 / 16,
    },
    "gpt2": {"embed.W_E": 0.02, "blocks.0.attn.W_Q": 0.02, "blocks.0.mlp.W_out": 0.02, "unembed.W_U": 0.02},
}


@pytest.mark.parametrize(("mode", "expected"), STANDARD_DEVIATIONS.items(), ids=STANDARD_DEVIATIONS)
def test_weights_start_with_the_spread_of_their_mode(mode, expected):
    model = HookedTransformer(config(init_mode=mode, d_model=64, d_head=16, d_mlp=1024, d_vocab=256))
    spread = {name: model.get_parameter(name).std().item() for name in expected}
    assert spread == pytest.approx(expected, rel=0.05)


def test_without_biases_they_stay_at_zero():
    model = HookedTransformer(config("without_biases"))
    model(inputs(model)).pow(2).sum().backward()
    biases = [weight for name, weight in model.named_parameters() if ".b_" in name]
    assert len(biases) == 13
    assert all(weight.grad is None and not weight.any() for weight in biases)


# Tied embeddings.
def test_a_tied_readout_is_the_transposed_embedding():
    model = network("tied")
    assert torch.equal(model.W_U, model.W_E.mT)
    assert "unembed.W_U" not in dict(model.named_parameters())


def test_a_tied_embedding_gets_the_gradients_of_both_its_uses():
    tied, untied = network("tied"), network()
    state = tied.state_dict() | {"unembed.W_U": tied.W_E.mT.detach().clone()}
    untied.load_state_dict(state)
    x = inputs(tied)
    for model in (tied, untied):
        model(x).pow(2).sum().backward()
    torch.testing.assert_close(tied.embed.W_E.grad, untied.embed.W_E.grad + untied.unembed.W_U.grad.mT)


def test_a_copy_is_tied_to_itself():
    model = network("tied")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.embed.W_E.zero_()
    assert not twin.W_U.any()
    assert model.W_U.any()


# Copies and files.
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_gives_the_same_bits(kind):
    model = network(kind)
    x = inputs(model)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_a_copy_has_hook_points_of_its_own():
    model = network()
    twin = copy.deepcopy(model)
    x = inputs(model)
    expected = model(x)
    twin.add_hook("hook_embed", lambda tensor, hook: torch.zeros_like(tensor))
    assert torch.equal(model(x), expected)
    assert not torch.equal(twin(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_survives_safetensors(kind):
    model, other = network(kind), HookedTransformer(config(kind, seed=1))
    other.train(model.training).load_state_dict(load(save(model.state_dict())))
    x = inputs(model)
    assert torch.equal(other(x), model(x))


# Views of the weights of all layers.
STACKED = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "W_in", "b_in", "W_out", "b_out")


@pytest.mark.parametrize("name", STACKED)
def test_views_stack_the_layers(name):
    model = network()
    part = "mlp" if name.endswith(("in", "out")) else "attn"
    for layer in range(2):
        assert torch.equal(getattr(model, name)[layer], model.get_parameter(f"blocks.{layer}.{part}.{name}"))


def test_circuits_are_products_of_weights():
    model = network()
    torch.testing.assert_close(model.QK.AB[1, 2], model.W_Q[1, 2] @ model.W_K[1, 2].mT)
    torch.testing.assert_close(model.OV.AB[1, 2], model.W_V[1, 2] @ model.W_O[1, 2])
    torch.testing.assert_close(model.OV.AB[1], model.blocks[1].attn.OV.AB)
    torch.testing.assert_close(model.QK.AB[1], model.blocks[1].attn.QK.AB)


@pytest.mark.parametrize("kind", ["causal", "attention_only"])
def test_accumulated_biases_are_what_a_stream_of_zeros_gathers(kind):
    model = network(kind, act_fn="square", use_biases=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith(("b_O", "b_out")):
                weight.zero_()
    stream = torch.zeros(1, 3, 12, dtype=torch.float64)
    _, cache = model.run_with_cache(stream, start_at_layer=0)
    for layer in range(2):
        torch.testing.assert_close(model.accumulated_bias(layer), cache["resid_pre", layer][0, 0])
    torch.testing.assert_close(model.accumulated_bias(2), cache["resid_post", 1][0, 0])
    if kind == "causal":
        torch.testing.assert_close(model.accumulated_bias(1, mlp_input=True), cache["resid_mid", 1][0, 0])


def test_accumulated_biases_may_leave_out_those_of_the_mlps():
    model = network()
    torch.testing.assert_close(model.accumulated_bias(2, include_mlp_biases=False), model.b_O.sum(0))


def test_blocks_are_found_by_what_they_contain():
    model = network("attention_only")
    assert [layer for layer, _ in model.blocks_with("attn")] == [0, 1]
    assert model.blocks_with("mlp") == []


@pytest.mark.parametrize("kind", ["causal", "tied"])
def test_all_weights_are_listed_under_their_names(kind):
    model = network(kind)
    assert set(model.tl_parameters()) == set(dict(model.named_parameters())) | {"unembed.W_U"}
    assert torch.equal(model.tl_parameters()["unembed.W_U"], model.W_U)
