"""TransformerLens's ActivationCache takes our networks' streams apart into parts that sum to them."""

import pytest
import torch
from tool_networks import FOLDED, KINDS, LENGTH, ROWS, network, tokens

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

KINDS = [*KINDS, "attention_only"]
PLACES = {"before_1": (1, False), "inside_1": (1, True), "after_all": (2, False)}


def cached(kind, **changes):
    changes |= {"attn_only": True} if kind == "attention_only" else {}
    model = network("plain" if kind == "attention_only" else kind, **changes)
    return model, model.run_with_cache(tokens())[1]


def stream(cache, layer, mlp_input):
    return cache["resid_mid", layer] if mlp_input else cache["resid_post", layer - 1]


def places(kind):
    return {name: place for name, place in PLACES.items() if not (kind == "attention_only" and place[1])}


CASES = [(kind, *place) for kind in KINDS for place in places(kind).values()]
NAMES = [f"{kind}-{name}" for kind in KINDS for name in places(kind)]
everywhere = pytest.mark.parametrize(("kind", "layer", "mlp_input"), CASES, ids=NAMES)


@everywhere
def test_components_sum_to_the_stream(kind, layer, mlp_input):
    _, cache = cached(kind)
    parts = cache.decompose_resid(layer, mlp_input=mlp_input)
    torch.testing.assert_close(parts.sum(0), stream(cache, layer, mlp_input))


@pytest.mark.parametrize("expand", [False, True])
@everywhere
def test_heads_neurons_embeddings_and_biases_sum_to_the_stream(kind, layer, mlp_input, expand):
    _, cache = cached(kind)
    parts = cache.get_full_resid_decomposition(layer, mlp_input=mlp_input, expand_neurons=expand)
    torch.testing.assert_close(parts.sum(0), stream(cache, layer, mlp_input))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_their_bias_sum_to_what_attention_writes(kind):
    model, cache = cached(kind)
    heads, labels = cache.stack_head_results(return_labels=True)
    assert labels == ["L0H0", "L0H1", "L1H0", "L1H1"]
    for layer in range(2):
        written = heads[2 * layer : 2 * layer + 2].sum(0) + model.b_O[layer]
        torch.testing.assert_close(written, cache["attn_out", layer])


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_the_remainder_sum_to_the_stream(kind):
    _, cache = cached(kind)
    heads = cache.stack_head_results(incl_remainder=True)
    torch.testing.assert_close(heads.sum(0), cache["resid_post", 1])


def test_heads_worked_out_later_are_those_of_hook_result():
    model, cache = cached("plain")
    cache.compute_head_results()
    model.set_use_attn_result(True)
    _, with_results = model.run_with_cache(tokens())
    for layer in range(2):
        torch.testing.assert_close(cache["result", layer], with_results["result", layer])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "attention_only"])
def test_neurons_and_their_bias_sum_to_what_the_mlp_writes(kind):
    model, cache = cached(kind)
    neurons = cache.stack_neuron_results(2)
    for layer in range(2):
        torch.testing.assert_close(
            neurons[6 * layer : 6 * layer + 6].sum(0) + model.b_out[layer], cache["mlp_out", layer]
        )
    together = cache.stack_neuron_results(2, incl_remainder=True).sum(0)
    torch.testing.assert_close(together, cache["resid_post", 1])


@pytest.mark.parametrize("incl_mid", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "attention_only"])
def test_accumulated_streams_are_those_of_the_hooks(kind, incl_mid):
    _, cache = cached(kind)
    streams, labels = cache.accumulated_resid(incl_mid=incl_mid, return_labels=True)
    for found, label in zip(streams, labels):
        layer, place = label.split("_")
        name = f"blocks.{1 if layer == 'final' else layer}.hook_resid_{place}"
        assert torch.equal(found, cache[name])


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_accumulated_stream_reads_out_as_the_logits(kind):
    model, cache = cached(kind)
    last = cache.accumulated_resid(apply_ln=True)[-1]
    torch.testing.assert_close(last @ model.W_U + model.b_U, model(tokens()))


