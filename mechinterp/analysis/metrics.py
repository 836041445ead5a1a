"""What sweeps measure: one number for each example, from the outputs at the positions read.

Each function takes what is right (and wrong) and returns a metric: a function of outputs
``[batch, read, d_out]`` that gives ``[batch]``, higher where the network does better. With several
positions read, targets are ``[batch, read]`` and the metric is their mean. Targets are paired with the
examples row by row, so a metric belongs to one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Metric = Callable[[Tensor], Tensor]


def logit_difference(right: Int[Tensor, " batch *read"], wrong: Int[Tensor, "..."]) -> Metric:
    """The logit of the right answer minus that of the wrong one.

    Raises:
        ValueError: right and wrong of different shapes.
    """
    if right.shape != wrong.shape:
        raise ValueError(
            f"expected a wrong answer for each right one, got {tuple(right.shape)} and {tuple(wrong.shape)}"
        )
    return lambda outputs: (_chosen(outputs, right) - _chosen(outputs, wrong)).mean(1)


def margin(right: Int[Tensor, " batch *read"]) -> Metric:
    """The logit of the right answer minus the largest of the others: positive where the answer is right."""

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        others = outputs.scatter(-1, _targets(outputs, right)[..., None], -torch.inf)
        return (_chosen(outputs, right) - others.amax(-1)).mean(1)

    return measure


def log_probability(right: Int[Tensor, " batch *read"]) -> Metric:
    """The log-probability of the right answer, in nats."""
    return lambda outputs: _chosen(outputs.log_softmax(-1), right).mean(1)


def accuracy(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where the largest logit is the right answer's, 0 elsewhere; a share with several positions read."""

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return (outputs.argmax(-1) == _targets(outputs, right)).to(outputs.dtype).mean(1)

    return measure


def all_right(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where all answers read are right, 0 elsewhere."""

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return (outputs.argmax(-1) == _targets(outputs, right)).all(1).to(outputs.dtype)

    return measure


def minus_squared_error(target: Float[Tensor, " batch *read"]) -> Metric:
    """Minus the squared error of the first output."""

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return -(outputs[..., 0] - _targets(outputs, target)).square().mean(1)

    return measure


def _targets(outputs: Float[Tensor, "batch read out"], targets: Tensor) -> Tensor:
    """Targets ``[batch, read]``, checked against the outputs."""
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.shape != outputs.shape[:2]:
        raise ValueError(
            f"expected targets for outputs of {tuple(outputs.shape[:2])} (batch, read), got "
            f"{tuple(targets.shape)}; make the metric from the same examples, at the same positions"
        )
    return targets.to(outputs.device)


def _chosen(outputs: Float[Tensor, "batch read out"], answers: Tensor) -> Float[Tensor, "batch read"]:
    return outputs.gather(-1, _targets(outputs, answers)[..., None]).squeeze(-1)
