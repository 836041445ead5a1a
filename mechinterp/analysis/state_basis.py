"""States as directions of the stream: what each adds to it, and a probe that reads which is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StateBasis:
    """States as directions of the stream.

    Args:
        write: what the stream holds in each state, on average.
        read: a linear probe: the stream times this is near 1 for its state and near 0 for others.
        accuracy: the share of held-out vectors whose state it reads rightly.
        trivial: the share of the most frequent state.
    """

    write: Float[Tensor, "state d_model"]
    read: Float[Tensor, "d_model state"]
    accuracy: float
    trivial: float

    def __call__(self, W_V: Float[Tensor, "head d e"], W_O: Float[Tensor, "head e d"]) -> Tensor:
        """OV circuits in the basis of states, ``[head, state, next]``: what each state's vector writes."""
        return self.write @ W_V.detach().double().cpu() @ W_O.detach().double().cpu() @ self.read


def state_basis(
    x: Float[Tensor, "n d"],
    states: Int[Tensor, " n"],
    *,
    n_states: int | None = None,
    groups: Int[Tensor, " n"] | None = None,
    seed: int = 0,
) -> StateBasis:
    """The basis of states in some activations: a probe fitted on half of them, means over the other half.

    The probe is ridge regression on states as one-hot vectors, without an intercept, with a penalty of
    1e-6 of the mean square: an exact code is read exactly.

    Args:
        n_states: how many there are; ``None``: up to the largest here.
        groups: what belongs together, such as the places of a word, and is in one half. ``None``: each
            example may be in either, state by state.

    Raises:
        ValueError: a state that is missing from one of the halves; fewer dimensions than states.
    """
    x, states = x.detach().double().cpu(), states.cpu()
    if n_states is None:
        n_states = max(states.tolist(), default=0) + 1
    if len(x) != len(states) or not bool(x.isfinite().all()):
        raise ValueError(
            f"expected a finite vector for each of {len(states)} states, got {len(x)}, or NaN or infinity in "
            "them; give activations of the same examples"
        )
    if x.shape[1] < n_states:
        raise ValueError(
            f"expected d_model >= {n_states} states, got {x.shape[1]}: they have no directions of their own; "
            "raise d_model, or take a smaller automaton"
        )
    fits = _halves(states, seed, groups)
    sizes = torch.stack([states[half].bincount(minlength=n_states) for half in (fits, ~fits)])
    if int(sizes.min()) < 1:
        rare = (sizes.amin(0) < 1).nonzero()[:, 0].tolist()
        raise ValueError(
            f"expected examples of each of {n_states} states in both halves of {len(states)}, got none of "
            f"{rare} in one; give more examples, or longer words"
        )
    one_hot = torch.nn.functional.one_hot(states, n_states).double()
    here, there = x[fits], x[~fits]
    gram = here.mT @ here
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    read = torch.linalg.solve(gram, here.mT @ one_hot[fits])
    write = (one_hot[~fits].mT @ there) / one_hot[~fits].sum(0)[:, None]
    right = ((there @ read).argmax(1) == states[~fits]).double().mean().item()
    return StateBasis(write, read, right, states.bincount().max().item() / len(states))


def _halves(
    kinds: Int[Tensor, " n"], seed: int, groups: Int[Tensor, " n"] | None = None
) -> Bool[Tensor, " n"]:
    """True for half of each kind's examples, or for half of the groups."""
    if groups is not None:
        names, which = groups.cpu().unique(return_inverse=True)
        return _halves(torch.zeros_like(names), seed)[which]
    order = torch.randperm(len(kinds), generator=torch.Generator().manual_seed(seed))
    half = torch.zeros(len(kinds), dtype=torch.bool)
    for kind in kinds.unique():
        mine = order[kinds[order] == kind]
        half[mine[: len(mine) // 2]] = True
    return half
