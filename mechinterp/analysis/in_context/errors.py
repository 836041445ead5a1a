"""Errors by how many examples a prompt has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import bootstrap_means
from mechinterp.result import Result


@checked
def error_by_context(
    answers: Mapping[str, Float[Tensor, "_ _"]],
    targets: Float[Tensor, "n q"],
    examples: Int[Tensor, " _"],
    *,
    trivial: float,
    untrained: Float[Tensor, "n q"] | None = None,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The mean squared error of a network and of methods, by the number of examples.

    Args:
        answers: of each, ``[n, q]``; the first is the network's.
        trivial: the error of the best constant answer.
        untrained: the answers of the network before training, the control.

    Returns:
        Dims ``predictor``, ``examples``. ``extra``: ``low`` and ``high``, 95 % by bootstrap over prompts,
        ``n``. The interval is that of the network's error over all prompts.

    Raises:
        ValueError: no answers, shapes that differ, or answers that are not finite.
    """
    shapes = {name: tuple(x.shape) for name, x in answers.items()}
    if not shapes or any(shape != tuple(targets.shape) for shape in shapes.values()):
        raise ValueError(f"expected answers of {tuple(targets.shape)}, as the targets, got {shapes}")
    if bad := [name for name, x in answers.items() if not bool(x.isfinite().all())]:
        raise ValueError(f"expected finite answers, got others of {bad}; leave those prompts out")
    if len(examples) != len(targets):
        raise ValueError(
            f"expected the number of examples of each of {len(targets)} prompts, got {len(examples)}"
        )
    errors = torch.stack([_squares(x, targets) for x in answers.values()], -1)  # [n, method]
    groups = examples.unique().tolist()
    found = [_of(errors[examples == k], seed) for k in groups]
    names = {"predictor": list(answers), "examples": groups}

    def array(cells: Tensor) -> xr.DataArray:
        return xr.DataArray(cells.numpy(), dims=list(names), coords=names, attrs={"units": "squared error"})

    control = None
    if untrained is not None:
        before = _squares(untrained, targets)
        by_group = torch.stack([before[examples == k].mean() for k in groups])
        control = xr.DataArray(by_group.numpy(), dims="examples", coords={"examples": groups})
    whole = bootstrap_means(errors[:, :1], seed=seed)
    return Result(
        name="error_by_context",
        values=array(torch.stack([mean for mean, _, _ in found], 1)),
        trivial=trivial,
        control=control,
        control_kind="" if control is None else "untrained network",
        interval=(whole[0].item(), whole[1].item()),
        provenance=gated(gate, {**(provenance or {}), "n": len(targets), "queries": targets.shape[1]}),
        extra={
            "low": array(torch.stack([low for _, low, _ in found], 1)),
            "high": array(torch.stack([high for _, _, high in found], 1)),
            "n": xr.DataArray([int((examples == k).sum()) for k in groups], dims="examples"),
        },
    )


def _squares(answers: Float[Tensor, "n q"], targets: Float[Tensor, "n q"]) -> Float[Tensor, " n"]:
    return (answers.double().cpu() - targets.double().cpu()).square().mean(1)


def _of(errors: Float[Tensor, "n method"], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    mean = errors.mean(0)
    return (mean, *bootstrap_means(errors, seed=seed)) if len(errors) > 1 else (mean, mean, mean)
