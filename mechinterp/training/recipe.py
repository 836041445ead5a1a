"""How a network is trained: every number that matters, in one frozen record."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from mechinterp.tasks.base import tuples


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and when to stop.

    Raises:
        ValueError: a number that cannot be.
    """

    steps: int = 1000
    """Most steps to take. In full batch a step is an epoch."""

    batch_size: int | None = None
    """Examples a step, drawn without repetition within an epoch; ``None`` is the full batch."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019) for all weights; or Muon (Jordan et al. 2024) for the matrices of the
    blocks, with a momentum of .95, and AdamW for all else, to which alone ``betas``, ``eps`` and
    ``cleanup_eps`` then apply."""

    lr: float = 1e-3
    """Learning rate after the warm-up."""

    weight_decay: float = 0.0
    """Decoupled weight decay, times the learning rate a step."""

    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates of the two moments."""

    eps: float = 1e-8
    """AdamW's denominator offset."""

    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up, down to 0 at ``steps``."""

    clip_norm: float | None = None
    """Largest norm of the gradient."""

    loss_dtype: Literal["float32", "float64"] = "float32"
    """Precision of the softmax and the loss."""

    eval_every: int = 100
    """Steps between measurements of the test loss and score."""

    stop_at_score: float | None = None
    """Stop once the test score reaches this at a measurement ..."""

    cleanup_steps: int = 0
    """... and this many further steps have been taken."""

    cleanup_weight_decay: float | None = None
    """Weight decay of those further steps; ``None`` keeps it."""

    cleanup_eps: float | None = None
    """AdamW's offset in those steps; ``None`` keeps it. An offset above the size of late gradients
    lets weights that no gradient holds decay away; the sign-like steps of a small one keep them."""

    cleanup_until_score: float | None = None
    """The clean-up goes on until the test score reaches this, up to ``steps``."""

    patience: int | None = None
    """Stop after this many measurements without a lower test loss."""

    keep_best: bool = False
    """Keep the weights of the measurement with the lowest test loss."""

    checkpoints: int = 0
    """How many checkpoints the series has; the first is step 0."""

    checkpoint_spacing: Literal["log", "linear"] = "log"
    """Whether their steps are spaced evenly on a logarithmic or a linear axis."""

    save_every: int = 500
    """Steps between saves of the full state to resume from, if there is a folder."""

    seed: int = 0
    """Seed of the order of examples."""

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"expected optimizer 'adamw' or 'muon', got {self.optimizer!r}; choose one")
        positive = ("steps", "lr", "eps", "eval_every", "save_every")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} > 0, got {getattr(self, name)}; raise it")
        for name in ("weight_decay", "warmup", "cleanup_steps", "checkpoints"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}; raise it")
        for name in ("batch_size", "clip_norm", "patience"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"expected {name} > 0 or None, got {value}; raise it")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas in [0, 1), got {self.betas}; they are decay rates")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        left = 1 - (step - self.warmup) / max(1, self.steps - self.warmup)
        if self.schedule == "linear":
            return self.lr * left
        if self.schedule == "cosine":
            return self.lr * (1 - math.cos(math.pi * left)) / 2
        return self.lr

    def checkpoint_steps(self) -> frozenset[int]:
        """The steps after which the series keeps the weights."""
        if self.checkpoints == 0:
            return frozenset()
        spread = torch.linspace(0, 1, max(2, self.checkpoints), dtype=torch.float64, device="cpu")
        if self.checkpoint_spacing == "log":
            steps = (torch.exp(spread * math.log(self.steps + 1)) - 1).round()
        else:
            steps = (spread * self.steps).round()
        return frozenset(int(step) for step in steps)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Recipe:
        """A recipe from ``to_json``'s record."""
        return cls(**{name: tuples(value) for name, value in record.items()})
