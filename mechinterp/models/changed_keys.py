"""Attention to keys of which each patch has changed some, and shares the others with all patches."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def stretch(at: Int[Tensor, " at"]) -> slice | Tensor:
    """The same positions as a slice, which copies nothing, where they are consecutive."""
    start, stop = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
    return slice(start, stop) if stop - start == len(at) else at


class ChangedKeys:
    """Keys and values of an intact run, and those that patches changed.

    Where every patch changed all keys from some position on, those before it and those after it are
    two products. Otherwise what is asked of the intact ones is corrected by what the changes add.

    Args:
        k, v: of the intact run, ``[batch, key, head, d_head]``.
        at: the keys that changed, one row for all patches or a row for each.
        new_k, new_v: what they are now.
    """

    def __init__(
        self,
        k: Float[Tensor, "batch key head d_head"],
        v: Float[Tensor, "batch key head d_head"],
        at: Int[Tensor, "#patch at"],
        new_k: Float[Tensor, "batch patch at head d_head"],
        new_v: Float[Tensor, "batch patch at head d_head"],
    ) -> None:
        self.columns = stretch(at[0]) if len(at) == 1 else at[:, None]
        rest = isinstance(self.columns, slice) and self.columns.stop == k.shape[1]
        self.start = self.columns.start if rest and isinstance(self.columns, slice) else None
        if self.start is None:
            intact = (x[:, None, self.columns] if len(at) == 1 else x[:, at] for x in (k, v))
            new_k, new_v = (new - old for new, old in zip((new_k, new_v), intact))
        shared = slice(0, self.start)
        self.k, self.v = k[:, shared].permute(0, 2, 3, 1), v[:, shared].transpose(1, 2)
        self.own_k, self.own_v = new_k.permute(0, 3, 1, 4, 2), new_v.permute(0, 3, 1, 2, 4)

    def scores(
        self, q: Float[Tensor, "batch some to head d_head"]
    ) -> Float[Tensor, "batch head patch to key"]:
        """Products of queries, of each patch or the same for all, and keys."""
        q, n_patches = q.permute(0, 3, 1, 2, 4), self.own_k.shape[2]
        shared = (q.flatten(2, 3) @ self.k).unflatten(2, q.shape[2:4]) if self.k.shape[-1] else None
        if q.shape[2] == n_patches:
            own = q @ self.own_k
        else:
            every = self.own_k.transpose(2, 3).flatten(3)
            own = (q[:, :, 0] @ every).unflatten(3, (n_patches, -1)).movedim(3, 2)
        if shared is None:
            return own.contiguous()
        shared = shared.expand(-1, -1, n_patches, -1, -1)
        if self.start is not None:
            return torch.cat((shared, own), -1)
        scores = shared.clone(memory_format=torch.contiguous_format)
        if isinstance(self.columns, Tensor) and self.columns.ndim == 3:
            return scores.scatter_add_(-1, self.columns.expand_as(own), own)
        scores[..., self.columns] += own
        return scores

    def mix(
        self, pattern: Float[Tensor, "batch head patch to key"]
    ) -> Float[Tensor, "batch patch to head d_head"]:
        """``z``: values in the proportions of the pattern."""
        if self.start == 0:
            z = pattern @ self.own_v
        else:
            shared = pattern[..., : self.start]
            z = (shared.flatten(2, 3) @ self.v).unflatten(2, pattern.shape[2:4]) + self._own(
                pattern
            ) @ self.own_v
        return z.permute(0, 2, 3, 1, 4)

    def _own(self, pattern: Tensor) -> Tensor:
        if self.start is not None:
            return pattern[..., self.start :]
        if isinstance(self.columns, Tensor) and self.columns.ndim == 3:
            return pattern.gather(-1, self.columns.expand(*pattern.shape[:-1], -1))
        return pattern[..., self.columns]
