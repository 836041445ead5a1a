"""Networks of one or two layers whose heads are planted, and a bridge of TransformerLens 4."""

import pytest
import torch

from mechinterp.models import HookedTransformer, TransformerConfig

WORDS, LENGTH = 9, 12


def planted(*kinds, n_layers=1, words=WORDS, length=LENGTH, **changes):
    """A network whose stream holds the token's and the position's one-hot vectors side by side.

    Heads of the first layer look a number of positions back, at the same token (``"same"``), at the first
    position (``"first"``), or evenly (``None``).
    """
    d = words + length
    sizes = {"d_model": d, "d_head": d, "n_heads": len(kinds), "d_mlp": 8, "n_layers": n_layers}
    fields = sizes | {"n_ctx": length, "d_vocab": words, "dtype": torch.float64}
    model = HookedTransformer(TransformerConfig(**fields | changes)).eval()
    attn, token, position = model.blocks[0].attn, slice(0, words), slice(words, d)
    with torch.no_grad():
        for weight in (model.embed.W_E, model.pos_embed.W_pos, attn.W_Q, attn.W_K):
            weight.zero_()
        model.embed.W_E[:, token] = torch.eye(words)
        model.pos_embed.W_pos[:, position] = torch.eye(length)
        for head, kind in enumerate(kinds):
            if kind == "same":
                attn.W_Q[head, token, token] = 500 * torch.eye(words, dtype=torch.float64)
                attn.W_K[head, token, token] = torch.eye(words, dtype=torch.float64)
            elif kind == "first":
                attn.W_Q[head, position, 0] = 500.0
                attn.W_K[head, words, 0] = 1.0
            elif kind is not None:
                attn.W_Q[head, position, :length] = 500 * torch.eye(length, dtype=torch.float64)
                back = torch.eye(length, dtype=torch.float64)[kind:]
                attn.W_K[head, words : words + length - kind, :length] = back
    return model


def random_network(seed=0, **changes):
    """Weights and biases away from what they start with."""
    sizes = {"d_model": 8, "d_head": 4, "d_mlp": 6, "n_layers": 1}
    fields = sizes | {"n_ctx": LENGTH, "d_vocab": WORDS, "seed": seed, "dtype": torch.float64}
    model = HookedTransformer(TransformerConfig(**fields | changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def tokens(seed=0, rows=16, length=LENGTH, words=WORDS):
    return torch.randint(words, (rows, length), generator=torch.Generator().manual_seed(seed))


def bridge(normalization_type=None):
    """TransformerLens 4's native bridge with random weights; skips under version 3."""
    pytest.importorskip(
        "transformer_lens.tools.analysis.interchange", reason="the bridge of TransformerLens 4"
    )
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native import boot

    config = TransformerBridgeConfig(
        d_model=8, d_head=4, n_layers=2, n_ctx=LENGTH, n_heads=2, d_mlp=12, d_vocab=WORDS, d_vocab_out=WORDS,
        act_fn="relu", normalization_type=normalization_type, positional_embedding_type="standard",
        device="cpu", seed=0, init_mode="gpt2",
    )  # fmt: skip
    model = boot(config, dtype=torch.float64).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return model
