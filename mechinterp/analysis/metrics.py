"""What sweeps measure: one number for each example, from the outputs at the positions read.

Each function takes what is right (and wrong) and returns a metric: a function of outputs
``[batch, read, d_out]`` that gives ``[batch]``, higher where the network does better. With several
positions read, targets are ``[batch, read]`` and the metric is their mean. Targets are paired with the
examples row by row, so a metric belongs to one batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Metric = Callable[[Tensor], Tensor]


def logit_difference(right: Int[Tensor, " batch *read"], wrong: Int[Tensor, "..."]) -> Metric:
    """The logit of the right answer minus that of the wrong one.

    Raises:
        ValueError: right and wrong of different shapes.
    """
    for_, against = _Answers("right", right), _Answers("wrong", wrong)
    if right.shape != wrong.shape:
        raise ValueError(
            f"expected a wrong answer for each right one, got {tuple(right.shape)} and {tuple(wrong.shape)}"
        )
    return lambda outputs: (for_.chosen(outputs) - against.chosen(outputs)).mean(1)


def margin(right: Int[Tensor, " batch *read"]) -> Metric:
    """The logit of the right answer minus the largest of the others: positive where the answer is right."""
    answers = _Answers("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        others = outputs.scatter(-1, answers.of(outputs)[..., None], -torch.inf)
        return (answers.chosen(outputs) - others.amax(-1)).mean(1)

    return measure


def log_probability(right: Int[Tensor, " batch *read"]) -> Metric:
    """The log-probability of the right answer, in nats."""
    answers = _Answers("right", right)
    return lambda outputs: answers.chosen(outputs.log_softmax(-1)).mean(1)


def accuracy(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where the largest logit is the right answer's, 0 elsewhere; a share with several positions read.

    Logits of which one is NaN, or the largest infinite, are no answer.
    """
    answers = _Answers("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return answered(outputs, answers.of(outputs)).to(outputs.dtype).mean(1)

    return measure


def all_right(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where all answers read are right, as ``accuracy`` has it, 0 elsewhere."""
    answers = _Answers("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return answered(outputs, answers.of(outputs)).all(1).to(outputs.dtype)

    return measure


def minus_squared_error(target: Float[Tensor, " batch *read"]) -> Metric:
    """Minus the squared error of the first output."""
    if not isinstance(target, Tensor) or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"expected targets as numbers [batch] or [batch, read], got {_said(target)}")

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return -(outputs[..., 0] - _targets(outputs, target)).square().mean(1)

    return measure


def answered(outputs: Float[Tensor, "*any out"], right: Int[Tensor, "*any"]) -> Bool[Tensor, "*any"]:
    """Whether the largest output is the right one; NaN and infinity are no largest."""
    return (outputs.argmax(-1) == right) & outputs.amax(-1).isfinite()


def _targets(outputs: Float[Tensor, "batch read out"], targets: Tensor) -> Tensor:
    """Targets ``[batch, read]``, checked against the outputs."""
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.shape != outputs.shape[:2]:
        raise ValueError(
            f"expected targets for outputs of {tuple(outputs.shape[:2])} (batch, read), got "
            f"{tuple(targets.shape)}; make the metric from the same examples, at the same positions"
        )
    return targets.to(outputs.device)


class _Answers:
    """Answers as int64, checked once.

    Raises:
        ValueError: they are no whole numbers ``[batch]`` or ``[batch, read]``, or negative.
    """

    def __init__(self, name: str, ids: Tensor) -> None:
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ValueError(
                f"expected {name} answers as token ids, a tensor [batch] or [batch, read] of whole numbers, "
                f"got {_said(ids)}; convert them with torch.as_tensor or .long()"
            )
        if ids.ndim not in (1, 2) or ids.numel() == 0 or int(ids.min()) < 0:
            raise ValueError(
                f"expected {name} answers [batch] or [batch, read], none negative, got {_said(ids)}; leave "
                "out padding"
            )
        self.ids, self.most = ids.long(), int(ids.max())

    def of(self, outputs: Float[Tensor, "batch read out"]) -> Int[Tensor, "batch read"]:
        """As ``_targets``, and outputs of the network."""
        if self.most >= outputs.shape[-1]:
            raise ValueError(
                f"expected answers in [0, {outputs.shape[-1]}), the network's outputs, got {self.most}; "
                "give tokens that it can answer"
            )
        return _targets(outputs, self.ids)

    def chosen(self, outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, "batch read"]:
        """Their outputs."""
        return outputs.gather(-1, self.of(outputs)[..., None]).squeeze(-1)


def _said(given: object) -> str:
    """What was given, for a message."""
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
