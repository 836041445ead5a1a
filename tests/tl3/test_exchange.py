"""Networks go to TransformerLens 3's class and back, and compute the same on either side."""

import re

import pytest
import torch
from torch.testing import assert_close

from mechinterp.hooks import transformer_lens_3
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.convert import from_transformer_lens, to_transformer_lens

try:
    TheirTransformer, TheirConfig = transformer_lens_3()
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

SIZES = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 24, "n_ctx": 7, "d_vocab": 11}
SHARED = {
    "plain": {"normalization_type": None},
    "LN": {"normalization_type": "LN"},
    "LNPre": {"normalization_type": "LNPre"},
    "RMS": {"normalization_type": "RMS"},
    "RMSPre": {"normalization_type": "RMSPre"},
    "rotary": {"normalization_type": "LN", "positional_embedding_type": "rotary"},
    "part rotary": {"normalization_type": "LN", "positional_embedding_type": "rotary", "rotary_dim": 2},
    "rotary pairs": {
        "normalization_type": None,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": True,
        "rotary_base": 500.0,
    },
    "alibi": {"normalization_type": "LN", "positional_embedding_type": "alibi"},
    "bidirectional": {"normalization_type": "LN", "attention_dir": "bidirectional"},
    "bidirectional rotary": {
        "normalization_type": "RMS",
        "attention_dir": "bidirectional",
        "positional_embedding_type": "rotary",
    },
    "attention only": {"normalization_type": "LN", "attn_only": True},
    "gelu": {"normalization_type": "LN", "act_fn": "gelu"},
    "gelu_new": {"normalization_type": "LN", "act_fn": "gelu_new"},
    "solu": {"normalization_type": "LN", "act_fn": "solu"},
    "unscaled": {"normalization_type": None, "use_attn_scale": False},
    "scaled by 3": {"normalization_type": None, "attn_scale": 3.0},
    "other outputs": {"normalization_type": "LN", "d_vocab_out": 5},
    "every hook": {
        "normalization_type": "LN",
        "use_attn_result": True,
        "use_split_qkv_input": True,
        "use_attn_in": True,
        "use_hook_mlp_in": True,
    },
    "float64": {"normalization_type": "LN", "dtype": torch.float64},
}
OURS_ONLY = {
    "tied": {"normalization_type": "LN", "tie_embeddings": True},
    "classes": {"d_vocab_out": 3, "readout": "classes"},
    "untrained biases": {"use_biases": False},
}
THEIRS_ONLY = {
    "gated_mlp": {"gated_mlp": True},
    "n_key_value_heads": {"n_key_value_heads": 1},
    "parallel_attn_mlp": {"parallel_attn_mlp": True},
    "positional_embedding_type": {"positional_embedding_type": "shortformer"},
    "act_fn": {"act_fn": "silu"},
    "act_fn one of": {"act_fn": "solu_ln"},
    "attn_scores_soft_cap": {"attn_scores_soft_cap": 5.0},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "use_local_attn": {"use_local_attn": True, "window_size": 2, "attn_types": ["local", "global"]},
    "use_qk_norm": {"use_qk_norm": True},
    "final_rms": {"final_rms": True},
    "rotary_scaling_factor": {"positional_embedding_type": "rotary", "rotary_scaling_factor": 2.0},
    "attention_dir": {"positional_embedding_type": "alibi", "attention_dir": "bidirectional"},
}
# TransformerLens 3 keeps the inputs of attention on the block, version 4 and ours on the attention.
MOVED = re.compile(r"(blocks\.\d+)\.(hook_(?:q|k|v)_input|hook_attn_in)$")


def randomise(model):
    """Leave no parameter trivial."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / 3
        parameter.data = noise + name.endswith(".w")
    return model


def ours(**fields):
    return randomise(HookedTransformer(TransformerConfig(**SIZES | fields)))


def assert_compute_the_same(mine, theirs):
    """The same logits, and the same activations under the same names, to 1e-5."""
    tokens = torch.randint(11, (3, 6), generator=torch.Generator().manual_seed(1))
    my_logits, my_cache = mine.run_with_cache(tokens)
    their_logits, their_cache = theirs.run_with_cache(tokens)
    renamed = {MOVED.sub(r"\1.attn.\2", name): value for name, value in their_cache.items()}
    assert_close(my_logits, their_logits, atol=1e-5, rtol=0)
    assert_close(dict(my_cache.items()), renamed, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fields", (SHARED | OURS_ONLY).values(), ids=SHARED | OURS_ONLY)
def test_ours_computes_the_same_as_transformer_lens(fields):
    model = ours(**fields)
    assert_compute_the_same(model, to_transformer_lens(model))


@pytest.mark.parametrize("fields", SHARED.values(), ids=SHARED)
def test_a_network_of_transformer_lens_computes_the_same_as_ours(fields):
    theirs = randomise(TheirTransformer(TheirConfig(**SIZES | {"act_fn": "relu"} | fields)))
    assert_compute_the_same(from_transformer_lens(theirs), theirs)


@pytest.mark.parametrize("fields", SHARED.values(), ids=SHARED)
def test_there_and_back_is_the_same_config_and_the_same_weights(fields):
    model = ours(**fields)
    back = from_transformer_lens(to_transformer_lens(model))
    chosen = {"readout": model.cfg.readout}  # A config does not say whether outputs are tokens.
    assert back.cfg.to_json() | chosen == model.cfg.to_json()
    assert_close(back.state_dict(), model.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(("field", "fields"), THEIRS_ONLY.items())
def test_what_ours_cannot_express_is_refused_by_name(field, fields):
    theirs = TheirTransformer(TheirConfig(**SIZES | {"act_fn": "relu"} | fields))
    with pytest.raises(ValueError, match=f"expected {field}.*got"):
        from_transformer_lens(theirs)


def test_frozen_parameters_and_the_mode_go_along_and_weights_are_copies():
    model = ours(use_biases=False).eval()
    theirs = to_transformer_lens(model)
    assert not theirs.training
    assert not theirs.b_U.requires_grad
    assert theirs.W_U.requires_grad
    assert not from_transformer_lens(theirs).b_U.requires_grad
    theirs.W_U.data.zero_()
    assert model.W_U.any()


def test_converting_leaves_the_global_random_numbers_alone():
    model = ours()
    state = torch.get_rng_state()
    from_transformer_lens(to_transformer_lens(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_only_the_class_of_transformer_lens_is_taken():
    with pytest.raises(TypeError, match="expected TransformerLens's HookedTransformer, got"):
        from_transformer_lens(ours())


# TransformerLens's ALiBi counts padding between two tokens in their distance; ours does not.
PADDED = [(kind, side) for kind in ("LN", "rotary", "rotary pairs") for side in ("left", "within")]


@pytest.mark.parametrize(("kind", "side"), [*PADDED, ("alibi", "left")])
def test_real_tokens_of_padded_sequences_are_answered_alike(kind, side):
    model = ours(**SHARED[kind])
    tokens = torch.randint(11, (6, 7), generator=torch.Generator().manual_seed(0))
    padded = torch.arange(6)[:, None] % 4
    real = torch.arange(7) >= padded if side == "left" else (torch.arange(7) < 1) | (torch.arange(7) > padded)
    theirs = to_transformer_lens(model)(tokens, attention_mask=real.long())
    assert_close(model(tokens, attention_mask=real)[real], theirs[real], rtol=1e-4, atol=1e-5)