NORMED = [kind for kind in KINDS if kind.startswith(("layernorm", "rms", "tied"))]
NORMS = {"ln1": (1, False), "ln2": (1, True), "ln_final": (2, False)}


@pytest.mark.parametrize(("norm", "place"), NORMS.items(), ids=NORMS)
@pytest.mark.parametrize("kind", NORMED)
def test_normalised_parts_sum_to_the_normalised_stream(kind, norm, place):
    _, cache = cached(kind)
    layer, mlp_input = place
    parts = cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True)
    name = "ln_final" if norm == "ln_final" else f"blocks.1.{norm}"
    torch.testing.assert_close(parts.sum(0), cache[f"{name}.hook_normalized"])


@pytest.mark.parametrize("kind", NORMED)
def test_a_stack_is_normalised_as_one(kind):
    _, cache = cached(kind)
    parts = cache.get_full_resid_decomposition(expand_neurons=False)
    normalised = cache.apply_ln_to_stack(parts).sum(0)
    torch.testing.assert_close(normalised, cache["ln_final.hook_normalized"])


@pytest.mark.parametrize("kind", FOLDED)
def test_attributions_sum_to_the_difference_of_logits(kind):
    model, cache = cached(kind)
    right, wrong = tokens(1), tokens(2)
    attributed = cache.logit_attrs(cache.decompose_resid(), right, wrong).sum(0)
    logits = model(tokens()) - model.b_U
    expected = logits.gather(-1, right[..., None]) - logits.gather(-1, wrong[..., None])
    torch.testing.assert_close(attributed, expected[..., 0])


# Without a norm there is no scale in the cache, which the tool asks for even so: apply_ln is False.
@pytest.mark.parametrize("kind", ["plain", "layernorm_folded", "rms_folded"])
def test_projecting_early_is_projecting_late(kind):
    model, cache = cached(kind)
    direction, apply_ln = model.tokens_to_residual_directions(3), kind != "plain"
    early = cache.get_full_resid_decomposition(apply_ln=apply_ln, project_output_onto=direction)
    torch.testing.assert_close(early, cache.get_full_resid_decomposition(apply_ln=apply_ln) @ direction)


def test_activations_of_all_layers_stack():
    _, cache = cached("plain")
    assert cache.stack_activation("pattern").shape == (2, ROWS, 2, LENGTH, LENGTH)
    assert torch.equal(cache.stack_activation("post")[1], cache["blocks.1.mlp.hook_post"])


def test_a_slice_of_the_batch_is_a_cache():
    _, cache = cached("plain")
    row = cache.apply_slice_to_batch_dim(1)
    assert torch.equal(row["z", 0], cache["z", 0][1])
    torch.testing.assert_close(row.decompose_resid().sum(0), cache["resid_post", 1][1])


def test_a_batch_of_one_can_lose_its_axis():
    model = network()
    _, cache = model.run_with_cache(tokens()[:1], remove_batch_dim=True)
    assert cache["resid_post", 1].shape == (LENGTH, 8)
    torch.testing.assert_close(cache.get_full_resid_decomposition().sum(0), cache["resid_post", 1])


def test_gradients_are_cached_beside_activations():
    model = network()
    _loss, cache = model.run_with_cache(tokens(), return_type="loss", incl_bwd=True)
    readout = cache["unembed.hook_out_grad"]
    logits = model(tokens()).detach().requires_grad_()
    torch.nn.functional.cross_entropy(logits[:, :-1].mT, tokens()[:, 1:]).backward()
    torch.testing.assert_close(readout, logits.grad)
    torch.testing.assert_close(cache["blocks.1.hook_resid_post_grad"], logits.grad @ model.W_U.mT)


@pytest.mark.parametrize("kind", ["plain", "layernorm"])
def test_one_name_or_many_may_be_cached(kind):
    model = network(kind)
    _, cache = model.run_with_cache(tokens(), names_filter=lambda name: name.endswith("hook_z"))
    assert set(cache) == {"blocks.0.attn.hook_z", "blocks.1.attn.hook_z"}
