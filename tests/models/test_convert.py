"""What converting refuses, and what it tells a reader who has the wrong TransformerLens."""

import importlib.metadata

import pytest
import torch

from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.convert import (
    from_transformer_lens,
    to_transformer_lens,
    weights_from_transformer_lens,
)

SIZES = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 16, "n_ctx": 5, "d_vocab": 7}
BEYOND_TRANSFORMER_LENS = {
    "attention": {"attention": "linear"},
    "dropout": {"dropout": 0.1},
    "d_input": {"d_input": 3, "d_vocab": -1, "d_vocab_out": 1, "readout": "values"},
    "positional_embedding_type": {"positional_embedding_type": "sinusoidal"},
    "positional_embedding_type one of": {"positional_embedding_type": "none"},
    "act_fn": {"act_fn": "square"},
    "attention_dir": {"positional_embedding_type": "alibi", "attention_dir": "bidirectional"},
}


def network(**fields):
    return HookedTransformer(TransformerConfig(**SIZES | fields))


@pytest.mark.parametrize(("field", "fields"), BEYOND_TRANSFORMER_LENS.items())
def test_what_transformer_lens_cannot_express_is_refused_by_name(field, fields):
    with pytest.raises(ValueError, match=f"expected {field}.*got"):
        to_transformer_lens(network(**fields))


@pytest.mark.parametrize("convert", [to_transformer_lens, from_transformer_lens])
def test_version_4_is_told_which_version_is_expected(convert, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.3.0")
    with pytest.raises(ImportError, match=r"expected transformer-lens>=3.9,<4.*got 4.3.0; install"):
        convert(network())


@pytest.mark.parametrize("positions", ["standard", "rotary", "alibi"])
def test_a_state_dict_of_transformer_lens_keeps_only_our_weights(positions):
    model = network(positional_embedding_type=positions)
    buffers = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
    extra = {f"blocks.0.attn.{name}": torch.zeros(1) for name in buffers}
    theirs = {"pos_embed.W_pos": torch.zeros(5, 8)} | model.state_dict() | extra
    assert weights_from_transformer_lens(theirs, model.cfg).keys() == model.state_dict().keys()
