"""What an ablated activation becomes: zero, its mean, or its value in another example.

Zero is off the distribution and flatters whoever writes a constant; the mean keeps the constant and loses
the information; resampling loses the information and stays on the distribution. They answer
different questions, so every ablation names its reference (Chan et al. 2022; Zhang & Nanda 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mechinterp.analysis.checks import check_attention_mask, said
from mechinterp.analysis.patches import mask_of
from mechinterp.analysis.setting import activations

REFERENCES = ("zero", "mean", "resample")
"""What an ablated activation may become."""


@torch.no_grad()
def references(
    model: Any,
    names: Sequence[str],
    kind: str,
    inputs: Tensor,
    held_out: Tensor | None,
    *,
    attention_mask: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The values of some hook points under a reference, by name.

    Args:
        names: hook names.
        inputs: the examples that will be ablated, ``[batch, pos]``.
        held_out: others of the same length, from which the mean (position by position, over real
            tokens) or the resampled examples come; not needed for zero.

    Returns:
        Tensors with a batch of 1 (zero, mean) or of all examples (resample; one donor an example, the same
        for all names, which has real tokens wherever the example has some).

    Raises:
        ValueError: an unknown kind, no held-out examples, or ones that do not fit or are too short.
    """
    check_reference(kind, inputs, held_out)
    if held_out is not None:
        check_attention_mask(held_out_mask, held_out)
    if held_out is not None and kind != "zero" and attention_mask is not None and held_out_mask is None:
        raise ValueError(
            "expected a mask of the held-out examples beside that of the inputs, got none; give "
            "held_out_mask, all True where nothing is padded"
        )
    source, mask = (inputs[:1], None) if held_out is None or kind == "zero" else (held_out, held_out_mask)
    cache = activations(model, source, names, mask)
    if kind == "zero":
        return {name: torch.zeros_like(cache[name]) for name in names}
    if kind == "resample":
        donors = _donors(len(source), len(inputs), mask, attention_mask, seed)
        return {name: cache[name][donors] for name in names}
    if mask is None:
        return {name: cache[name].mean(0, keepdim=True) for name in names}
    if attention_mask is not None:
        lacking = attention_mask.bool().any(0) & ~mask.bool().any(0)
        if bool(lacking.any()):
            raise ValueError(
                "expected held-out examples with real tokens wherever inputs have some, got none at "
                f"positions {lacking.nonzero().flatten().tolist()}; give longer ones"
            )
    return {name: _real_mean(cache[name], mask_of(model, name, mask)) for name in names}


def _donors(n: int, wanted: int, mask: Tensor | None, own: Tensor | None, seed: int) -> Tensor:
    """One of n held-out examples for each input, with real tokens wherever that has some."""
    generator = torch.Generator().manual_seed(seed)
    if mask is None or own is None:
        return torch.randint(n, (wanted,), generator=generator)
    lacks = own.bool().cpu().double() @ (~mask.bool().cpu()).double().T  # [input, held-out], tokens
    if alone := int((lacks.amin(1) > 0).sum()):
        raise ValueError(
            "expected for every input a held-out example with real tokens wherever that has some, got none "
            f"for {alone} of {wanted}; give longer held-out examples"
        )
    return torch.multinomial((lacks == 0).double(), 1, generator=generator)[:, 0]


def _real_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Over real tokens, position by position."""
    weight = mask.double() / mask.double().sum(0).clamp(min=1)
    exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return torch.einsum("bp,bp...->p...", weight.to(exact.dtype), exact)[None].to(x.dtype)


def check_reference(kind: str, inputs: Tensor, held_out: Tensor | None) -> None:
    """Refuse a reference that is not one.

    Raises:
        ValueError: an unknown kind, no held-out examples, or ones that do not fit.
    """
    if kind not in REFERENCES:
        raise ValueError(f'expected a reference "zero", "mean" or "resample", got {kind!r}')
    if kind == "zero":
        return
    if held_out is None or len(held_out) == 0:
        raise ValueError(f"expected held_out examples for a {kind} ablation, got none; give some")
    if held_out is inputs:
        raise ValueError("expected held_out examples other than the inputs, got the same; split the data")
    if held_out.is_floating_point() != inputs.is_floating_point():
        raise ValueError(f"expected held_out like the inputs, {said(inputs)}, got {said(held_out)}")
    if held_out.shape[1:] != inputs.shape[1:]:
        raise ValueError(
            f"expected held_out examples of shape {tuple(inputs.shape[1:])} each, got "
            f"{tuple(held_out.shape[1:])}; means and donors go position by position"
        )


def random_signs(own: Tensor, becomes: Tensor, seed: int) -> Tensor:
    """A change of the same size at every coordinate, in a direction that means nothing."""
    signs = torch.randint(2, own.shape, generator=torch.Generator().manual_seed(seed)).to(own) * 2 - 1
    return own + signs * (becomes - own)
