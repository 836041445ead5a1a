"""How a network is trained: every number that matters, in one frozen record."""

from __future__ import annotations

import difflib
import functools
import math
import numbers
import reprlib
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from mechinterp.tasks.base import tuples

POSITIVE = (
    "steps",
    "batch_size",
    "lr",
    "eps",
    "clip_norm",
    "eval_every",
    "cleanup_eps",
    "patience",
    "save_every",
)
"""Fields that must be above 0, where they are set."""

NOT_NEGATIVE = ("weight_decay", "warmup", "cleanup_steps", "cleanup_weight_decay", "checkpoints", "seed")
"""Fields that must be 0 or more, where they are set."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and when to stop.

    Raises:
        TypeError: a field of another type, such as ``steps=10.5``.
        ValueError: a number that cannot be, or a choice that does not exist.
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
        for name, kind in _kinds().items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))

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


@functools.cache
def _kinds() -> dict[str, Any]:
    """The types of a recipe's fields, by name."""
    return get_type_hints(Recipe)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """A field's value as its type has it, such as an ``int`` for a whole number of numpy's.

    Raises:
        TypeError: a value of another type.
        ValueError: a value that the field cannot have.
    """
    options = get_args(kind)
    if type(None) in options:
        if value is None:
            return None
        kind, or_none = options[0], " or None"
    else:
        or_none = ""
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in options:
            near = difflib.get_close_matches(value, options, n=1) if isinstance(value, str) else []
            remedy = f"did you mean {near[0]!r}?" if near else "choose one"
            raise ValueError(f"expected {name} one of {list(options)}, got {reprlib.repr(value)}; {remedy}")
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError(f"expected {name} to be True or False, got {reprlib.repr(value)}; choose one")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)) or len(value) != len(options):
            raise TypeError(
                f"expected {name} as a pair of numbers, got {reprlib.repr(value)}; such as (0.9, 0.98)"
            )
        pair = tuple(checked_number(name, each, float) for each in value)
        if not all(0 <= each < 1 for each in pair):
            raise ValueError(f"expected {name} in [0, 1), got {reprlib.repr(value)}; they are decay rates")
        return pair
    number = checked_number(name, value, kind, or_none)
    if name in POSITIVE and not number > 0:
        raise ValueError(f"expected {name} > 0{or_none}, got {reprlib.repr(value)}; raise it")
    if name in NOT_NEGATIVE and not number >= 0:
        raise ValueError(f"expected {name} >= 0{or_none}, got {reprlib.repr(value)}; raise it")
    return number


def checked_number(name: str, value: Any, kind: type, or_none: str = "") -> Any:
    """A whole number below ``2**63``, or a finite one, as a plain one of Python.

    Raises:
        TypeError, ValueError: something else.
    """
    whole = kind is int
    wanted = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise TypeError(
            f"expected {name} as a {'whole ' if whole else ''}number{or_none}, got {reprlib.repr(value)} of "
            f"type {type(value).__name__}; convert it"
        )
    if whole:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"expected {name} below 2**63, got {value:.3e}; lower it")
        return int(value)
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError(f"expected {name} as a finite number{or_none}, got {reprlib.repr(value)}; change it")
    return value if isinstance(value, int) else float(value)
