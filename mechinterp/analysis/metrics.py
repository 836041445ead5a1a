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
    right, wrong = _whole("right", right), _whole("wrong", wrong)
    if right.shape != wrong.shape:
        raise ValueError(
            f"expected a wrong answer for each right one, got {tuple(right.shape)} and {tuple(wrong.shape)}"
        )
    return lambda outputs: (_chosen(outputs, right) - _chosen(outputs, wrong)).mean(1)


def margin(right: Int[Tensor, " batch *read"]) -> Metric:
    """The logit of the right answer minus the largest of the others: positive where the answer is right."""
    right = _whole("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        others = outputs.scatter(-1, _answers(outputs, right)[..., None], -torch.inf)
        return (_chosen(outputs, right) - others.amax(-1)).mean(1)

    return measure


def log_probability(right: Int[Tensor, " batch *read"]) -> Metric:
    """The log-probability of the right answer, in nats."""
    right = _whole("right", right)
    return lambda outputs: _chosen(outputs.log_softmax(-1), right).mean(1)


def accuracy(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where the largest logit is the right answer's, 0 elsewhere; a share with several positions read.

    Logits of which one is NaN, or the largest infinite, are no answer.
    """
    right = _whole("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return answered(outputs, _answers(outputs, right)).to(outputs.dtype).mean(1)

    return measure


def all_right(right: Int[Tensor, " batch *read"]) -> Metric:
    """1 where all answers read are right, as ``accuracy`` has it, 0 elsewhere."""
    right = _whole("right", right)

    def measure(outputs: Float[Tensor, "batch read out"]) -> Float[Tensor, " batch"]:
        return answered(outputs, _answers(outputs, right)).all(1).to(outputs.dtype)

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


def _answers(outputs: Float[Tensor, "batch read out"], answers: Tensor) -> Int[Tensor, "batch read"]:
    """The same, which are outputs of the network."""
    targets = _targets(outputs, answers)
    if int(targets.max()) >= outputs.shape[-1]:
        raise ValueError(
            f"expected answers in [0, {outputs.shape[-1]}), the network's outputs, got {int(targets.max())}; "
            "give tokens that it can answer"
        )
    return targets


def _chosen(outputs: Float[Tensor, "batch read out"], answers: Tensor) -> Float[Tensor, "batch read"]:
    return outputs.gather(-1, _answers(outputs, answers)[..., None]).squeeze(-1)


def _whole(name: str, answers: Tensor) -> Int[Tensor, " batch *read"]:
    """Answers as int64, checked."""
    if not isinstance(answers, Tensor) or answers.is_floating_point() or answers.dtype == torch.bool:
        raise ValueError(
            f"expected {name} answers as token ids, a tensor [batch] or [batch, read] of whole numbers, got "
            f"{_said(answers)}; convert them with torch.as_tensor or .long()"
        )
    if answers.ndim not in (1, 2) or answers.numel() == 0 or int(answers.min()) < 0:
        raise ValueError(
            f"expected {name} answers [batch] or [batch, read], none negative, got {_said(answers)}; leave "
            "out padding"
        )
    return answers.long()


def _said(given: object) -> str:
    """What was given, for a message."""
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
