"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mechinterp.analysis.gates import Gate
from mechinterp.models.factories import ENCODINGS, sortedness
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
from mechinterp.tasks.base import Batch
from mechinterp.tasks.sortedness import Sortedness
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import SORTEDNESS

DIRECTIONS = ("causal", "bidirectional")
SHUFFLED = "none, causal, on shuffles"
"""Trained on random orders, as published, and asked about exchanged neighbours like all others, too."""
DENSE = "none, causal, dense"
"""Trained on windows of the vocabulary, in which short sequences are as dense as long ones."""
DENSEST = 6
"""Integers of its narrowest windows: sixteen of them are as dense as 256 of a hundred."""


def named(encoding: str, direction: str) -> str:
    """What the network of an encoding and a direction is called."""
    return f"{encoding}, {direction}"


FREE, BLIND = named("none", "causal"), named("none", "bidirectional")
RECIPES = {
    FREE: "long",
    BLIND: "short",
    named("randomised", "causal"): "medium",
    named("sinusoidal", "bidirectional"): "medium",
    named("learned", "bidirectional"): "longest",
    named("rotary", "bidirectional"): "medium",
    named("alibi", "bidirectional"): "long",
    named("randomised", "bidirectional"): "longest",
}
"""Of networks that are not trained by the fast one. Those that learn late are trained longer, and so is the
causal one without positions, which goes on beyond the lengths of training; shorter the one that sees a bag of
tokens, which tells nothing however long it is trained."""
SINES, LEARNED = named("sinusoidal", "causal"), named("learned", "causal")


def right(model: Callable, task: Sortedness, batch: Batch) -> np.ndarray:
    """Which answers are right, ``[batch]``."""
    return (task.answers(model, batch).argmax(-1) == batch.targets)[:, 0].numpy()


def in_range(model: Any, task: Sortedness, n: int) -> float:
    """Accuracy over all lengths of training, of about n sequences in all."""
    lengths = range(task.train_lengths[0], task.train_lengths[1] + 1)
    each = max(20, 2 * math.ceil(n / 2 / len(lengths)))
    return float(np.mean([right(model, task, task.of_length(length, each)).mean() for length in lengths]))


@dataclass(frozen=True, kw_only=True)
class EncodedKind(Kind):
    """One kind of network.

    Args:
        encoding: how it knows where a token stands.
        direction: whether a token sees later ones.
        data: fields of the task that it is trained on.
        recipe_name: of ``SORTEDNESS``.
    """

    encoding: str
    direction: str
    data: Mapping[str, Any] = field(default_factory=dict)
    recipe_name: str = "fast"

    @property
    def recipe(self) -> Recipe:
        """That of its name."""
        return SORTEDNESS[self.recipe_name]

    def posed(self, task: Sortedness) -> Sortedness:
        """With its data; windows are no wider than the vocabulary."""
        own = {**self.data, "windows": min(self.data.get("windows", 0), task.vocabulary)}
        return replace(task, **own)

    def asked(self, task: Sortedness) -> Sortedness:
        """Of the whole vocabulary, and unsorted as in training."""
        return replace(self.posed(task), windows=0)

    def gate(self, model: Any, task: Sortedness) -> Gate:
        """At all lengths of training."""
        return replace(Gate.of(model, task), score=in_range(model, task, task.n_test))

    def network(self, task: Sortedness) -> HookedTransformer:
        """The untrained network."""
        return sortedness(task, self.encoding, attention_dir=self.direction, seed=task.seed)


KINDS: Mapping[str, EncodedKind] = {
    named(encoding, direction): EncodedKind(
        encoding=encoding,
        direction=direction,
        recipe_name=RECIPES.get(named(encoding, direction), "fast"),
    )
    for direction in DIRECTIONS
    for encoding in ENCODINGS
} | {
    DENSE: EncodedKind(
        encoding="none", direction="causal", data={"windows": DENSEST}, recipe_name=RECIPES[FREE]
    ),
    SHUFFLED: EncodedKind(
        encoding="none", direction="causal", data={"negatives": "shuffle"}, recipe_name="short"
    ),
}
"""Six encodings in both directions, those of ``RECIPES`` longer or shorter than others; and without positions
one that is trained on dense sequences, and one on random orders."""
