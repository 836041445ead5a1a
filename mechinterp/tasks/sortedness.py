"""Is a sequence sorted? Short ones train, long ones ask whether what was learned goes on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.tasks.base import Batch, Split, Task

SHORTEST = 4
"""Tokens below which two neighbours that are no ends cannot be exchanged."""
DRAWS = 1000
"""How often sequences that cannot be unsorted are drawn again."""
PLACES = {"train": 1, "val": 2, "test": 3}


@dataclass(frozen=True, kw_only=True)
class Sortedness(Task):
    """Tell sequences that never fall from those that do, at lengths beyond those of training.

    Sequences come in pairs, one after the other: a sorted one, and the same tokens in another order. With
    ``negatives="adjacent"`` two unequal neighbours have changed places, any but the first and last token. The
    two of a pair then have the same length, ends and multiset, so that who sees only these is right in
    exactly half of all cases, and there is one fall, at any place alike. With ``"shuffle"`` the second is in
    random order, as in a published homework, and its ends mostly tell.

    Inputs ``[batch, length]`` are integers below ``vocabulary``; ``pad`` follows shorter ones where a batch
    has several lengths. The answer is read at the last token: 1 sorted, 0 not.

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

    windows: bool = False
    """Whether each sequence's tokens are drawn from a stretch of the vocabulary, as wide as all of it or
    narrower, down to that in which it is as dense as the longest ones, whose neighbours are nearly equal;
    all widths alike."""

    n_test: int = 2000
    """Sequences of the test split; of val a fifth, and so at each length asked for."""

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
        if not self.test_lengths:
            raise ValueError("expected at least one of test_lengths, got none; name some")
        for length in (*self.train_lengths, *self.test_lengths):
            self._check_length(length)
        if self.n_test < 10 * self.n_lengths or self.seed < 0:
            raise ValueError(
                f"expected n_test of at least {10 * self.n_lengths}, ten for each length of training, and "
                f"seed >= 0, got {self.n_test} and {self.seed}; raise them"
            )

    def _check_length(self, length: int) -> None:
        if length < SHORTEST:
            raise ValueError(
                f"expected lengths of at least {SHORTEST}, got {length}: of shorter ones no two neighbours "
                "between the ends can change places; raise it"
            )
        if not self.ties and length > self.vocabulary:
            raise ValueError(
                f"expected at most {self.vocabulary} different tokens, got a length of {length}; allow ties, "
                "raise vocabulary or lower the length"
            )

    @property
    def pad(self) -> int:
        """The id behind the end of shorter sequences."""
        return self.vocabulary

    @property
    def d_vocab(self) -> int:
        """Integers and the padding."""
        return self.vocabulary + 1

    @property
    def n_lengths(self) -> int:
        """How many lengths train."""
        return self.train_lengths[1] - self.train_lengths[0] + 1

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
        return self._batch(n, length, generator, variables)

    def dataset(self, split: Split) -> Batch:
        """Fixed sequences, other ones for each split: as many of each length of training, padded and masked.

        Raises:
            ValueError: no such split.
        """
        longest, each = self.train_lengths[1], max(1, self._size(split) // (2 * self.n_lengths))
        parts = [
            self.of_length(length, 2 * each, split) for length in range(self.train_lengths[0], longest + 1)
        ]

        def padded(of: list[Tensor], value: int) -> Tensor:
            grown = [torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=value) for x in of]
            return torch.cat(grown)

        lengths = torch.cat([part.variables["length"] for part in parts])
        known = {
            name: padded([part.variables[name] for part in parts], 0)
            if parts[0].variables[name].ndim == 2
            else torch.cat([part.variables[name] for part in parts])
            for name in parts[0].variables
        }
        return Batch(
            inputs=padded([part.inputs for part in parts], self.pad),
            targets=torch.cat([part.targets for part in parts]),
            read=lengths[:, None] - 1,
            mask=torch.arange(longest) < lengths[:, None],
            variables=known,
        )

    def of_length(self, length: int, n: int | None = None, split: Split = "test") -> Batch:
        """Fixed sequences of one length, other ones for each split.

        Args:
            n: how many; by default those of the split.

        Raises:
            ValueError: an odd number, no such split, or a length that cannot be.
        """
        self._check_length(length)
        size = self._size(split)
        generator = torch.Generator().manual_seed(self.seed + 10**6 * PLACES[split] + 10**3 * length)
        return self._batch(size - size % 2 if n is None else n, length, generator, True)

    def _size(self, split: str) -> int:
        if split not in PLACES:
            raise ValueError(f"expected split train, val or test, got {split!r}; there is no other")
        return self.n_test if split == "test" else self.n_test // 5

    def _batch(self, n: int, length: int, generator: torch.Generator, variables: bool) -> Batch:
        if n < 2 or n % 2:
            raise ValueError(f"expected an even number of sequences, since they come in pairs, got {n}")
        ordered, other = self._pairs(n // 2, length, generator)
        inputs = torch.stack((ordered, other), 1).flatten(0, 1)
        targets = torch.tensor([[1], [0]]).repeat(n // 2, 1)
        known = facts(inputs) if variables else {}
        return Batch(inputs=inputs, targets=targets, read=(-1,), variables=known)

    def _pairs(
        self, n: int, length: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
        """Sorted sequences, and the same tokens unsorted; what cannot be unsorted is drawn again."""
        ordered, other = (torch.empty(n, length, dtype=torch.long) for _ in range(2))
        left = torch.arange(n)
        for _ in range(DRAWS):
            drawn = self._values(len(left), length, generator).sort(1).values
            mixed, done = self._unsorted(drawn, generator)
            ordered[left], other[left] = drawn, mixed
            left = left[~done]
            if not len(left):
                return ordered, other
        raise ValueError(
            f"expected sequences of {length} with unequal neighbours, got none of {len(left)} in {DRAWS} "
            f"draws; raise vocabulary={self.vocabulary}"
        )

    def _values(self, n: int, length: int, generator: torch.Generator) -> Int[Tensor, "n length"]:
        if not self.windows:
            if self.ties:
                return torch.randint(self.vocabulary, (n, length), generator=generator)
            return torch.rand(n, self.vocabulary, generator=generator).argsort(1)[:, :length]
        draw = partial(torch.rand, generator=generator)
        least = max(2, self.vocabulary * length / self.longest) if self.ties else length
        width = (least + (self.vocabulary - least) * draw(n, 1)).round()
        start = (draw(n, 1) * (self.vocabulary - width + 1)).floor()
        if self.ties:
            return (start + (draw(n, length) * width).floor()).long()
        keys = draw(n, self.vocabulary).masked_fill(torch.arange(self.vocabulary) >= width, torch.inf)
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
        length = batch.variables["length"].long()[:, None]
        first, last = batch.inputs[:, :1].float(), batch.inputs.gather(1, length - 1).float()
        counts = torch.nn.functional.one_hot(batch.inputs, self.d_vocab)[..., : self.vocabulary].sum(1)
        return {
            "first token": first,
            "last token": last,
            "first and last token": torch.cat((first, last), 1),
            "bag of tokens": counts.float(),
            "length": length.float(),
        }


def facts(inputs: Int[Tensor, "batch length"]) -> dict[str, Tensor]:
    """The variables of sequences without padding."""
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
