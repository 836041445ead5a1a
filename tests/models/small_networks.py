"""A table of small networks, one for each choice a config offers, that several tests run over."""

import torch

from mechinterp.models import HookedTransformer, TransformerConfig

BASE = {
    "d_model": 12,
    "d_head": 4,
    "n_layers": 2,
    "n_ctx": 7,
    "d_mlp": 10,
    "d_vocab": 4,
    "act_fn": "relu",
    "dtype": torch.float64,
}
KINDS = {
    "causal": {},
    "bidirectional": {"attention_dir": "bidirectional"},
    "linear": {"attention": "linear"},
    "linear_mean": {"attention": "linear", "average_keys": True},
    "linear_bidirectional": {"attention": "linear", "attention_dir": "bidirectional"},
    "unscaled": {"use_attn_scale": False},
    "sinusoidal": {"positional_embedding_type": "sinusoidal"},
    "rotary": {"positional_embedding_type": "rotary"},
    "rotary_pairs": {
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "rotary_adjacent_pairs": True,
        "attention_dir": "bidirectional",
    },
    "alibi": {"positional_embedding_type": "alibi"},
    "alibi_linear": {"positional_embedding_type": "alibi", "attention": "linear"},
    "no_positions": {"positional_embedding_type": "none"},
    "clamped": {"learned_positions": 3},
    "drawn": {"randomised_positions": 20, "positional_embedding_type": "sinusoidal"},
    "sharper": {"attn_log_n": 2},
    "sharper_bidirectional": {"attn_log_n": 3, "attention_dir": "bidirectional"},
    "layernorm": {"normalization_type": "LN"},
    "layernorm_folded": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS"},
    "rms_folded": {"normalization_type": "RMSPre"},
    "gelu": {"act_fn": "gelu"},
    "gelu_new": {"act_fn": "gelu_new"},
    "solu": {"act_fn": "solu"},
    "square": {"act_fn": "square"},
    "attention_only": {"attn_only": True},
    "tied": {"tie_embeddings": True},
    "without_biases": {"use_biases": False},
    "classes": {"d_vocab_out": 3, "readout": "classes"},
    "vectors": {"d_input": 3, "d_vocab_out": 2, "readout": "values"},
    "raw_tokens": {"d_input": 12, "d_vocab_out": 2, "readout": "values", "raw_tokens": True},
}
ROWS = 40
LENGTH = 5
FLAGS = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")


def config(kind="causal", **changes):
    return TransformerConfig(**BASE | KINDS[kind] | changes)


def network(kind="causal", **changes):
    """A network whose weights, biases and scales are all away from 0 and 1."""
    model = HookedTransformer(config(kind, **changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.train(not model.cfg.randomised_positions)  # else every run would draw others


def inputs(model, rows=ROWS, length=LENGTH, seed=0):
    """Token ids or vectors; few distinct (token, position) pairs, so that reuse of them pays."""
    generator = torch.Generator().manual_seed(seed)
    if model.cfg.d_input is None:
        return torch.randint(model.cfg.d_vocab, (rows, length), generator=generator)
    return torch.randn(rows, length, model.cfg.d_input, generator=generator, dtype=model.cfg.dtype)


def padding(side, rows=ROWS, length=LENGTH):
    """A mask, True at real tokens, of rows with 0 to 3 places of padding at one side or within."""
    if side is None:
        return None
    padded = torch.arange(rows)[:, None] % 4
    place = torch.arange(length)
    if side == "within":
        return (place < 1) | (place > padded)
    return place >= padded if side == "left" else place < length - padded
