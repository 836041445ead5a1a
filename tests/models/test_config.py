"""A config refuses what cannot be built, and says what was expected, what came, and what to do."""

import json

import jaxtyping
import pytest
import torch
from small_networks import BASE, KINDS, config

from mechinterp.models import TransformerConfig

REFUSED = {
    "d_model_not_divisible": ({"d_head": 5}, "d_model divisible by d_head"),
    "odd_rotary": ({"d_model": 15, "d_head": 5, "positional_embedding_type": "rotary"}, "make d_head even"),
    "odd_rotary_dim": ({"positional_embedding_type": "rotary", "rotary_dim": 3}, "an even rotary_dim"),
    "rotary_dim_too_large": ({"positional_embedding_type": "rotary", "rotary_dim": 6}, "at most d_head=4"),
    "odd_sinusoidal": (
        {"d_model": 15, "d_head": 5, "positional_embedding_type": "sinusoidal"},
        "d_model even",
    ),
    "no_vocabulary": ({"d_vocab": -1}, "give d_vocab"),
    "vectors_without_outputs": ({"d_vocab": -1, "d_input": 3}, "give d_vocab_out"),
    "tied_with_other_outputs": ({"tie_embeddings": True, "d_vocab_out": 3}, "untie"),
    "tied_vectors": ({"tie_embeddings": True, "d_input": 3}, "untie"),
    "no_layers": ({"n_layers": 0}, "raise n_layers"),
    "no_context": ({"n_ctx": 0}, "raise n_ctx"),
    "no_heads": ({"n_heads": 0}, "raise n_heads"),
    "dropout_of_one": ({"dropout": 1.0}, "probability"),
    "negative_dropout": ({"dropout": -0.1}, "probability"),
    "grouped_keys": ({"n_key_value_heads": 1}, "grouped-query"),
    "activation": ({"act_fn": "tanh"}, "act_fn one of"),
    "normalisation": ({"normalization_type": "BN"}, "normalization_type one of"),
    "positions": ({"positional_embedding_type": "shortformer"}, "positional_embedding_type one of"),
    "clamped_rotary": ({"positional_embedding_type": "rotary", "learned_positions": 3}, "learned table"),
    "more_rows_than_n_ctx": ({"learned_positions": 10**6}, "learned_positions of 1 to n_ctx"),
    "few_drawn": ({"randomised_positions": 2}, "randomised_positions of at least n_ctx"),
    "drawn_rotary": ({"positional_embedding_type": "rotary", "randomised_positions": 50}, "added to the"),
    "log_1": ({"attn_log_n": 1}, "attn_log_n of at least 2"),
    "log_linear": ({"attn_log_n": 4, "attention": "linear"}, "softmax attention"),
    "attention": ({"attention": "sparse"}, "attention one of"),
    "direction": ({"attention_dir": "backwards"}, "attention_dir one of"),
    "readout": ({"readout": "words"}, "readout one of"),
    "initialisation": ({"init_mode": "xavier"}, "init_mode one of"),
}


@pytest.fixture
def unchecked(monkeypatch):
    """Without the type checks of the test run: the library's own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_an_impossible_config_is_refused_with_a_remedy(changes, words, unchecked):
    with pytest.raises(ValueError, match=r"expected .+ got .+; .+") as error:
        TransformerConfig(**BASE | changes)
    assert words in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_json_gives_the_same_config_back(kind):
    cfg = config(kind)
    assert TransformerConfig.from_json(json.loads(json.dumps(cfg.to_json()))) == cfg


def test_json_of_another_version_is_refused():
    with pytest.raises(ValueError, match=r"expected fields .+ got \['d_new'\]; .+ another version"):
        TransformerConfig.from_json(config().to_json() | {"d_new": 1})


def test_heads_follow_from_the_widths():
    assert TransformerConfig(**BASE).n_heads == 3


def test_scores_are_divided_by_the_root_of_d_head():
    assert TransformerConfig(**BASE).attn_scale == 2.0


def test_outputs_are_the_vocabulary_unless_given():
    assert TransformerConfig(**BASE).d_vocab_out == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_json_keeps_the_dtype(dtype):
    assert TransformerConfig.from_json(config(dtype=dtype).to_json()).dtype == dtype


def test_networks_are_on_the_cpu_unless_asked_for_elsewhere(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert config().device == "cpu"
    assert config(device="meta").device == "meta"
