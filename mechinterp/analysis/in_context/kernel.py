"""Softmax attention as a kernel smoother: the one with two numbers that answers most like a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.attention_match import permutations
from mechinterp.analysis.checks import check_inputs, check_model, check_takes
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.in_context.prompts import Prompts
from mechinterp.analysis.statistics import bootstrap_weights
from mechinterp.result import Result
from mechinterp.tasks.base import Batch

WIDEST, NARROWEST = 1e-3, 300.0
"""Range of the size of the kernel's w, times the spread of the products of queries and examples."""


@checked
@torch.no_grad()
def kernel_smoother(
    model: nn.Module,
    batch: Batch,
    *,
    untrained: nn.Module | None = None,
    seed: int = 0,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The smoother ``u sum_j exp(w x_j . x) y_j / sum_j exp(w x_j . x)`` nearest to a network's answers.

    It is what Nadaraya (1964) and Watson (1964) estimate with, times u. With an exponential kernel and
    many normal x a weighted mean of y comes to w times the truth, so that u of 1/w mends it. Of a linear
    function an example says as much as its mirror image ``(-x_j, -y_j)``: a smoother of those has w and u
    both negative, and is looked for too. u and w are fitted on half of the prompts, drawn by ``seed``, and
    what they explain is measured on the other half.

    Args:
        batch: prompts of joint tokens; half of them to fit.

    Returns:
        Dim ``predictor``: the held-out share of the mean square of the network's answers that is explained
        by the kernel smoother, and by the best multiple of one step of gradient descent, which is the
        smoother of linear attention. Trivial is 0. The control fits both to the same prompts with the y of
        each dealt out anew among its examples. ``extra``: ``parameters`` (u and w of the kernel smoother,
        rate of the step) and ``untrained``, the same shares of the network before training. The interval is
        that of the kernel smoother (bootstrap over prompts).

    Raises:
        ValueError: fewer than 4 prompts, one without examples, or as ``Prompts.of``.
    """
    check_model(model)
    check_takes(model, "read", "build it by models, or give it read=")
    check_inputs(batch.inputs)
    if len(batch) < 4:
        raise ValueError(f"expected at least 4 prompts, half of them to fit, got {len(batch)}; give more")
    batch = batch[torch.randperm(len(batch), generator=torch.Generator().manual_seed(seed))]
    prompts = Prompts.of(batch)
    if not bool(prompts.there.any(1).all()):
        raise ValueError("expected examples in every prompt, got a prompt of none; leave those out")
    given = _answers(model, batch)
    real, permuted = (_fit(y, prompts, given) for y in (prompts.y, _dealt(prompts, seed)))
    extra = {
        "parameters": xr.DataArray(
            [real.u, real.w, real.rate], dims="parameter", coords={"parameter": ["u", "w", "rate"]}
        )
    }
    if untrained is not None:
        extra["untrained"] = _array(_fit(prompts.y, prompts, _answers(untrained, batch)).shares)
    return Result(
        name="kernel_smoother",
        values=_array(real.shares),
        trivial=0.0,
        control=_array(permuted.shares),
        control_kind="y dealt out anew among a prompt's examples",
        interval=_interval(real, seed),
        provenance=gated(
            gate,
            {**(provenance or {}), "n": len(batch), "held out": len(batch) - len(batch) // 2, "seed": seed,
             "u": round(real.u, 4), "w": round(real.w, 4), "1/w": round(1 / real.w, 4)},
        ),
        extra=extra,
    )  # fmt: skip


class _Fitted:
    """Parameters, and squared answers and misses by held-out prompt: of the smoother, and of the step."""

    def __init__(self, answers: Tensor, smooth: Tensor, step: Tensor, w: float) -> None:
        half = len(answers) // 2
        self.w, (self.u, self.rate) = w, (_scale(x[:half], answers[:half]) for x in (smooth, step))
        held, guesses = answers[half:], (self.u * smooth[half:], self.rate * step[half:])
        self.misses = torch.stack([(held - guess).square().sum(1) for guess in guesses], 1)
        self.squares = held.square().sum(1)

    @property
    def shares(self) -> Float[Tensor, " predictor"]:
        return 1 - self.misses.sum(0) / self.squares.sum()


def _fit(y: Float[Tensor, "n k"], prompts: Prompts, answers: Float[Tensor, "n q"]) -> _Fitted:
    near, half = prompts.similarity, len(y) // 2
    absent = ~prompts.there[:, None]

    def smooth(w: float, rows: slice) -> Tensor:
        weights = (w * near[rows]).masked_fill(absent[rows], float("-inf")).softmax(-1).nan_to_num(0.0)
        return (weights @ y[rows, :, None])[..., 0]

    def missed(log_w: float, sign: int) -> float:
        guess = smooth(sign * np.exp(log_w), slice(0, half))
        return (answers[:half] - _scale(guess, answers[:half]) * guess).square().sum().item()

    spread = near[prompts.there[:, None].expand_as(near)].square().mean().sqrt().clamp_min(1e-150).item()
    grid = np.linspace(np.log(WIDEST / spread), np.log(NARROWEST / spread), 31)
    coarse = {(sign, i): missed(at, sign) for sign in (1, -1) for i, at in enumerate(grid)}
    sign, best = min(coarse, key=lambda at: coarse[at])
    ends = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    w = sign * float(np.exp(minimize_scalar(missed, bounds=ends, args=(sign,), method="bounded").x))
    count = prompts.there.sum(1, keepdim=True).clamp_min(1)
    step = (near * prompts.there[:, None] @ y[..., None])[..., 0] / count
    return _Fitted(answers, smooth(w, slice(None)), step, w)


def _scale(guess: Tensor, answers: Tensor) -> float:
    """The multiple of a guess that is nearest to the answers."""
    return ((guess * answers).sum() / guess.square().sum().clamp_min(1e-30)).item()


def _dealt(prompts: Prompts, seed: int) -> Float[Tensor, "n k"]:
    """The y of each prompt in random order; what is not there stays at its place."""
    (order,) = permutations(prompts.there, 1, torch.Generator().manual_seed(seed))
    return prompts.y.gather(1, order)


def _answers(model: nn.Module, batch: Batch) -> Float[Tensor, "n q"]:
    extra = {} if batch.mask is None else {"attention_mask": batch.mask}
    return model(batch.inputs, read=batch.read, **extra)[..., 0].double().cpu()


def _array(shares: Float[Tensor, " predictor"]) -> xr.DataArray:
    names = ["kernel smoother", "gradient step"]
    units = {"units": "held-out share of the answers' mean square"}
    return xr.DataArray(shares.numpy(), dims="predictor", coords={"predictor": names}, attrs=units)


def _interval(fitted: _Fitted, seed: int) -> tuple[float, float]:
    weights = bootstrap_weights(len(fitted.squares), 1000, seed)
    shares = 1 - (weights @ fitted.misses[:, 0]) / (weights @ fitted.squares)
    low, high = shares.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
