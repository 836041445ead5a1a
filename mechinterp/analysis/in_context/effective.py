"""The step that one layer of linear attention takes, read off its weights whatever the basis of the stream.

A query q answers ``d . q + mean_j (q' M t_j) (p . t_j)`` from tokens ``t_j = (x_j, y_j)``, with ``M`` the QK
circuit and p the OV circuit, both between tokens and outputs: through embedding and readout, in which
no basis of the stream is left. The part of M of x with x, times the entry of p at y, and that of x with y,
times p at x, multiply the gradient ``mean_j y_j x_j``: together they are the preconditioner of one step of
gradient descent. All other parts of M and p do something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import null_interval, permutation_p_value
from mechinterp.result import Result

MEASURES = ("cosine", "relative error", "share of the step")


@dataclass(frozen=True)
class EffectiveHead:
    """One-layer linear attention between tokens and answers.

    Args:
        between: M of each head, ``q' M t``, with the attention scale in it.
        writes: p of each head.
        direct: d, what the query's own token adds.
    """

    between: Float[Tensor, "head row column"]
    writes: Float[Tensor, "head column"]
    direct: Float[Tensor, " row"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module) -> EffectiveHead:
        """Read a network's weights, in float64.

        Raises:
            ValueError: it is not one layer of linear attention alone, without biases, normalisation and
                positions, that averages over keys, over real vectors, with one output.
        """
        check_model(model, "a step", ("d_input",))
        cfg = model.cfg
        needed = {
            "n_layers": 1, "attention": "linear", "attn_only": True, "normalization_type": None,
            "positional_embedding_type": "none", "use_biases": False, "d_vocab_out": 1, "average_keys": True,
        }  # fmt: skip
        wrong = {
            name: getattr(cfg, name, None)
            for name, value in needed.items()
            if getattr(cfg, name, None) != value
        }
        if wrong or cfg.d_input is None:
            raise ValueError(
                f"expected one layer of linear attention with {needed} and a d_input, got {wrong}; its step "
                "cannot be read off other networks: compare answers, by method_agreement"
            )
        attn = model.blocks[0].attn
        into, out = model.W_E.double().cpu(), model.W_U.double().cpu()[:, 0]
        weights = (attn.W_Q, attn.W_K, attn.W_V, attn.W_O)
        q, k, v, o = (weight.double().cpu() for weight in weights)
        return cls(
            between=into @ (q @ k.mT) @ into.mT / attn.attn_scale,
            writes=(into @ v @ o @ out),
            direct=into @ out,
        )

    def preconditioner(self, d: int) -> Float[Tensor, "d d"]:
        """What multiplies the gradient, rows by the query's x: the sum of heads."""
        own = torch.einsum("hrc,h->rc", self.between[:, :d, :d], self.writes[:, -1])
        return own + torch.einsum("hr,hc->rc", self.between[:, :d, -1], self.writes[:, :d])

    def share(self, d: int) -> float:
        """The share that the step's part has of the squared size of all that is cubic in a prompt.

        Where heads are several, parts of other kinds may cancel in the sum; so they are summed first.
        """
        whole = torch.einsum("hrc,hw->rcw", self.between[:, :d], self.writes)
        # q' M t times p . t is symmetric in the two entries of t.
        whole = (whole + whole.mT) / 2
        step = torch.zeros_like(whole)
        step[:, :d, -1] = whole[:, :d, -1]
        step[:, -1, :d] = whole[:, -1, :d]
        return (step.square().sum() / whole.square().sum().clamp_min(1e-30)).item()


@checked
def effective_step(
    model: nn.Module,
    target: Float[Tensor, "_ _"],
    *,
    untrained: nn.Module | None = None,
    draws: int = 1000,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """How near the preconditioner of a layer's step is to the one that theory says is best.

    Args:
        target: as ``tasks.LinearRegression.preconditioner``, ``Gamma^-1`` of Zhang, Frei & Bartlett (2024).
        untrained: the network before training.
        draws: random matrices, entry by entry normal, for the null of the cosine.

    Returns:
        Dim ``measure``: the ``cosine`` of all entries, the ``relative error`` (Frobenius norm of the
        difference over that of the target) and the ``share of the step``, that of the squared size of all
        the layer does with examples that is a step of descent at all. Trivial is the cosine of what knows
        nothing, 0. The control is that of the untrained network, else, for the cosine, the mean size of a
        random one. ``extra``: ``matrix``, ``target``, ``untrained`` (row, column), ``null`` (low, high: the
        middle 95 % of random cosines) and ``p``.

    Raises:
        ValueError: a target that is not square and finite or wider than the tokens, no draws, or as
            ``EffectiveHead.of``.
    """
    goal = target.detach().double().cpu()
    if (
        goal.ndim != 2
        or goal.shape[0] != goal.shape[1]
        or not bool(goal.isfinite().all() & goal.any())
        or draws < 1
    ):
        raise ValueError(
            f"expected a finite square target that is not 0 and at least 1 draw, got "
            f"{tuple(goal.shape)}, {draws}; give task.preconditioner"
        )
    d, head = len(goal), EffectiveHead.of(model)
    if d >= head.between.shape[1]:
        raise ValueError(
            f"expected a target of at most {head.between.shape[1] - 1} rows, as tokens have of x, got {d}"
        )
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(draws, d, d, generator=generator, dtype=torch.float64)
    null = _cosines(random, goal).numpy()
    own = _against(head, goal)
    extra = {
        "matrix": _square(head.preconditioner(d)),
        "target": _square(goal),
        "null": xr.DataArray(null_interval(null), dims="end", coords={"end": ["low", "high"]}),
        "p": xr.DataArray(permutation_p_value(float(own[0]), null)),
    }
    control = np.array([np.abs(null).mean(), np.nan, np.nan])
    kind = f"random matrices: mean size of the cosine over {draws} draws"
    if untrained is not None:
        before = EffectiveHead.of(untrained)
        if before.between.shape[1:] != head.between.shape[1:]:
            raise ValueError(
                f"expected an untrained network of the same width, {head.between.shape[1]}, got "
                f"{before.between.shape[1]}; build it alike"
            )
        extra["untrained"] = _square(before.preconditioner(d))
        control, kind = _against(before, goal).numpy(), "untrained network"
    return Result(
        name="effective_step",
        values=_labelled(own.numpy()),
        trivial=0.0,
        control=_labelled(control),
        control_kind=kind,
        provenance=gated(
            gate, {**(provenance or {}), "heads": len(head.between), "draws": draws, "seed": seed}
        ),
        extra=extra,
    )


def _against(head: EffectiveHead, goal: Float[Tensor, "d d"]) -> Float[Tensor, " measure"]:
    matrix = head.preconditioner(len(goal))
    error = ((matrix - goal).norm() / goal.norm()).item()
    return torch.tensor([_cosines(matrix[None], goal).item(), error, head.share(len(goal))]).double()


def _cosines(matrices: Float[Tensor, "some d d"], goal: Float[Tensor, "d d"]) -> Float[Tensor, " some"]:
    sizes = matrices.flatten(1).norm(dim=1) * goal.norm()
    return (matrices * goal).sum((1, 2)) / sizes.clamp_min(1e-30)


def _labelled(numbers: np.ndarray) -> xr.DataArray:
    return xr.DataArray(
        numbers, dims="measure", coords={"measure": list(MEASURES)}, attrs={"units": "as the measure"}
    )


def _square(matrix: Tensor) -> xr.DataArray:
    names = [f"x{i + 1}" for i in range(len(matrix))]
    return xr.DataArray(matrix.numpy(), dims=("row", "column"), coords={"row": names, "column": names})
