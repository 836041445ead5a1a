"""The network of each task, with the sizes of the study it comes from."""

from __future__ import annotations

from typing import Any

from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.modular_addition import ModularAddition


def modular_addition(task: ModularAddition, **changes: Any) -> HookedTransformer:
    """The one-layer network of Nanda et al. (2023): no LayerNorm, no trained biases, untied.

    Args:
        task: gives the vocabulary: p numbers and ``=`` in, p numbers out.
        changes: any other field of ``TransformerConfig``, such as ``seed`` or ``d_mlp``.
    """
    fields = {
        "n_layers": 1,
        "d_model": 128,
        "n_heads": 4,
        "d_head": 32,
        "d_mlp": 512,
        "act_fn": "relu",
        "n_ctx": 3,
        "d_vocab": task.p + 1,
        "d_vocab_out": task.p,
        "use_biases": False,
        "readout": "classes",
    }
    return HookedTransformer(TransformerConfig(**fields | changes))
