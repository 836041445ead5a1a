"""What to answer to a query from examples, by known methods: each gives the weights w of ``w . x``.

All take zero rows for examples that are not there, and how many there are beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def least_norm(x: Float[Tensor, "n k d"], y: Float[Tensor, "_ _"]) -> Float[Tensor, "n d"]:
    """Least squares; of all solutions, where examples are too few to decide, the one of least norm.

    Without examples that is 0.

    Raises:
        ValueError: numbers that are not finite, or shapes that do not fit.
    """
    gram, product = _moments(x, y)
    return (torch.linalg.pinv(gram, hermitian=True) @ product[..., None])[..., 0]


def ridge(x: Float[Tensor, "n k d"], y: Float[Tensor, "_ _"], penalty: float) -> Float[Tensor, "n d"]:
    """Least squares with a penalty on the squared norm of w, as ``least_norm`` where it is 0.

    With the penalty ``(noise / w_scale)**2`` it is the posterior mean, which no other answer beats.

    Raises:
        ValueError: a negative penalty, or as ``least_norm``.
    """
    if not 0 <= penalty < float("inf"):
        raise ValueError(f"expected a finite penalty >= 0, got {penalty}; it is a ratio of variances")
    if penalty == 0:
        return least_norm(x, y)
    gram, product = _moments(x, y)
    sizes, turn = torch.linalg.eigh(gram)
    # Directions that no example has are answered by 0, however small the penalty.
    there = sizes > 1e-12 * sizes[:, -1:].clamp_min(1e-300)
    along = (turn.mT @ product[..., None])[..., 0] * there / (sizes.clamp_min(0) + penalty)
    return (turn @ along[..., None])[..., 0]


def descent(
    x: Float[Tensor, "n k d"],
    y: Float[Tensor, "n k"],
    k: Int[Tensor, " n"] | int,
    rates: Sequence[float] | Float[Tensor, " _"],
    curvatures: Sequence[float] | Float[Tensor, " _"] | None = None,
    precondition: Float[Tensor, "d d"] | None = None,
) -> Float[Tensor, "n d"]:
    """Steps of gradient descent from 0 on half the mean of the squared errors.

    Args:
        k: how many examples each prompt has; without any, a prompt's weights are 0.
        rates: the rate of each step.
        curvatures: GD++: with each step every x, the query's too, becomes ``(I - g S P) x``, where S is the
            mean of ``x x'`` over the examples so far and P what preconditions; ``None`` leaves them.
        precondition: P, symmetric; multiplies every gradient. By default the identity.

    Raises:
        ValueError: no steps, curvatures of another number, or as ``least_norm``.

    Source: von Oswald et al. (2023), "Transformers learn in-context by gradient descent", sections 2 and 3;
        preconditioned: Ahn et al. (2023).
    """
    gammas = [0.0] * len(rates) if curvatures is None else list(curvatures)
    if not len(rates) or len(gammas) != len(rates):
        raise ValueError(
            f"expected a rate and a curvature for each step, got {len(rates)} and {len(gammas)}; give as many"
        )
    _moments(x, y)
    now, left = x.double(), y.double()
    share = 1 / torch.as_tensor(k, dtype=now.dtype).clamp_min(1).reshape(-1, 1, 1)
    identity = torch.eye(x.shape[-1], dtype=now.dtype)
    before = identity if precondition is None else precondition.to(now.dtype)
    moved, weights = identity.expand(len(x), -1, -1), now.new_zeros(len(x), x.shape[-1])
    for rate, gamma in zip(rates, gammas):
        step = rate * share * (before @ now.mT @ left[..., None])
        weights = weights + (moved.mT @ step)[..., 0]
        left = left - (now @ step)[..., 0]
        if curvatures is not None:
            turn = identity - gamma * share * (now.mT @ now @ before)
            now, moved = now @ turn.mT, turn @ moved
    return weights


def _moments(
    x: Float[Tensor, "n k d"], y: Float[Tensor, "_ _"]
) -> tuple[Float[Tensor, "n d d"], Float[Tensor, "n d"]]:
    """``X' X`` and ``X' y`` in float64."""
    if x.shape[:2] != y.shape:
        raise ValueError(f"expected y of shape {tuple(x.shape[:2])} beside x, got {tuple(y.shape)}")
    if not bool(x.isfinite().all()) or not bool(y.isfinite().all()):
        raise ValueError("expected finite examples, got some that are not; drop those prompts")
    return x.double().mT @ x.double(), (x.double().mT @ y.double()[..., None])[..., 0]
