"""An optimiser for the matrices between the embedding and the unembedding."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""x -> a x + b x^3 + c x^5 brings singular values from .002 to 1 near 1, between .7 and 1.2, in five rounds
(Jordan et al. 2024)."""


class Muon(torch.optim.Optimizer):
    """Each step goes along the momentum with its singular values made (nearly) one.

    After Jordan et al. (2024), *Muon: an optimizer for hidden layers in neural networks*; a step is scaled to
    a root mean square of .2 times the learning rate, about that of AdamW's, so that both can share one (Liu
    et al. 2025, arXiv:2502.16982). ``torch.optim.Muon`` takes two-dimensional weights only; here each matrix
    of a stack, such as a head's of ``W_Q [n_heads, d_model, d_head]``, is one for itself, and all that have
    one shape are worked out together.

    Args:
        weights: matrices, or stacks of them.
        lr: learning rate.
        weight_decay: decoupled, times the learning rate a step.
        momentum: share of the past in the mean of the gradients; the step looks ahead by one (Nesterov).

    Raises:
        ValueError: a weight that is no matrix, or numbers that cannot be.
    """

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        weights = list(weights)
        flat = next((tuple(weight.shape) for weight in weights if weight.ndim < 2), None)
        if flat is not None:
            raise ValueError(f"expected matrices, got a weight of shape {flat}; give it to AdamW")
        if not (lr > 0 and weight_decay >= 0 and 0 <= momentum < 1):
            raise ValueError(
                f"expected lr > 0, weight_decay >= 0 and momentum in [0, 1), got {lr}, {weight_decay} and "
                f"{momentum}; change what is outside"
            )
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step along the gradients; weights without one stay."""
        for group in self.param_groups:
            shapes: dict[tuple, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    shapes.setdefault((wide(weight).shape[-2:], weight.device), []).append(weight)
            for alike in shapes.values():
                self.step_together(alike, group["lr"], group["weight_decay"], group["momentum"])

    def step_together(self, weights: list[Tensor], lr: float, weight_decay: float, momentum: float) -> None:
        """The step of weights whose matrices have one shape, but for turning."""
        rows, columns = wide(weights[0]).shape[-2:]
        ahead = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            mean = state["momentum"].lerp_(weight.grad, 1 - momentum)
            ahead.append(wide(weight.grad.lerp(mean, momentum)).reshape(-1, rows, columns))
        steps = orthogonal(torch.cat(ahead)) * (-0.2 * lr * math.sqrt(columns))
        for weight, step in zip(weights, steps.split([len(each) for each in ahead])):
            turned = wide(weight)
            turned.mul_(1 - lr * weight_decay).add_(step.view_as(turned))


def wide(matrices: Float[Tensor, "*stack rows columns"]) -> Tensor:
    """A view in which a matrix has at least as many columns as rows."""
    return matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT


def orthogonal(matrices: Float[Tensor, "n rows columns"], rounds: int = 5) -> Float[Tensor, "n rows columns"]:
    """Matrices with the same singular vectors, and singular values between about .7 and 1.2.

    By ``POLYNOMIAL``; singular values below two thousandths of the norm take more rounds, and zeros stay.
    """
    a, b, c = POLYNOMIAL
    x = wide(matrices)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    for _ in range(rounds):
        square = x @ x.mT
        odd = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, odd, x, beta=a)
    return x if x.shape == matrices.shape else x.mT


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The trained matrices of a model's blocks: all but those that embed and unembed.

    Raises:
        ValueError: there are none.
    """
    found = [
        weight
        for name, weight in model.named_parameters()
        if name.rpartition(".")[2].startswith("W_") and "embed" not in name and weight.requires_grad
    ]
    if not found:
        raise ValueError("expected blocks with trained matrices W_..., got none; set optimizer='adamw'")
    return found
