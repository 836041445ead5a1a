"""Attention layers whose weights take steps of gradient descent, written down by hand.

The stream is the tokens themselves, ``(x_i, y_i)`` and the query ``(x, 0)``. A head of linear attention sees
in each pair of tokens the product ``x_i . P x_j`` and adds ``-rate`` times the mean of that times ``y_j``
to the last entry: what an example's weights explain is taken from its y, and minus the answer piles up
in the query's. The readout turns the sign. The same head may shrink every x along the directions in which
the examples vary most, which is GD++ (von Oswald et al. 2023, sections 2 and 3; Ahn et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.models.factories import linear_regression as build
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.regression_methods import descent


@cpu_default
def linear_regression(
    task: LinearRegression,
    rates: Sequence[float] | None = None,
    curvatures: Sequence[float] | None = None,
    precondition: Float[Tensor, "d d"] | None = None,
    **changes: object,
) -> HookedTransformer:
    """A network of linear attention that takes one step a layer, as ``tasks.regression_methods.descent``.

    Args:
        rates: of the steps. ``None``: the one step that is the optimum of a layer, with
            ``task.preconditioner`` (Zhang, Frei & Bartlett 2024, theorem 4.1).
        curvatures: of GD++, one a step; ``None``: plain gradient descent.
        precondition: multiplies every gradient; symmetric.
        changes: fields of ``TransformerConfig`` that leave the computation as it is, such as ``dtype``.

    Raises:
        ValueError: no rates, curvatures of another number, a preconditioner of another shape or not
            symmetric, separate tokens, or a query that is a key.
    """
    if rates is None:
        if curvatures is not None or precondition is not None:
            raise ValueError("expected rates beside curvatures or a preconditioner, got none; give rates")
        rates, precondition = [1.0], task.preconditioner
    gammas = [0.0] * len(rates) if curvatures is None else list(curvatures)
    numbers = torch.tensor([*rates, *gammas], dtype=torch.float64)
    if not len(rates) or len(gammas) != len(rates) or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"expected a finite rate and curvature for each step, got {rates} and {gammas}; mend them"
        )
    before = torch.eye(task.d, dtype=torch.float64) if precondition is None else precondition.double()
    if before.shape != (task.d, task.d) or not torch.allclose(before, before.mT):
        raise ValueError(
            f"expected a symmetric preconditioner of {task.d} rows, got {tuple(before.shape)}; symmetrise it"
        )
    if task.query_is_key:
        raise ValueError("expected a query that is no key, got one; its 0 would count as an example")
    model = build(task, n_layers=len(rates), **changes)
    own, y = slice(0, task.d), task.token_width
    with torch.no_grad():
        for block, rate, gamma in zip(model.blocks, rates, gammas):
            attn = block.attn
            for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
                weight.zero_()
            attn.W_Q[0, own, own] = before.to(attn.W_Q)
            attn.W_K[0, own, own] = torch.eye(task.d).to(attn.W_K)
            attn.W_V[0] = torch.eye(model.cfg.d_model).to(attn.W_V)
            attn.W_O[0, own, own] = -gamma * torch.eye(task.d).to(attn.W_O)
            attn.W_O[0, y, y] = -rate
    return model


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Rates of gradient descent, and curvatures of GD++, one of each a step.

    Args:
        loss: the mean squared error that they come to, on the designs that judged them. Of several steps, of
            curved ones most of all, single designs weigh so much that it is no estimate of the mean over all.
    """

    rates: tuple[float, ...]
    curvatures: tuple[float, ...] | None
    loss: float

    def weights(
        self, x: Float[Tensor, "n k d"], y: Float[Tensor, "n k"], k: Tensor | int
    ) -> Float[Tensor, "n d"]:
        """What the steps take for w, as ``descent``."""
        return descent(x, y, k, self.rates, self.curvatures)


