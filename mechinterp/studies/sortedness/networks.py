"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mechinterp.models.factories import ENCODINGS, sortedness
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
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
SLOW = named("randomised", "bidirectional")
"""Learns last by far: it alone is trained longer."""
SINES, LEARNED = named("sinusoidal", "causal"), named("learned", "causal")


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

    def network(self, task: Sortedness) -> HookedTransformer:
        """The untrained network."""
        return sortedness(task, self.encoding, attention_dir=self.direction, seed=task.seed)


KINDS: Mapping[str, EncodedKind] = {
    named(encoding, direction): EncodedKind(encoding=encoding, direction=direction)
    for direction in DIRECTIONS
    for encoding in ENCODINGS
} | {
    SLOW: EncodedKind(encoding="randomised", direction="bidirectional", recipe_name="long"),
    DENSE: EncodedKind(encoding="none", direction="causal", data={"windows": DENSEST}),
    SHUFFLED: EncodedKind(encoding="none", direction="causal", data={"negatives": "shuffle"}),
}
"""Six encodings in both directions, trained alike but for one; and without positions one that is trained on
dense sequences, and one on random orders."""
