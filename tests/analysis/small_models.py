"""Small networks with planted heads, and a metric, that several tests of sweeps share."""

import torch

from mechinterp.models import HookedTransformer, TransformerConfig

LENGTH, WORDS = 4, 7
BASE = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 6, "d_mlp": 6, "d_vocab": WORDS}


def network(seed=0, **changes):
    """A network whose weights, biases and scales are all away from 0 and 1."""
    model = HookedTransformer(
        TransformerConfig(**BASE | {"seed": seed, "dtype": torch.float64} | changes)
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model


def only_writers(*heads, **changes):
    """A network in which some heads, as (layer, head), are all that writes to the stream."""
    model = network(**changes)
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            block.attn.b_O.zero_()
            for head in range(model.cfg.n_heads):
                if (layer, head) not in heads:
                    block.attn.W_O[head] = 0.0
            if not model.cfg.attn_only:
                block.mlp.W_out.zero_()
                block.mlp.b_out.zero_()
    return model


def tokens(seed=0, rows=12, length=LENGTH):
    return torch.randint(WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def preference(outputs):
    """How much token 1 is preferred to token 2, by example."""
    return outputs[:, -1, 1] - outputs[:, -1, 2]
