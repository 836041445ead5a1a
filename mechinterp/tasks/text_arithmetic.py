"""Sums and residues of two numbers that are written as text, answered by a number, a class or circles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, predicted
from mechinterp.tasks.texts import TextArithmetic


@cpu_default
@dataclass(frozen=True, kw_only=True)
class TextSum(TextArithmetic):
    """Answer the sum of two numbers by a single number, the sum over ``unit``; the loss is the mean square.

    The score is R^2: the share of the answers' variance that is not lost.
    """

    name: ClassVar[str] = "text_sum"
    score_name: ClassVar[str] = "r2"
    learned_at: ClassVar[float] = 0.999

    scale: float | None = None
    """What sums are divided by; by default ``2 max_operand + 2``, which is 2000 as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"expected scale > 0, got {self.scale}; raise it")

    @property
    def unit(self) -> float:
        """What sums are divided by."""
        return 2.0 * self.max_operand + 2.0 if self.scale is None else self.scale

    @property
    def d_answer(self) -> int:
        """Outputs of the network."""
        return 1

    @property
    def trivial(self) -> float:
        """R^2 of the mean."""
        return 0.0

    def answer(self, total: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The sum itself."""
        return total

    def encoded(self, answer: Int[Tensor, " n"]) -> Float[Tensor, "n 1 1"]:
        """Sums over ``unit``."""
        return (answer / self.unit).float()[:, None, None]

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Mean squared error, in units of ``unit`` squared."""
        return (outputs.to(dtype) - batch.targets.to(dtype)).square().mean()

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """R^2."""
        return r_squared(outputs, batch.targets)

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """The root of the mean squared error in units of the sum, and how often rounding gives the sum."""
        off = (outputs.double() - batch.targets) * self.unit
        return {"rmse": off.square().mean().sqrt().item(), "exact": (off.abs() < 0.5).double().mean().item()}


READOUTS = ("classes", "circle", "value")


@cpu_default
@dataclass(frozen=True, kw_only=True)
class TextModular(TextArithmetic):
    """Answer the sum of two numbers mod k.

    By ``readout`` the network answers one of k classes (the loss is cross-entropy); points on circles, cosine
    and sine of 2 pi f m / k for each of ``frequencies`` f (the loss is the mean square, and the residue whose
    points are nearest counts); or, as was published, the residue over ``scale`` as a number (the score is
    then R^2). Of other readouts the score is the accuracy.

    A further variable of a batch is ``residue``.
    """

    name: ClassVar[str] = "text_modular"
    learned_at: ClassVar[float] = 0.95

    k: int = 97
    """The modulus."""

    template: str = "({x} + {y}) mod k = ?"
    """How a problem is written."""

    readout: str = "classes"
    """What is answered: classes, circle or value."""

    frequencies: tuple[int, ...] | None = None
    """Of the circles; by default up to five between 1 and ``k // 2``. Together they must tell all residues
    apart."""

    scale: float = 2000.0
    """What residues are divided by as values."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 2:
            raise ValueError(f"expected a modulus k >= 2, got {self.k}; raise it")
        if self.readout not in READOUTS:
            raise ValueError(f"expected readout {', '.join(READOUTS)}, got {self.readout!r}; choose one")
        high, chosen = self.k // 2, self.frequencies
        if chosen is not None and (
            not chosen or not all(1 <= f <= high for f in chosen) or math.gcd(self.k, *chosen) > 1
        ):
            raise ValueError(
                f"expected frequencies of 1 to {high}, at least one, that have no divisor in common with "
                f"k = {self.k}, so that no two residues share all their points, got {chosen}; change them"
            )
        if not self.scale > 0:
            raise ValueError(f"expected scale > 0, got {self.scale}; raise it")

    @property
    def classes(self) -> bool:  # type: ignore[override]
        """Whether outputs are logits of residues."""
        return self.readout == "classes"

    @property
    def score_name(self) -> str:  # type: ignore[override]
        """R^2 of values, otherwise accuracy."""
        return "r2" if self.readout == "value" else "accuracy"

    @property
    def d_answer(self) -> int:
        """Outputs of the network."""
        return {"classes": self.k, "circle": self.circles.shape[1], "value": 1}[self.readout]

    @property
    def trivial(self) -> float:
        """Of the most frequent residue, or R^2 of the mean."""
        if self.readout == "value":
            return 0.0
        counts = (torch.arange(self.max_operand + 1) % self.k).bincount(minlength=self.k).double()
        turned = torch.stack([counts.flip(0).roll(m + 1) for m in range(self.k)])
        return ((turned @ counts).max() / counts.sum() ** 2).item()

    def answer(self, total: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The residue."""
        return total % self.k

    def named(self, total: Int[Tensor, " n"]) -> dict[str, Tensor]:
        """The residue."""
        return {"residue": total % self.k}

    @cached_property
    def circles(self) -> Float[Tensor, "residue out"]:
        """The points of each residue, a cosine and a sine for each frequency."""
        high = self.k // 2
        spread = (1, *(max(1, round(high * share)) for share in (0.04, 0.11, 0.23, 0.48)))
        chosen = sorted(set(spread)) if self.frequencies is None else self.frequencies
        turns = torch.outer(torch.arange(self.k), torch.tensor(chosen)) % self.k
        angles = 2 * torch.pi * turns.double() / self.k
        return torch.stack((angles.cos(), angles.sin()), -1).flatten(1).float()

    def encoded(self, answer: Int[Tensor, " n"]) -> Tensor:
        """Classes ``[n, 1]``, points ``[n, 1, 2 * frequencies]`` or values ``[n, 1, 1]``."""
        if self.classes:
            return answer[:, None]
        return (
            self.circles[answer][:, None]
            if self.readout == "circle"
            else (answer / self.scale)[:, None, None]
        )

    def loss(
        self, outputs: Float[Tensor, "batch read out"], batch: Batch, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, ""]:
        """Cross-entropy in nats of classes, otherwise the mean squared error."""
        if self.classes:
            return super().loss(outputs, batch, dtype)
        return (outputs.to(dtype) - batch.targets.to(dtype)).square().mean()

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """The share of right residues; of values R^2."""
        if self.readout == "value":
            return r_squared(outputs, batch.targets)
        right = batch.targets if self.classes else self.residues(batch.targets)
        return (self.residues(outputs) == right).double().mean().item()

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """Of values, how often rounding gives the residue."""
        if self.readout != "value":
            return {}
        right = self.residues(outputs) == self.residues(batch.targets)
        return {"accuracy": right.double().mean().item()}

    def residues(self, outputs: Float[Tensor, "batch read out"]) -> Int[Tensor, "batch read"]:
        """The residues that outputs mean."""
        if self.readout == "value":
            return (outputs * self.scale).round().long().clamp(0, self.k - 1)[..., 0]
        return predicted(outputs if self.classes else outputs @ self.circles.T.to(outputs))


def r_squared(outputs: Float[Tensor, "*n"], targets: Float[Tensor, "*n"]) -> float:
    """The share of the targets' variance that is not lost.

    Raises:
        ValueError: targets that are all the same, of which there is no variance to explain.
    """
    outputs, targets = outputs.double(), targets.double()
    if bool((targets == targets.flatten()[0]).all()):
        raise ValueError(
            "expected answers that differ, got one for all problems: R^2 is undefined; give more"
        )
    return 1 - ((outputs - targets).square().mean() / targets.var(correction=0)).item()
