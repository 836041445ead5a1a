"""States as directions of the stream: what each adds to it, and a probe that reads which is there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.repeats import repeated_rows
from mechinterp.analysis.tensors import tensor_of
from mechinterp.devices import cpu_default


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


@cpu_default
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
    1e-6 of the mean variance over features: an exact code is read exactly, on any scale.

    Args:
        n_states: how many there are; ``None``: up to the largest here.
        groups: what belongs together, such as the places of a word, and is in one half. ``None``: examples
            with the same activations; of each state half of them are in either, and where it has a single
            vector, half of its examples.

    Raises:
        TypeError: something else than tensors or arrays.
        ValueError: a state that is missing from one of the halves; fewer dimensions than states.
    """
    x, states = tensor_of(x, "activations").cpu(), tensor_of(states, "states").cpu()
    if x.ndim != 2 or not x.is_floating_point() or states.ndim != 1 or states.is_floating_point():
        raise ValueError(
            f"expected floating-point activations [n, d] and whole numbers as states [n], got {x.dtype} "
            f"{list(x.shape)} and {states.dtype} {list(states.shape)}; give one row an example"
        )
    if len(states) and int(states.min()) < 0:
        raise ValueError(f"expected states from 0, got {int(states.min())}; number them")
    states, alike = states.long(), None
    if groups is not None:
        groups = tensor_of(groups, "groups").cpu()
        if groups.shape != states.shape:
            raise ValueError(
                f"expected the group of each of {len(states)} examples, got {list(groups.shape)}"
            )
    elif len(x) == len(states):
        alike = repeated_rows(x)
    x = x.double()
    if n_states is None:
        n_states = max(states.tolist(), default=-1) + 1
    if len(x) != len(states) or not len(x) or not bool(x.isfinite().all()):
        raise ValueError(
            f"expected a finite vector for each of {len(states)} states, got {len(x)}, or NaN or infinity in "
            "them; give activations of the same examples"
        )
    if x.shape[1] < n_states:
        raise ValueError(
            f"expected d_model >= {n_states} states, got {x.shape[1]}: they have no directions of their own; "
            "raise d_model, or take a smaller automaton"
        )
    fits = _halves(states, seed, groups) if alike is None else _halves_of_inputs(states, alike, seed)
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
    spread = (here - here.mean(0)).square().sum(0).mean()
    spread = spread if spread > 1e-30 * gram.diagonal().mean() else gram.diagonal().mean()
    gram += 1e-6 * (spread if spread > 0 else 1.0) * torch.eye(len(gram), dtype=gram.dtype)
    read = torch.linalg.solve(gram, here.mT @ one_hot[fits])
    write = (one_hot[~fits].mT @ there) / one_hot[~fits].sum(0)[:, None]
    right = ((there @ read).argmax(1) == states[~fits]).double().mean().item()
    return StateBasis(write, read, right, states.bincount().max().item() / len(states))


def _halves_of_inputs(states: Int[Tensor, " n"], alike: Int[Tensor, " n"], seed: int) -> Bool[Tensor, " n"]:
    """True for half of each state's different vectors; where it has a single one, for half of its rows."""
    if int(alike.max()) + 1 == len(alike):
        return _halves(states, seed)
    half = torch.zeros(len(states), dtype=torch.bool)
    of_rows = _halves(states, seed)
    for state in states.unique():
        mine = states == state
        inputs = alike[mine].unique()
        if len(inputs) == 1:
            half[mine] = of_rows[mine]
        else:
            first = _halves(torch.zeros_like(inputs), seed)
            half |= mine & torch.isin(alike, inputs[first])
    return half


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
