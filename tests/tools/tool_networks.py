"""Small networks in evaluation mode, on which TransformerLens 4's own tools are run unchanged."""

import torch

from mechinterp.models import HookedTransformer, TransformerConfig

ROWS, LENGTH, WORDS = 3, 4, 7
KINDS = {
    "plain": {},
    "layernorm": {"normalization_type": "LN"},
    "layernorm_folded": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS"},
    "rms_folded": {"normalization_type": "RMSPre"},
    "linear": {"attention": "linear", "attention_dir": "bidirectional"},
    "rotary": {"positional_embedding_type": "rotary"},
    "alibi": {"positional_embedding_type": "alibi"},
    "sinusoidal": {"positional_embedding_type": "sinusoidal"},
    "tied": {"tie_embeddings": True, "normalization_type": "LNPre"},
}
FOLDED = [kind for kind, fields in KINDS.items() if fields.get("normalization_type") not in ("LN", "RMS")]


def network(kind="plain", **changes):
    """A network whose weights, biases and scales are all away from 0 and 1."""
    base = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 6, "d_mlp": 6, "d_vocab": WORDS}
    model = HookedTransformer(TransformerConfig(**base | {"dtype": torch.float64} | KINDS[kind] | changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def tokens(seed=0, rows=ROWS, length=LENGTH, words=WORDS):
    return torch.randint(words, (rows, length), generator=torch.Generator().manual_seed(seed))


def logit_difference(logits):
    """The mean of how much token 1 is preferred to token 2 at the last position."""
    return (logits[:, -1, 1] - logits[:, -1, 2]).mean()
