"""Training networks with codebooks: what codes cost, how temperatures fall, and what is kept an eye on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.models.codebook import Codebook
from mechinterp.training.fit import Fit
from mechinterp.training.recipe import checked_number


def codebooks(model: nn.Module) -> Iterator[tuple[str, Codebook]]:
    """The codebooks of a network, by the names of their modules.

    Raises:
        ValueError: there are none.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Codebook)]
    if not found:
        raise ValueError("expected a network with codebooks, got none; build it with codebook_size > 0")
    return iter(found)


@dataclass(frozen=True, kw_only=True)
class CodebookPenalty:
    """What codes cost besides the task's loss; a ``penalty`` for ``fit``."""

    compress: float = 0.01
    """Weight of the entropy of the softmax over codes, in nats, mean over codebooks."""

    commit: float = 0.25
    """Weight of the squared distance of vectors from the codes chosen, both of the vectors to the codes and
    of the codes to the vectors (van den Oord et al. 2017, who give the latter the weight 1), mean over
    codebooks."""

    def __post_init__(self) -> None:
        for name in ("compress", "commit"):
            checked_number(name, getattr(self, name), float)

    def __call__(self, model: nn.Module) -> Float[Tensor, ""]:
        """The cost of the last run in training mode.

        Raises:
            ValueError: there was none.
        """
        found = [book for _, book in codebooks(model)]
        if not all(hasattr(book, "entropy") for book in found):
            raise ValueError("expected a run in training mode before its cost, got none; call model.train()")
        entropy = torch.stack([book.entropy for book in found]).mean()
        return self.compress * entropy + self.commit * torch.stack([book.commitment for book in found]).mean()


@dataclass(frozen=True, kw_only=True)
class Anneal:
    """A callback for ``fit`` that brings the temperature of all codebooks down from ``codebook_temperature``.

    It acts at measurements, so that ``eval_every`` sets how finely; a resumed training goes on with the
    temperature that it had. Build the network with a temperature to fall from, such as
    ``codebook_temperature=1.0``.

    Raises:
        ValueError: numbers that cannot be; when called, a network whose temperature cannot fall to ``end``.
    """

    end: float = 0.1
    """Temperature from the last step of the annealing on."""

    share: float = 1.0
    """Share of the recipe's steps in which it falls."""

    course: str = "linear"
    """How it falls: linear, or geometric (by the same factor at each step)."""

    def __post_init__(self) -> None:
        for name in ("end", "share"):
            checked_number(name, getattr(self, name), float)
        if not (self.end > 0 and 0 < self.share <= 1):
            raise ValueError(
                f"expected a temperature end > 0 and a share of steps above 0 and up to 1, got {self.end} "
                f"and {self.share}; change them"
            )
        if self.course not in ("linear", "geometric"):
            raise ValueError(f"expected course linear or geometric, got {self.course!r}; choose one")

    def at(self, start: float, share: float) -> float:
        """The temperature after a share of the steps."""
        done = min(1.0, share / self.share)
        if self.course == "linear":
            return start + done * (self.end - start)
        return start * math.exp(done * math.log(self.end / start))

    def __call__(self, job: Fit) -> None:
        """Set the temperature that the step has."""
        for _, book in codebooks(job.model):
            if book.cfg.codebook_temperature <= self.end:
                raise ValueError(
                    f"expected a temperature to fall from, above end={self.end}, got "
                    f"codebook_temperature={book.cfg.codebook_temperature}; raise that"
                )
            book.temperature.fill_(self.at(book.cfg.codebook_temperature, job.step / job.recipe.steps))


@dataclass(frozen=True, kw_only=True)
class TrackCodes:
    """A callback for ``fit`` that keeps, in ``history.tracked``, the step, and of each codebook its
    temperature (as callbacks before this one leave it), the entropy of its softmax (nats) and how many of its
    codes the last batch did not use.

    With ``revive`` such codes are replaced, at every measurement in the first half of training, by vectors
    that the codebook is given.
    """

    revive: bool = False
    """Whether to replace codes that are not used."""

    def __call__(self, job: Fit) -> None:
        """Measure, and replace."""
        found: dict[str, float] = {"step": float(job.step)}
        for name, book in codebooks(job.model):
            place = name.replace("blocks.", "L").replace(".codebook_", " ")
            dead = (book.used == 0).nonzero()[:, 0]
            found |= {
                f"{place} temperature": float(book.temperature),
                f"{place} entropy": float(book.entropy.detach()),
                f"{place} dead": float(len(dead)),
            }
            if self.revive and len(dead) and job.step <= job.recipe.steps / 2:
                book.revive(dead, book.given, seed=job.step)
        for name, value in found.items():
            job.history.tracked.setdefault(name, []).append(value)
