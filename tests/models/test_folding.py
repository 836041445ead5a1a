"""Folding changes the weights of a network and nothing that it computes."""

import pytest
import torch
from torch.testing import assert_close

from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.folding import fold_ln

SIZES = {"n_layers": 2, "d_model": 12, "n_heads": 3, "d_head": 4, "d_mlp": 20, "n_ctx": 6, "d_vocab": 9}
CASES = {
    "layernorm": {"normalization_type": "LN", "act_fn": "gelu"},
    "rms": {"normalization_type": "RMS", "positional_embedding_type": "rotary"},
    "attention_only": {"normalization_type": "LN", "attn_only": True, "attention": "linear"},
    "tied": {"normalization_type": "LN", "tie_embeddings": True},
    "without_biases": {"normalization_type": "LN", "use_biases": False},
    "split_inputs": {"normalization_type": "LN", "use_split_qkv_input": True},
    "classes": {"normalization_type": "RMS", "d_vocab_out": 4, "readout": "classes"},
}
PRECISION = {torch.float32: 1e-5, torch.float64: 1e-13}


def random_network(dtype=torch.float32, **fields):
    """A network in which no trained parameter is trivial: scales near 1, all others normal."""
    model = HookedTransformer(TransformerConfig(**SIZES | fields, dtype=dtype)).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(dtype) / 3
        if parameter.requires_grad:
            parameter.data = noise + name.endswith(".w")
    return model


@pytest.fixture
def tokens():
    return torch.randint(9, (4, 5), generator=torch.Generator().manual_seed(1))


def within(dtype):
    return {"atol": PRECISION[dtype], "rtol": PRECISION[dtype]}


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_outputs_stay(fields, dtype, tokens):
    model = random_network(dtype, **fields)
    assert_close(fold_ln(model)(tokens), model(tokens), **within(dtype))


@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_activations_stay_but_the_readout_reads_the_normalised_stream(fields, dtype, tokens):
    model = random_network(dtype, **fields)
    before, after = (dict(network.run_with_cache(tokens)[1]) for network in (model, fold_ln(model)))
    before["unembed.hook_in"] = before["ln_final.hook_normalized"]
    assert_close(after, before, **within(dtype))


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_no_scale_or_shift_is_left_and_the_given_network_is_untouched(fields, tokens):
    model = random_network(**fields)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_ln(model)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.fill_(7.0)
    assert not [name for name, _ in folded.named_parameters() if ".ln" in name or name.startswith("ln")]
    assert_close(model.state_dict(), before, atol=0, rtol=0)


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_a_bias_that_is_not_trained_is_zero(fields):
    folded = fold_ln(random_network(**fields))
    for name, parameter in folded.named_parameters():
        assert parameter.requires_grad or not parameter.any(), name


@pytest.mark.parametrize("fields", [CASES["layernorm"], CASES["rms"]], ids=["layernorm", "rms"])
def test_direct_logit_attributions_sum_to_the_logits(fields, tokens):
    folded = fold_ln(random_network(**fields))
    logits, cache = folded.run_with_cache(tokens)
    terms = cache.get_full_resid_decomposition(expand_neurons=False, apply_ln=True)
    assert_close((terms @ folded.W_U).sum(0) + folded.b_U, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [None, "LNPre", "RMSPre"])
def test_a_network_without_scales_is_refused(kind):
    with pytest.raises(ValueError, match=r"expected .* 'LN' or 'RMS', got .*use the network as it is"):
        fold_ln(random_network(normalization_type=kind))
