"""How much a network computes, counted from what it runs."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model, check_takes
from mechinterp.tasks.base import Batch


@checked
@torch.no_grad()
def flops(model: torch.nn.Module, batch: Batch) -> float:
    """Floating-point operations of the matrix products of a forward pass, for each prompt of a batch.

    A product of an ``n x m`` and an ``m x p`` matrix counts ``2 n m p``, as torch counts the operations that
    it carries out; what is done entry by entry counts nothing. Only what the outputs at ``batch.read`` need
    is computed, and so counted.
    """
    check_model(model)
    check_takes(model, "read", "build it by models, or give it read=")
    extra = {} if batch.mask is None else {"attention_mask": batch.mask}
    with FlopCounterMode(display=False) as counter:
        model(batch.inputs, read=batch.read, **extra)
    return counter.get_total_flops() / len(batch)
