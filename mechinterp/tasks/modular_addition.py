"""Modular arithmetic on ``a b =``: the task in which networks grok (Power et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task

Operation = Literal["add", "subtract", "multiply", "divide"]


@cpu_default
@dataclass(frozen=True, kw_only=True)
class ModularAddition(Task):
    """``a o b mod p`` from the sequence ``a b =``, read at ``=``.

    Ids 0 to p-1 are the numbers and p is ``=``. All pairs are used, split once by ``seed``:
    ``train_fraction`` of them train, the rest test. The set-up is that of Nanda et al. (2023),
    "Progress measures for grokking via mechanistic interpretability".

    Variables of a batch: ``a``, ``b``, ``c`` and, for each Fourier frequency k = 1 .. (p-1)/2,
    ``cos_c`` and ``sin_c`` of 2 pi k c / p, ``[batch, frequency]``.

    Raises:
        ValueError: p < 2, an empty split, or division by a p that is not prime.
    """

    name: ClassVar[str] = "modular_addition"
    learned_at: ClassVar[float] = 0.99

    p: int = 113
    """The modulus."""

    operation: Operation = "add"
    """add, subtract, multiply or divide; dividing leaves out b = 0 and needs a prime p."""

    train_fraction: float = 0.3
    """The share of all pairs that train."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p < 2:
            raise ValueError(f"expected a modulus p >= 2, got {self.p}; give a larger one")
        if self.operation not in ("add", "subtract", "multiply", "divide"):
            raise ValueError(
                f"expected operation add, subtract, multiply or divide, got {self.operation!r}; "
                "choose one of them"
            )
        if self.operation == "divide" and any(self.p % d == 0 for d in range(2, math.isqrt(self.p) + 1)):
            raise ValueError(
                f"expected a prime p for division, got {self.p}; 1/b exists for every b only then"
            )
        if not 0 < self.n_train < len(self._pairs):
            raise ValueError(
                f"expected a train_fraction that leaves pairs in both splits, got "
                f"{self.train_fraction} of {len(self._pairs)} pairs; choose one between 0 and 1"
            )

    @property
    def n_train(self) -> int:
        """How many pairs train."""
        return int(self.train_fraction * len(self._pairs))

    @property
    def frequencies(self) -> range:
        """The Fourier frequencies of functions on the integers mod p, without the constant."""
        return range(1, self.p // 2 + 1)

    @property
    def trivial(self) -> float:
        """The accuracy of always giving the most frequent answer."""
        answers = self.everything.targets.flatten()
        return answers.bincount().max().item() / len(answers)

    @cached_property
    def _pairs(self) -> Int[Tensor, "pair 2"]:
        pairs = torch.cartesian_prod(torch.arange(self.p), torch.arange(self.p))
        return pairs[pairs[:, 1] != 0] if self.operation == "divide" else pairs

    @cached_property
    def _split(self) -> dict[str, Tensor]:
        order = torch.randperm(len(self._pairs), generator=torch.Generator().manual_seed(self.seed))
        return {"train": order[: self.n_train], "test": order[self.n_train :]}

    def answer(self, a: Int[Tensor, "*at"], b: Int[Tensor, "*at"]) -> Int[Tensor, "*at"]:
        """``a o b mod p``."""
        if self.operation == "add":
            return (a + b) % self.p
        if self.operation == "subtract":
            return (a - b) % self.p
        if self.operation == "multiply":
            return (a * b) % self.p
        inverse = torch.tensor([0] + [pow(b, -1, self.p) for b in range(1, self.p)])
        return (a * inverse[b]) % self.p

    @cached_property
    def everything(self) -> Batch:
        """All pairs, a the slow index and b the fast one."""
        a, b = self._pairs.unbind(1)
        c = self.answer(a, b)
        angles = 2 * torch.pi / self.p * c[:, None] * torch.tensor(list(self.frequencies))
        return Batch(
            inputs=torch.stack([a, b, torch.full_like(a, self.p)], dim=1),
            targets=c[:, None],
            read=(-1,),
            variables={"a": a, "b": b, "c": c, "cos_c": angles.cos(), "sin_c": angles.sin()},
        )

    def dataset(self, split: Split) -> Batch:
        """The pairs of a split, in the order in which the seed drew them."""
        return self.everything[self.rows(split)]

    def rows(self, split: Split) -> Int[Tensor, " row"]:
        """Which pairs a split has, as indices of ``everything``.

        Raises:
            ValueError: a split that is neither train nor test.
        """
        if split not in self._split:
            raise ValueError(f"expected split train or test, got {split!r}; there is no other")
        return self._split[split]
