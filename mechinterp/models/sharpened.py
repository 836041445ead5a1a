"""A trained network whose attention is made sharper where there are more keys."""

from __future__ import annotations

from dataclasses import replace

from mechinterp.devices import cpu_default
from mechinterp.models.transformer import HookedTransformer


@cpu_default
def sharpened(model: HookedTransformer, n_keys: int) -> HookedTransformer:
    """A copy whose scores grow with log n from so many keys on, as ``TransformerConfig.attn_log_n`` says.

    With no more keys than that it answers as the network does. ALiBi's biases grow along.

    Args:
        n_keys: the longest length of training, say.

    Raises:
        ValueError: fewer than two keys, or linear attention.
    """
    place = {"device": str(model.W_E.device), "dtype": model.W_E.dtype}
    made = HookedTransformer(replace(model.cfg, attn_log_n=n_keys, **place))
    made.load_state_dict(model.state_dict())
    return made.train(model.training)
