"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mechinterp.models.factories import state_machine
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
from mechinterp.tasks.state_machine import StateMachine
from mechinterp.training.codebooks import Anneal, CodebookPenalty, TrackCodes
from mechinterp.training.fit import Callback
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import STATE_MACHINE
from mechinterp.training.step import Penalty

PUBLISHED, ONE_CODE, FREE = ("own tokens, 4 codes", "own tokens, 1 code", "own tokens, no codebooks")
SHARED, ANNEALED, SOFT, WARM, SHARED_FREE = (
    "shared tokens, 1 code",
    "shared tokens, 1 code, annealed",
    "shared tokens, soft, annealed",
    "shared tokens, soft, not annealed",
    "shared tokens, no codebooks",
)
MESS3 = "mess3, no codebooks"
WARM_AT, COLD_AT = 1.0, 0.1
"""Temperatures that annealing begins and ends with, of codes that are chosen; that where the state must be
followed are at the lower one from the start."""
SOFT_AT, SHARP_AT = 0.3, 0.02
"""And of softmaxes that pass: at the first, codes blend; at the second, one has nearly all the weight."""


@dataclass(frozen=True, kw_only=True)
class MachineKind(Kind):
    """One kind of network.

    Args:
        machine: fields of its task.
        books: fields of its codebooks; none: it has none.
        ends_at: temperature that annealing ends with; ``None``: it stays as it is.
    """

    machine: Mapping[str, Any] = field(default_factory=dict)
    books: Mapping[str, Any] = field(default_factory=dict)
    ends_at: float | None = None

    @property
    def recipe(self) -> Recipe:
        """That of ``STATE_MACHINE``."""
        return STATE_MACHINE["fast"]

    @property
    def callbacks(self) -> Sequence[Callback]:
        """Annealing, and what is kept of codebooks."""
        if not self.books:
            return ()
        return (TrackCodes(), *([] if self.ends_at is None else [Anneal(end=self.ends_at)]))

    @property
    def penalty(self) -> Penalty | None:
        """That of codes, if there are any."""
        return CodebookPenalty() if self.books else None

    def posed(self, task: StateMachine) -> StateMachine:
        """Its machine."""
        return replace(task, **self.machine)

    def network(self, task: StateMachine) -> HookedTransformer:
        """The untrained network for its machine."""
        return state_machine(task, codebooks=bool(self.books), seed=task.seed, **self.books)


_OWN, _SHARED = {"emission": "disjoint"}, {"emission": "shared"}
_ONE, _SOFT = {"codebook_temperature": WARM_AT}, {"codebook_temperature": SOFT_AT, "codebook_soft": True}
KINDS = {
    PUBLISHED: MachineKind(
        machine=_OWN,
        books={"codebook_top_k": 4, "codebook_temperature": 2.0, "codebook_noise": True},
        ends_at=0.5,
    ),
    ONE_CODE: MachineKind(machine=_OWN, books=_ONE, ends_at=COLD_AT),
    FREE: MachineKind(machine=_OWN),
    SHARED: MachineKind(machine=_SHARED, books={"codebook_temperature": COLD_AT}),
    ANNEALED: MachineKind(machine=_SHARED, books=_ONE, ends_at=COLD_AT),
    SOFT: MachineKind(machine=_SHARED, books=_SOFT, ends_at=SHARP_AT),
    WARM: MachineKind(machine=_SHARED, books=_SOFT),
    SHARED_FREE: MachineKind(machine=_SHARED),
    MESS3: MachineKind(machine={"transition": "mess3", "n_states": 8, "tokens_per_state": 3}),
}
"""By their names: a cycle of states with tokens of their own, with codebooks as published (four codes, noise,
from temperature 2 to .5), with one code at a time, and without; the same states with shared tokens, with one
code that passes throughout (the temperature, which acts on its gradient alone, is low from the start, or
falls), with softmaxes that pass in training and become sharp, or do not, and without codebooks; and a machine
whose state is never known for sure."""