@cpu_default
def best_steps(
    task: LinearRegression, steps: int, *, curved: bool = False, n: int = 20_000, seed: int = 0
) -> Steps:
    """The rates, and with ``curved`` the curvatures, with the least loss, by L-BFGS from several starts.

    Where there are hardly more examples than dimensions the loss has long tails, the more so the more steps:
    what is best on some designs may be bad on others. So they are chosen on n designs, and which start
    led further is decided, and their loss measured, on n others.

    Args:
        n: designs, that is examples without their y.

    Raises:
        ValueError: fewer than 1 step.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}; give more")
    designs, others = (Designs.draw(task, n, seed + i * 10**6) for i in (2, 3))
    best = torch.tensor([[task.best_rate, 0.0]], dtype=torch.float64)
    for number in range(1, steps + 1):
        spread = torch.linspace(0.4, 1.0, number, dtype=torch.float64)[:, None]
        starts = [torch.tensor([task.best_rate, 0.05 * curved]) * spread]
        if number > 1:  # what is best for one step fewer, and a step that does nothing yet
            starts += [torch.cat((best, share * starts[0][:1])) for share in (0.0, 0.5)]
        found = [*starts[1:2], *(_descend(designs, start, curved) for start in starts)]
        best = min(found, key=lambda each: _finite(others.loss(*each.T)))
    rates, gammas = (tuple(column.tolist()) for column in best.T)
    return Steps(
        rates=rates, curvatures=gammas if curved else None, loss=others.loss(*best.T).item()
    )  # fmt: skip


def _descend(designs: Designs, start: Float[Tensor, "step 2"], curved: bool) -> Float[Tensor, "step 2"]:
    now, keep = start.clone().requires_grad_(), torch.tensor([1.0, float(curved)])
    search = torch.optim.LBFGS([now], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = designs.loss(*(now * keep).T)
        loss.backward()
        return loss

    search.step(closure)
    return now.detach() * keep


def _finite(loss: Tensor) -> float:
    return loss.item() if bool(loss.isfinite()) else float("inf")


@dataclass(frozen=True)
class Designs:
    """Examples without their y, as far as the loss of steps depends on them.

    Steps from 0 work in each eigenvector of the mean S of ``x x'`` by itself: they multiply what the mean of
    ``x y`` has there by a number that depends on its eigenvalue alone. So the loss, averaged over w, noise
    and queries, is exact, and only S is drawn.

    Args:
        eigenvalues: of S.
        sizes: the variance of a query along each eigenvector.
        noise: the variance of the mean of ``x y`` along each eigenvector that noise makes.
        w_variance: of an entry of w.
    """

    eigenvalues: Float[Tensor, "n d"]
    sizes: Float[Tensor, "n d"]
    noise: Float[Tensor, "n d"]
    w_variance: float

    @classmethod
    def draw(cls, task: LinearRegression, n: int, seed: int = 0) -> Designs:
        """n designs of a task."""
        generator = torch.Generator().manual_seed(seed)
        batch = task.sample(n, generator)
        x = batch.inputs[:, : -task.n_queries, : task.d].double()
        k = batch.variables["k"][:, None].double()
        values, vectors = torch.linalg.eigh(x.mT @ x / k[..., None])
        values = values.clamp_min(0.0)
        sizes = (vectors * (task.spread @ vectors)).sum(-2)
        return cls(values, sizes, task.noise**2 * values / k, task.w_scale**2)

    def loss(self, rates: Float[Tensor, " step"], curvatures: Float[Tensor, " step"]) -> Float[Tensor, ""]:
        """The mean squared error of steps; of plain gradient descent all curvatures are 0."""
        gain, left, turned = torch.zeros_like(self.sizes), 1.0, 1.0
        for rate, curvature in zip(rates, curvatures):
            gain = gain + rate * turned**2 * left
            left = left * (1 - rate * turned**2 * self.eigenvalues)
            turned = turned * (1 - curvature * turned**2 * self.eigenvalues)
        missed = self.w_variance * (gain * self.eigenvalues - 1) ** 2 + gain**2 * self.noise
        return (self.sizes * missed).sum(-1).mean()
