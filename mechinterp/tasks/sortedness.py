"""Is a sequence sorted? Short ones train, long ones ask whether what was learned goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task

SHORTEST = 4
"""Tokens below which two neighbours that are no ends cannot be exchanged."""
DRAWS = 1000
"""How often sequences that cannot be unsorted are drawn again."""
PLACES = {"train": 1, "val": 2, "test": 3}


@cpu_default
@dataclass(frozen=True, kw_only=True)
class Sortedness(Task):
    """Tell sequences that never fall from those that do, at lengths beyond those of training.

    Sequences come in pairs, one after the other: a sorted one, and the same tokens in another order. With
    ``negatives="adjacent"`` two unequal neighbours have changed places, any but the first and last token. The
    two of a pair then have the same length, ends and multiset, so that who sees only these is right in
    exactly half of all cases, and there is one fall, at any place alike. With ``"shuffle"`` the second is in
    random order, as in a published homework, and its ends mostly tell.

    Inputs ``[batch, length]`` are integers below ``vocabulary``, and the answer is read at the last token: 1
    sorted, 0 not. A batch has one length: nothing is padded. Longer sequences are denser, their neighbours
    nearly equal; ``of_length(..., as_dense_as=...)`` gives short ones as dense, to tell the two apart.

    Variables: ``place`` of the first fall ``[batch]``, the token that is smaller than the one before it, -1
    if there is none; ``gap``, by how much, 0 if there is none; ``tie_rate``, the share of neighbours that are
    equal when sorted; ``length``; ``prefix_max``, the largest token so far, ``[batch, pos]``; ``descent``,
    where a token is below it.

    Raises:
        ValueError: a vocabulary of fewer than two, lengths below 4, lengths of different tokens beyond the
            vocabulary, an unknown kind of negatives.
    """

    name: ClassVar[str] = "sortedness"
    learned_at: ClassVar[float] = 0.99
    samples: ClassVar[bool] = True
    watched: ClassVar[Split] = "val"

    vocabulary: int = 100
    """Integers from 0 up."""

    train_lengths: tuple[int, int] = (8, 16)
    """The shortest and the longest sequences of training; all lengths between are as frequent."""

    test_lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Lengths at which is asked."""

    negatives: str = "adjacent"
    """How sequences are unsorted: adjacent or shuffle."""

    ties: bool = True
    """Whether a token may occur twice."""

    windows: int = 0
    """The least width of the stretch of the vocabulary that each sequence's tokens are drawn from; all widths
    between that and the whole are as likely, these two half as likely. 0 always draws from the whole."""

    n_test: int = 2000
    """Sequences of the test split, at each length; of val a fifth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary < 2:
            raise ValueError(
                f"expected a vocabulary of at least 2, got {self.vocabulary}: equal tokens are always "
                "sorted; raise it"
            )
        if self.negatives not in ("adjacent", "shuffle"):
            raise ValueError(f"expected negatives adjacent or shuffle, got {self.negatives!r}; choose one")
        if len(self.train_lengths) != 2 or self.train_lengths[0] > self.train_lengths[1]:
            raise ValueError(
                f"expected train_lengths of the shortest and the longest, got {self.train_lengths}; give two"
            )
        if list(self.test_lengths) != sorted(set(self.test_lengths)) or not self.test_lengths:
            raise ValueError(
                f"expected test_lengths that increase, at least one, got {self.test_lengths}; sort them"
            )
        for length in (*self.train_lengths, *self.test_lengths):
            self._check_length(length)
        if not (self.windows == 0 or 2 <= self.windows <= self.vocabulary):
            raise ValueError(
                f"expected windows of 2 to {self.vocabulary} integers, or 0 for the whole vocabulary, got "
                f"{self.windows}; change it"
            )
        if self.n_test < 10 or self.seed < 0:
            raise ValueError(
                f"expected n_test >= 10 and seed >= 0, got {self.n_test} and {self.seed}; raise them"
            )

    def _check_length(self, length: int) -> None:
        if not isinstance(length, int) or length < SHORTEST:
            raise ValueError(
                f"expected whole lengths of at least {SHORTEST}, got {length}: of shorter ones no two "
                "neighbours between the ends can change places; raise it"
            )
        if not self.ties and length > self.vocabulary:
            raise ValueError(
                f"expected at most {self.vocabulary} different tokens, got a length of {length}; allow ties, "
                "raise vocabulary or lower the length"
            )

    @property
    def d_vocab(self) -> int:
        """How many integers there are."""
        return self.vocabulary

    @property
    def longest(self) -> int:
        """The longest sequence of any kind."""
        return max(self.train_lengths[1], *self.test_lengths)

    @property
    def trivial(self) -> float:
        """Always the same answer: half are sorted."""
        return 0.5

    # ---- sequences -------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n sequences, all of one length, which is drawn.

        Raises:
            ValueError: an odd number, since they come in pairs.
        """
        shortest, longest = self.train_lengths
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return self._batch(n, length, generator, variables, self._widths)

    def dataset(self, split: Split) -> Batch:
        """Fixed sequences of the longest length of training, other ones for each split.

        Raises:
            ValueError: no such split.
        """
        return self.of_length(self.train_lengths[1], split=split)

    def of_length(
        self, length: int, n: int | None = None, split: Split = "test", as_dense_as: int | None = None
    ) -> Batch:
        """Fixed sequences of one length, other ones for each split, drawn anew like those of training.

        Args:
            n: how many; by default those of the split.
            as_dense_as: a length whose sequences, drawn from the whole vocabulary, have as many tokens for
                each integer; these are then drawn from a stretch that is narrower by as much.

        Raises:
            ValueError: an odd number, no such split, a length that cannot be, or a density that cannot.
        """
        self._check_length(length)
        size, widths, other = self._size(split), self._widths, 0
        if as_dense_as is not None:
            if not self.can_be_as_dense(length, as_dense_as):
                raise ValueError(
                    f"expected a density that {length} tokens can have, got that of {as_dense_as}, for which "
                    f"{self.vocabulary} integers are too few; change vocabulary or length"
                )
            other = round(self.vocabulary * length / as_dense_as)
            widths = (other, other)
        generator = torch.Generator().manual_seed(self.seed + 10**6 * PLACES[split] + 10**3 * length + other)
        return self._batch(size - size % 2 if n is None else n, length, generator, True, widths)

    def can_be_as_dense(self, length: int, other: int) -> bool:
        """Whether sequences of a length can have as many tokens for each integer as those of another."""
        return (2 if self.ties else length) <= self.vocabulary * length / other <= self.vocabulary

    @property
    def _widths(self) -> tuple[int, int]:
        """Of the stretches that tokens are drawn from."""
        return self.windows or self.vocabulary, self.vocabulary

    def _size(self, split: str) -> int:
        if split not in PLACES:
            raise ValueError(f"expected split train, val or test, got {split!r}; there is no other")
        return self.n_test if split == "test" else self.n_test // 5

    def _batch(
        self,
        n: int,
        length: int,
        generator: torch.Generator,
        variables: bool,
        widths: tuple[int, int],
    ) -> Batch:
        if n < 2 or n % 2:
            raise ValueError(f"expected an even number of sequences, since they come in pairs, got {n}")
        draw = partial(self._values, length=length, generator=generator, widths=widths)
        ordered, other = self._pairs(n // 2, length, generator, draw)
        inputs = torch.stack((ordered, other), 1).flatten(0, 1)
        targets = torch.tensor([[1], [0]]).repeat(n // 2, 1)
        known = facts(inputs) if variables else {}
        return Batch(inputs=inputs, targets=targets, read=(-1,), variables=known)

    def _pairs(
        self, n: int, length: int, generator: torch.Generator, draw: Callable[[int], Tensor]
    ) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
        """Sorted sequences, and the same tokens unsorted; what cannot be unsorted is drawn again."""
        ordered, other = (torch.empty(n, length, dtype=torch.long) for _ in range(2))
        left = torch.arange(n)
        for _ in range(DRAWS):
            drawn = draw(len(left)).sort(1).values
            mixed, done = self._unsorted(drawn, generator)
            ordered[left], other[left] = drawn, mixed
            left = left[~done]
            if not len(left):
                return ordered, other
        raise ValueError(
            f"expected sequences of {length} with unequal neighbours, got none of {len(left)} in {DRAWS} "
            f"draws; raise vocabulary={self.vocabulary}"
        )

    def _values(
        self, n: int, length: int, generator: torch.Generator, widths: tuple[int, int]
    ) -> Int[Tensor, "n length"]:
        """Tokens, from stretches of the vocabulary of any width from the least to the most."""
        size, draw = self.vocabulary, partial(torch.rand, generator=generator)
        least, most = (max(width, 2 if self.ties else length) for width in widths)
        width = (least + (most - least) * draw(n, 1)).round()
        start = (draw(n, 1) * (size - width + 1)).floor()
        if self.ties:
            return (start + (draw(n, length) * width).floor()).long()
        keys = draw(n, size).masked_fill(torch.arange(size) >= width, torch.inf)
        return start.long() + keys.argsort(1)[:, :length]

    def _unsorted(
        self, ordered: Int[Tensor, "n length"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "n length"], Bool[Tensor, " n"]]:
        """Other orders of sorted tokens, and which of them do fall."""
        if self.negatives == "shuffle":
            order = torch.rand(ordered.shape, generator=generator).argsort(1)
            mixed = ordered.gather(1, order)
            return mixed, (mixed.diff(dim=1) < 0).any(1)
        unequal = ordered[:, 2:-1] > ordered[:, 1:-2]
        weights = (1 - torch.rand(unequal.shape, generator=generator)) * unequal
        at = weights.argmax(1, keepdim=True) + 1
        mixed = ordered.clone()
        mixed.scatter_(1, at, ordered.gather(1, at + 1)).scatter_(1, at + 1, ordered.gather(1, at))
        return mixed, unequal.any(1)

    # ---- what tells without the order ------------------------------------------------------

    def leaks(self, batch: Batch) -> dict[str, Float[Tensor, "batch feature"]]:
        """What could tell the answer though it is not the order: the ends, the tokens as a bag, the
        length."""
        counts = torch.zeros(len(batch), self.vocabulary)
        counts.scatter_add_(1, batch.inputs, torch.ones(batch.inputs.shape))
        first, last = batch.inputs[:, :1].float(), batch.inputs[:, -1:].float()
        return {
            "first token": first,
            "last token": last,
            "first and last token": torch.cat((first, last), 1),
            "bag of tokens": counts,
            "length": batch.variables["length"][:, None].float(),
        }


def facts(inputs: Int[Tensor, "batch length"]) -> dict[str, Tensor]:
    """The variables of sequences."""
    drop = (inputs[:, :-1] - inputs[:, 1:]).clamp_min(0)
    falls = drop > 0
    first = falls.byte().argmax(1)
    any_fall = falls.any(1)
    prefix_max = inputs.cummax(1).values
    return {
        "place": torch.where(any_fall, first + 1, -1),
        "gap": torch.where(any_fall, drop.gather(1, first[:, None])[:, 0], 0),
        "tie_rate": (inputs.sort(1).values.diff(dim=1) == 0).double().mean(1),
        "length": torch.full((len(inputs),), inputs.shape[1]),
        "prefix_max": prefix_max,
        "descent": inputs < prefix_max,
    }
