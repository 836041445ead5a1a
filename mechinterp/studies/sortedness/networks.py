"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from mechinterp.models.factories import ENCODINGS, sortedness
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
from mechinterp.tasks.sortedness import Sortedness
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import SORTEDNESS

DIRECTIONS = ("causal", "bidirectional")
SHUFFLED = "none, causal, on shuffles"
"""Trained on random orders, as published; asked about exchanged neighbours like all others."""
DENSE = "none, causal, dense"
"""Trained on windows of the vocabulary, in which short sequences are as dense as long ones."""


def named(encoding: str, direction: str) -> str:
    """What the network of an encoding and a direction is called."""
    return f"{encoding}, {direction}"


FREE, BLIND = named("none", "causal"), named("none", "bidirectional")
SINES, LEARNED = named("sinusoidal", "causal"), named("learned", "causal")


SLOW = dict.fromkeys(
    (named("alibi", "bidirectional"), *(named("randomised", direction) for direction in DIRECTIONS)), "slow"
)
"""Networks that learn late."""


@dataclass(frozen=True, kw_only=True)
class EncodedKind(Kind):
    """One kind of network.

    Args:
        encoding: how it knows where a token stands.
        direction: whether a token sees later ones.
        data: fields of the task that it is trained on.
        pace: the recipe of ``SORTEDNESS``.
    """

    encoding: str
    direction: str
    data: Mapping[str, Any] = field(default_factory=dict)
    pace: str = "fast"

    @property
    def recipe(self) -> Recipe:
        """Its recipe."""
        return SORTEDNESS[self.pace]

    def posed(self, task: Sortedness) -> Sortedness:
        """With its data."""
        return replace(task, **self.data)

    def asked(self, task: Sortedness) -> Sortedness:
        """The study's own, whatever it was trained on."""
        return task

    def network(self, task: Sortedness) -> HookedTransformer:
        """The untrained network."""
        return sortedness(task, self.encoding, attention_dir=self.direction, seed=task.seed)


KINDS: Mapping[str, EncodedKind] = {
    named(encoding, direction): EncodedKind(
        encoding=encoding, direction=direction, pace=SLOW.get(named(encoding, direction), "fast")
    )
    for direction in DIRECTIONS
    for encoding in ENCODINGS
} | {
    DENSE: EncodedKind(encoding="none", direction="causal", data={"windows": True}, pace="slow"),
    SHUFFLED: EncodedKind(encoding="none", direction="causal", data={"negatives": "shuffle"}),
}
"""Six encodings in both directions; and without positions one that is trained on dense sequences, and one on
random orders."""


def sharper(model: HookedTransformer, n_keys: int) -> HookedTransformer:
    """A copy whose scores grow with the logarithm of the number of keys, from so many on."""
    made = copy.deepcopy(model)
    configs: list[nn.Module | HookedTransformer] = [made, *(block.attn for block in made.blocks)]
    for part in configs:
        part.cfg.attn_log_n = n_keys  # type: ignore[union-attr]
    return made
