"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

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


def named(encoding: str, direction: str) -> str:
    """What the network of an encoding and a direction is called."""
    return f"{encoding}, {direction}"


FREE, BLIND = named("none", "causal"), named("none", "bidirectional")
SINES, LEARNED = named("sinusoidal", "causal"), named("learned", "causal")


@dataclass(frozen=True, kw_only=True)
class EncodedKind(Kind):
    """One kind of network.

    Args:
        encoding: how it knows where a token stands.
        direction: whether a token sees later ones.
        negatives: how the sequences that it is trained on are unsorted.
    """

    encoding: str
    direction: str
    negatives: str = "adjacent"

    @property
    def recipe(self) -> Recipe:
        """That of ``SORTEDNESS``."""
        return SORTEDNESS["fast"]

    def posed(self, task: Sortedness) -> Sortedness:
        """With its negatives."""
        return replace(task, negatives=self.negatives)

    def asked(self, task: Sortedness) -> Sortedness:
        """The study's own, whatever it was trained on."""
        return task

    def network(self, task: Sortedness) -> HookedTransformer:
        """The untrained network."""
        return sortedness(task, self.encoding, attention_dir=self.direction, seed=task.seed)


KINDS: Mapping[str, EncodedKind] = {
    named(encoding, direction): EncodedKind(encoding=encoding, direction=direction)
    for direction in DIRECTIONS
    for encoding in ENCODINGS
} | {SHUFFLED: EncodedKind(encoding="none", direction="causal", negatives="shuffle")}
"""Six encodings in both directions, and one network that is trained on random orders."""


def sharper(model: HookedTransformer, n_keys: int) -> HookedTransformer:
    """A copy whose scores grow with the logarithm of the number of keys, from so many on."""
    made = copy.deepcopy(model)
    configs: list[nn.Module | HookedTransformer] = [made, *(block.attn for block in made.blocks)]
    for part in configs:
        part.cfg.attn_log_n = n_keys  # type: ignore[union-attr]
    return made
