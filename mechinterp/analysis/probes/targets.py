"""What a probe is to read: a variable as vectors that can be regressed on.

Every kind of target is a tensor ``[batch, pos or 1, target, component]``: a number has one
component, a class one for each class (one-hot), a frequency cosine and sine, a belief one for
each state. Scores pool the components of a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.probes.layout import Layout, check_finite

Variable = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Vectors to be read from activations.

    Args:
        dim: the name of the axis of targets in results; ``None`` for a single target without a name.
        names: of the targets along it.
    """

    values: Float[Tensor, "batch _ target component"]
    dim: str | None = None
    names: Sequence[str] | Sequence[int] | Sequence[float] = ()


def numbers(variable: Variable, layout: Layout) -> Targets:
    """Each variable as it is, in float64; a mapping or a last axis gives several targets.

    Raises:
        ValueError: as ``aligned``.
    """
    x, names = aligned(variable, layout)
    several = isinstance(variable, Mapping) or x.shape[-1] > 1
    return Targets(values=x.double()[..., None], dim="target" if several else None, names=names)


def classes(variable: Variable, layout: Layout) -> Targets:
    """Each variable one-hot over the values it takes at the tokens that are used.

    Raises:
        ValueError: a variable that is not of integers, or as ``aligned``.
    """
    x, names = aligned(variable, layout)
    if x.is_floating_point():
        raise ValueError(
            f"expected integer classes, got {x.dtype}; give .long() if they are whole, or regress on numbers "
            "with kind='ridge' or 'mlp_regression'"
        )
    x = x.long() if x.dtype == torch.bool else x
    used = torch.cat([part.take(x, split).flatten(0, -2) for part in layout.parts for split in part.rows])
    sets = [used[:, target].unique() for target in range(x.shape[-1])]
    values = torch.zeros(*x.shape, max(map(len, sets)), dtype=torch.float64)
    for target, kinds in enumerate(sets):
        at = torch.searchsorted(kinds, x[..., target].contiguous()).clamp(max=len(kinds) - 1)
        values[..., target, :].scatter_(-1, at[..., None], 1.0)
    several = isinstance(variable, Mapping) or x.shape[-1] > 1
    return Targets(values=values, dim="target" if several else None, names=names)


def waves(
    variable: Tensor, layout: Layout, turns: Sequence[float], dim: str, names: Sequence[int] | Sequence[float]
) -> Targets:
    """Cosine and sine of 2 pi times the variable times each of ``turns``.

    Raises:
        ValueError: several variables at once, or as ``aligned``.
    """
    x, several = aligned(variable, layout)
    if x.shape[-1] != 1:
        raise ValueError(f"expected one variable to take waves of, got {several}; probe one after the other")
    angle = 2 * torch.pi * ((x.double() * torch.tensor(turns, dtype=torch.float64)) % 1)
    return Targets(values=torch.stack([angle.cos(), angle.sin()], -1), dim=dim, names=names)


def beliefs(variable: Tensor, layout: Layout) -> Targets:
    """Distributions over hidden states, ``[batch, state]`` or ``[batch, pos, state]``.

    Raises:
        ValueError: another shape, fewer than two states, or rows that are no distributions.
    """
    if isinstance(variable, Mapping):
        raise ValueError("expected beliefs [batch, state] or [batch, pos, state], got a mapping; give one")
    x = variable[:, None] if variable.ndim == 2 else variable
    rows = x[x.isfinite().all(-1)] if x.ndim else x
    if x.ndim != 3 or x.shape[-1] < 2 or not x.is_floating_point():
        raise ValueError(
            f"expected beliefs [batch, state] or [batch, pos, state] over >= 2 states, got {variable.dtype} "
            f"{list(variable.shape)}"
        )
    _check_lengths(x, layout)
    if bool((rows < -1e-6).any()) or bool(((rows.sum(-1) - 1).abs() > 1e-4).any()):
        raise ValueError(
            f"expected rows that are >= 0 and sum to 1, got least {rows.min().item():.3g} and sums from "
            f"{rows.sum(-1).min().item():.3g} to {rows.sum(-1).max().item():.3g}; normalise the beliefs"
        )
    return Targets(values=x.double()[:, :, None])


def aligned(variable: Variable, layout: Layout) -> tuple[Tensor, list[str] | list[int]]:
    """A variable as ``[batch, pos or 1, target]``, and the targets' names.

    It may be ``[batch]``, the same at all positions, ``[batch, pos]``, ``[batch, pos or 1, target]``, or
    a mapping of names to either of the first two.

    Raises:
        ValueError: other axes or lengths than the activations', or an empty mapping.
    """
    if isinstance(variable, Mapping):
        each = {name: aligned(value, layout)[0] for name, value in variable.items()}
        if not each or any(x.shape[-1] != 1 for x in each.values()):
            raise ValueError("expected a mapping of names to variables [batch] or [batch, pos], got another")
        length = max(x.shape[1] for x in each.values())
        return torch.cat([x.expand(-1, length, -1) for x in each.values()], -1), list(each)
    if not 1 <= variable.ndim <= 3 or variable.is_complex():
        raise ValueError(
            f"expected a variable of real numbers [batch], [batch, pos] or [batch, pos or 1, target], got "
            f"{variable.dtype} {list(variable.shape)}"
        )
    x = variable.detach().cpu()
    x = x[:, None, None] if x.ndim == 1 else x[..., None] if x.ndim == 2 else x
    _check_lengths(x, layout)
    return x, list(range(x.shape[-1]))


def check_targets(targets: Targets, layout: Layout) -> None:
    """Refuse what no score is defined for.

    Raises:
        ValueError: a target that is not finite, or constant within the training or the held-out
            examples of some position.
    """
    check_finite("the variable", targets.values, layout.parts)
    for part in layout.parts:
        for split in part.rows:
            still = (~varies(part.take(targets.values, split))).nonzero()
            if len(still):
                cell, target = still[0].tolist()
                called = f" {targets.names[target]}" if targets.dim else ""
                every = part.pooled or targets.values.shape[1] == 1
                raise ValueError(
                    f"expected a target that varies, got target{called} constant over the {split} examples "
                    f"at position {part.columns.tolist() if every else part.columns[cell].item()}; R² and "
                    "accuracy mean nothing there: leave out the target, or the position with positions="
                )


def _check_lengths(x: Tensor, layout: Layout) -> None:
    if x.shape[0] != layout.batch or x.shape[1] not in (1, layout.length):
        raise ValueError(
            f"expected a variable of {layout.batch} examples and {layout.length} positions (or one for all), "
            f"as the activations, got {list(x.shape[:2])}; several targets are [batch, 1, target]"
        )


def varies(values: Float[Tensor, "cell n *draw target component"]) -> Tensor:
    """Whether each target differs between examples, by more than rounding: ``[cell, *draw, target]``."""
    spread = values.amax(1) - values.amin(1)
    return (spread > 1e-9 * values.abs().amax(1).clamp(min=1e-300)).any(-1)
