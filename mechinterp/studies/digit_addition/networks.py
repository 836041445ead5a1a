"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mechinterp.analysis.gates import Gate
from mechinterp.models import generate
from mechinterp.models.factories import digit_addition
from mechinterp.models.generation import Generator
from mechinterp.studies.base import Watch, silent, train
from mechinterp.tasks.base import Batch
from mechinterp.tasks.digit_addition import DigitAddition
from mechinterp.training.fit import Fit
from mechinterp.training.recipes import DIGIT_ADDITION

REVERSED, PLAIN, UNENRICHED, ROOMY, ALONE = (
    "least significant first",
    "most significant first",
    "evenly drawn problems",
    "room for one digit more",
    "decoder alone",
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of network.

    Args:
        reverse: whether it writes the least significant digit first.
        spare: digits that its source has room for beyond those of the task.
        enriched: whether many of its training problems have columns that sum to base - 1.
        decoder_only: without an encoder.
        recipe: of ``DIGIT_ADDITION``.
    """

    reverse: bool = True
    spare: int = 0
    enriched: bool = True
    decoder_only: bool = False
    recipe: str = "fast"

    def task(self, task: DigitAddition) -> DigitAddition:
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
    REVERSED: Kind(),
    PLAIN: Kind(reverse=False, recipe="plain"),
    UNENRICHED: Kind(enriched=False),
    ROOMY: Kind(spare=1),
    ALONE: Kind(decoder_only=True),
}
"""By their names; the first is the one that is taken apart."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network, the same before training, and whether it learned.

    Args:
        task: in the network's own form.
        folder: of its training, with checkpoints.
    """

    name: str
    task: DigitAddition
    model: Generator
    untrained: Generator
    job: Fit
    gate: Gate

    def at_steps(self, steps: int) -> Generator:
        """The network as it was after so many steps, of those kept."""
        model = KINDS[self.name].network(self.task)
        model.load_state_dict(self.job.checkpoints[steps])
        return model.eval()


def trained(
    name: str, task: DigitAddition, folder: Path, watch: Watch = silent, share: float = 1.0
) -> Trained:
    """Train one kind of network on a task; what a folder holds already is read instead.

    Args:
        share: of the recipe's steps.

    Raises:
        KeyboardInterrupt: interrupted; the state is saved.
        Diverged: the loss is no longer finite.
    """
    kind = KINDS[name]
    own = kind.task(task)
    model, before = (kind.network(own) for _ in range(2))
    recipe = DIGIT_ADDITION[kind.recipe]
    recipe = replace(recipe, seed=task.seed, steps=max(1, round(share * recipe.steps)))
    job = train(model, own, recipe, folder, watch, f"{name}, seed {task.seed}")
    gate = Gate.of(model.eval(), own)
    return Trained(name=name, task=own, model=model, untrained=before.eval(), job=job, gate=gate)


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


@torch.no_grad()
def forced(model: Generator, task: DigitAddition, batch: Batch) -> torch.Tensor:
    """Which answers are right, each after the right ones before it, ``[n, n_target]``."""
    return torch.cat([task.right(task.outputs(model, part), part) for part in batch.split()])
