"""The network of each task, with the sizes of the study it comes from."""

from __future__ import annotations

from typing import Any

from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.tasks.regex_language import RegexLanguage


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


def regex_language(task: RegexLanguage, **changes: Any) -> HookedTransformer:
    """One causal layer with dropout and fixed sinusoidal positions, which answers symbol and class.

    It takes words of up to twice the task's longest, so that longer ones can be tried.

    Args:
        task: gives the vocabulary, the same for inputs and outputs.
        changes: any other field of ``TransformerConfig``, such as ``n_layers``, ``n_heads`` (heads share
            d_model evenly), ``tie_embeddings`` or ``positional_embedding_type``.

    Raises:
        ValueError: d_model that the heads cannot share evenly.
    """
    fields = {
        "n_layers": 1,
        "d_model": 64,
        "n_heads": 4,
        "d_mlp": 256,
        "act_fn": "relu",
        "dropout": 0.1,
        "n_ctx": 2 * task.max_len + 1,
        "d_vocab": task.d_vocab,
        "positional_embedding_type": "sinusoidal",
        "readout": "classes",
    } | changes
    if fields["n_heads"] < 1 or fields["d_model"] % fields["n_heads"]:
        raise ValueError(
            f"expected a d_model that {fields['n_heads']} heads share evenly, got {fields['d_model']}; "
            "change one"
        )
    return HookedTransformer(TransformerConfig(**{"d_head": fields["d_model"] // fields["n_heads"]} | fields))
