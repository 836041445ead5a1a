"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from mechinterp.models import generate
from mechinterp.models.factories import digit_addition
from mechinterp.models.generation import Generator
from mechinterp.studies.networks import Kind
from mechinterp.tasks.base import Batch
from mechinterp.tasks.digit_addition import DigitAddition
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import DIGIT_ADDITION

REVERSED, PLAIN, UNENRICHED, ROOMY, ALONE = (
    "least significant first",
    "most significant first",
    "evenly drawn problems",
    "room for one digit more",
    "decoder alone",
)


@dataclass(frozen=True, kw_only=True)
class DigitKind(Kind):
    """One kind of network.

    Args:
        reverse: whether it writes the least significant digit first.
        spare: digits that its source has room for beyond those of the task.
        enriched: whether many of its training problems have columns that sum to base - 1.
        decoder_only: without an encoder.
        speed: of the recipe, ``DIGIT_ADDITION[speed]``.
    """

    reverse: bool = True
    spare: int = 0
    enriched: bool = True
    decoder_only: bool = False
    speed: str = "fast"

    @property
    def recipe(self) -> Recipe:
        """One of ``DIGIT_ADDITION``."""
        return DIGIT_ADDITION[self.speed]

    def posed(self, task: DigitAddition) -> DigitAddition:
        """Its own form of a task."""
        room = task.n_digits + self.spare if self.spare else None
        share = task.enriched if self.enriched else 0.0
        return replace(task, reverse=self.reverse, room=room, enriched=share)

    def network(self, task: DigitAddition, **changes: Any) -> Generator:
        """The untrained network for its form of the task; its target has room for spare digits too."""
        if self.spare:
            changes = {"n_ctx": task.n_target + self.spare, **changes}
        return digit_addition(task, self.decoder_only, seed=task.seed, **changes)


KINDS = {
    REVERSED: DigitKind(),
    PLAIN: DigitKind(reverse=False, speed="long"),
    UNENRICHED: DigitKind(enriched=False),
    ROOMY: DigitKind(spare=1),
    ALONE: DigitKind(decoder_only=True),
}
"""By their names; the first is the one that is taken apart."""


@torch.no_grad()
def written(model: Generator, task: DigitAddition, batch: Batch) -> torch.Tensor:
    """What a network writes, greedily, for the problems of a batch, ``[n, n_target]``."""
    found = []
    for part in batch.split():
        mask = None if part.mask is None else part.mask[:, : task.n_source + 1]
        prompt = part.inputs[:, : task.n_source + 1]
        new = generate(model, prompt, task.n_target, end=task.end, attention_mask=mask)
        found.append(torch.nn.functional.pad(new, (0, task.n_target - new.shape[1]), value=task.end))
    return torch.cat(found)


def exact(model: Generator, task: DigitAddition, batch: Batch) -> torch.Tensor:
    """Which problems a network writes right, greedily, ``[n]``."""
    return (written(model, task, batch) == batch.targets).all(1)


def forced(model: Generator, task: DigitAddition, batch: Batch) -> torch.Tensor:
    """Which answers are right, each after the right ones before it, ``[n, n_target]``."""
    return task.right(task.answers(model, batch), batch)
