"""Make the golden files: what TransformerLens 3's own ``HookedTransformer`` computes.

Run it with transformer-lens 3.9 (``make golden``). For each case it writes
``<case>.safetensors``, which holds ``weights/<name>`` (its state dict), ``tokens``, ``logits`` and
``cache/<hook name>`` for every hook that fires by default; ``cases.json`` holds the configs. The
fields of a config have the same names in ``TransformerConfig``.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

HERE = Path(__file__).parent
SIZES = {
    "n_layers": 2,
    "d_model": 16,
    "n_heads": 2,
    "d_head": 8,
    "d_mlp": 32,
    "d_vocab": 11,
    "n_ctx": 7,
    "device": "cpu",
}
KINDS = {
    "layernorm_learned": {"normalization_type": "LN", "act_fn": "gelu"},
    "plain_learned": {"normalization_type": None, "act_fn": "relu"},
    "layernorm_rotary": {
        "normalization_type": "LN",
        "act_fn": "gelu_new",
        "positional_embedding_type": "rotary",
    },
    "plain_rotary": {
        "normalization_type": None,
        "act_fn": "relu",
        "positional_embedding_type": "rotary",
    },
    "layernorm_alibi": {
        "normalization_type": "LN",
        "act_fn": "solu",
        "positional_embedding_type": "alibi",
    },
    "rms_rotary_pairs": {
        "normalization_type": "RMS",
        "act_fn": "gelu",
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "rotary_base": 100.0,
        "rotary_adjacent_pairs": True,
    },
    "folded_bidirectional": {
        "normalization_type": "LNPre",
        "act_fn": "gelu",
        "attention_dir": "bidirectional",
        "use_attn_scale": False,
    },
    "attention_only": {"normalization_type": "RMSPre", "attn_only": True, "d_vocab_out": 5},
}


def randomise(model: HookedTransformer, generator: torch.Generator) -> None:
    """Draw every parameter, biases and LayerNorm's scale and shift too, so that none is trivial."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter.shape[-2] if parameter.ndim > 1 else 4
        is_scale = name.endswith(".w")
        parameter.data = 1 + 0.3 * noise if is_scale else noise / fan_in**0.5


def record(config: dict, seed: int) -> dict[str, torch.Tensor]:
    """Weights, tokens, logits and activations of one network."""
    generator = torch.Generator().manual_seed(seed)
    model = HookedTransformer(HookedTransformerConfig(**config))
    randomise(model, generator)
    tokens = torch.randint(model.cfg.d_vocab, (2, 6), generator=generator)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    tensors = {"tokens": tokens, "logits": logits}
    tensors |= {f"weights/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"cache/{name}": value for name, value in cache.items()}
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def main() -> None:
    """Write all cases."""
    warnings.simplefilter("ignore", DeprecationWarning)
    configs = {name: SIZES | kind for name, kind in KINDS.items()}
    for seed, (name, config) in enumerate(configs.items()):
        save_file(record(config, seed), HERE / f"{name}.safetensors")
    (HERE / "cases.json").write_text(json.dumps(configs, indent=1) + "\n")


if __name__ == "__main__":
    main()
