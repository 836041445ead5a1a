"""Whether a network learned its task: the question before every other.

A circuit drawn from a network that answers at chance is a story about noise. Analyses take a
``Gate``, their results remember it, and claims made from the results of a network that did
not learn are *untested*, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mechinterp.result import NotLearned
from mechinterp.tasks.base import Split, Task
from mechinterp.tasks.checks import check_facts, examples


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a network scores on its task, beside what counts as having learned it.

    Args:
        score: of the network, on the split.
        trivial: of the best constant answer.
        learned_at: the score from which the task counts as learned.
        n: examples of the split.
        ceiling: the score that learning comes to, 1 where every answer can be right.
    """

    task: str
    split: Split
    score: float
    trivial: float
    learned_at: float
    n: int
    ceiling: float = 1.0

    @classmethod
    @torch.no_grad()
    def of(cls, model: Callable, task: Task, split: Split = "test") -> Gate:
        """Score a network on a split of its task; a network in training mode is scored in evaluation mode."""
        if not isinstance(task, Task):
            raise TypeError(f"expected Gate.of(model, task), got {type(task).__name__} for the task")
        facts, batch, training = check_facts(task), examples(task, split), getattr(model, "training", False)
        if training:
            model.eval()  # type: ignore[attr-defined]
        try:
            score = task.score(task.answers(model, batch), batch)
        finally:
            if training:
                model.train()  # type: ignore[attr-defined]
        return cls(
            task=facts["name"], split=split, score=score, trivial=facts["trivial"],
            learned_at=facts["learned_at"], n=len(batch), ceiling=facts["ceiling"],
        )  # fmt: skip

    @property
    def learned(self) -> bool:
        """Whether what follows is about a network that does the task.

        It must reach ``learned_at``, and fall short of the ceiling by at most half as much as the best
        constant answer: where one answer is nearly always right, giving it is not learning.
        """
        short, of = self.ceiling - self.score, self.ceiling - self.trivial
        return self.score >= self.learned_at and short <= of / 2

    def __str__(self) -> str:
        word = "learned" if self.learned else "did NOT learn"
        return (
            f"the network {word} {self.task}: {self.split} score {self.score:.4g}, needed "
            f"{self.learned_at:.4g}, trivial {self.trivial:.4g}, n {self.n}"
        )


def gated(gate: Gate | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A result's provenance with what the gate says; ``"learned"`` is ``None`` without one.

    Raises:
        TypeError: something else for a gate.

    Warns:
        NotLearned: the network did not learn its task.
    """
    if gate is not None and not isinstance(gate, Gate):
        raise TypeError(
            f"expected a Gate, or None, got {type(gate).__name__}; make one by Gate.of(model, task)"
        )
    if gate is None:
        return {**provenance, "learned": None}
    if not gate.learned:
        warnings.warn(f"{gate}; claims from this result are untested", NotLearned, stacklevel=3)
    return {**provenance, "task": gate.task, "score": round(gate.score, 6), "learned": gate.learned}
