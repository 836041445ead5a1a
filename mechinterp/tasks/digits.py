"""Numbers as digits, least significant first, columns of a sum, and sums that differ in one thing."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CLASSES = ("BaseAdd", "UseCarry1", "UseSum9")
"""What a column of the sum needs: its two digits; also the carry that the column before makes by itself; or
one that is handed on from further below by columns that sum to base - 1 (Quirke & Barez 2024, section 3)."""


def digits_of(x: Int[Tensor, " n"], n_digits: int, base: int) -> Int[Tensor, "n digit"]:
    """The digits of numbers."""
    return (x[:, None] // _powers(n_digits, base)) % base


def numbers_of(digits: Int[Tensor, "*n digit"], base: int) -> Int[Tensor, "*n"]:
    """Numbers of digits."""
    return (digits * _powers(digits.shape[-1], base)).sum(-1)


def columns_of(a: Int[Tensor, " n"], b: Int[Tensor, " n"], n_digits: int, base: int) -> dict[str, Tensor]:
    """What is true of each column of ``a + b``, as ``DigitAddition`` lists it."""
    sums = digits_of(a, n_digits, base) + digits_of(b, n_digits, base)
    carry = torch.zeros(len(a), n_digits + 1, dtype=torch.long)
    cascade, kind = torch.zeros_like(carry), torch.zeros_like(carry)
    nine = sums == base - 1
    for i in range(n_digits):
        carry[:, i + 1] = (sums[:, i] + carry[:, i]) >= base
        handed = (carry[:, i + 1].bool() & nine[:, i]).long()
        cascade[:, i + 1] = carry[:, i + 1] * (1 + handed * cascade[:, i])
        kind[:, i + 1] = carry[:, i + 1] + handed
    return {
        "a": a, "b": b, "sum": a + b, "digit_sum": sums, "carry_in": carry, "carry_out": carry[:, 1:],
        "sum_is_9": nine, "cascade": cascade, "class": kind, "longest": cascade.amax(1),
    }  # fmt: skip


def draw_digits(
    n: int, n_digits: int, base: int, enriched: float, generator: torch.Generator
) -> Int[Tensor, "n two digit"]:
    """Digits of pairs of numbers, drawn evenly; in a share of them half of the columns sum to base - 1."""
    digits = torch.randint(base, (n, 2, n_digits), generator=generator)
    nines = torch.rand(n, 1, generator=generator) < enriched
    nines = nines & (torch.rand(n, n_digits, generator=generator) < 0.5)
    digits[:, 1] = torch.where(nines, base - 1 - digits[:, 0], digits[:, 1])
    return digits


def pairs_of_digits(
    kind: str, column: int, n: int, n_digits: int, base: int, generator: torch.Generator
) -> tuple[Int[Tensor, "n two digit"], Int[Tensor, "n two digit"]]:
    """Pairs of problems whose sums differ by one in one column and nowhere else.

    Args:
        kind: ``"carry"``: the digits of that column are the same, and those of the column before, which
            differ, sum to s and to s - base, so that it writes the same digit with a carry and without.
            ``"digit"``: one of its own digits is one more, with no carry.
        column: at least 1.

    Returns:
        The digits with the carry, or with the larger digit, and those without.

    Raises:
        ValueError: another kind, or a column that there is not.
    """
    if kind not in ("carry", "digit") or not 1 <= column < n_digits:
        raise ValueError(
            f"expected carry or digit and a column of 1 to {n_digits - 1}, got {kind!r}, {column}; change it"
        )

    def even(most: int) -> Int[Tensor, " n"]:
        return torch.randint(most, (n,), generator=generator)

    def split(total: Int[Tensor, " n"]) -> Int[Tensor, "n two"]:
        """Two digits with that sum."""
        low, high = (total - base + 1).clamp(min=0), total.clamp(max=base - 1)
        first = low + (torch.rand(n, generator=generator) * (high - low + 1)).long()
        return torch.stack((first, total - first), 1)

    less = torch.randint(base, (n, 2, n_digits), generator=generator)
    for below in range(column):  # no carries
        less[:, :, below] = split(even(base - 1))
    less[:, :, column] = split(even(base - 1))
    more = less.clone()
    if kind == "carry":
        more[:, :, column - 1] = split(less[:, :, column - 1].sum(1) + base)
    else:
        more[torch.arange(n), even(2), column] += 1
    return more, less


def hashed(x: Int[Tensor, " n"], seed: int) -> Float[Tensor, " n"]:
    """A number in [0, 1) that looks random and is the same for an x at every time (splitmix64)."""
    x = x + torch.tensor(seed + 1) * -7046029254386353131  # a tensor's product wraps around
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return ((x ^ (x >> 31)) & ((1 << 53) - 1)).double() / (1 << 53)


def _powers(n: int, base: int) -> Int[Tensor, " n"]:
    return torch.tensor([base**i for i in range(n)])
