"""The networks that the study compares, and how each is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mechinterp.models.factories import text_arithmetic
from mechinterp.models.transformer import HookedTransformer
from mechinterp.studies.networks import Kind
from mechinterp.tasks.text_arithmetic import TextModular, TextSum
from mechinterp.tasks.texts import TextArithmetic
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import TEXT_ARITHMETIC

SUM, PUBLISHED, RESIDUE, NUMBER = (
    "sum",
    "residue as published",
    "residue",
    "residue as a number",
)


@dataclass(frozen=True, kw_only=True)
class TextKind(Kind):
    """One kind of network.

    Args:
        modular: whether it answers the residue of the sum.
        speed: of the recipe, ``TEXT_ARITHMETIC[speed]``.
        fields: of its task, besides the numbers and the modulus.
    """

    modular: bool = False
    speed: str = "fast"
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """One of ``TEXT_ARITHMETIC``."""
        return TEXT_ARITHMETIC[self.speed]

    def posed(self, task: TextModular) -> TextArithmetic:
        """Its own form of a task."""
        if self.modular:
            return replace(task, **self.fields)
        own = {"max_operand": task.max_operand, "n_test": task.n_test, "seed": task.seed}
        return TextSum(**own | self.fields)

    def network(self, task: TextArithmetic) -> HookedTransformer:
        """The untrained network for its form of the task."""
        return text_arithmetic(task, seed=task.seed)


SHORT = {"template": "{x}+{y}=", "zero_padded": True}
KINDS = {
    SUM: TextKind(),
    PUBLISHED: TextKind(
        modular=True, speed="published", fields={"readout": "value", "padding_side": "right"}
    ),
    RESIDUE: TextKind(modular=True, speed="residue", fields=SHORT),
    NUMBER: TextKind(modular=True, speed="residue", fields=SHORT | {"readout": "value"}),
}
"""By their names: sums of numbers of any length; residues as published, by a single number; and as classes,
with leading zeros, so that a character's place says what it is worth. The last differs from these in its
readout only."""
