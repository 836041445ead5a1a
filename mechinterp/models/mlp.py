"""The feed-forward sublayer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mechinterp.autograd import may_overwrite, runs_eagerly
from mechinterp.hooks import HookPoint, is_hooked
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import affine, init_normal


def _gelu_new(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _solu(x: Tensor) -> Tensor:
    """Softmax linear unit (Elhage et al. 2022), without the LayerNorm that may follow it."""
    return x * x.softmax(-1)


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_new,
    "solu": _solu,
    "square": torch.square,
}


class MLP(nn.Module):
    """``act_fn(x W_in + b_in) W_out + b_out``, between ``hook_pre`` and ``hook_post``."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.act_fn = ACTIVATION_FUNCTIONS[cfg.act_fn]
        assert cfg.d_mlp is not None
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the matrices anew; the biases are zero."""
        out_fan_in = self.cfg.d_model if self.cfg.init_mode == "nanda" else len(self.W_out)
        init_normal(self.W_in, self.cfg, self.cfg.d_model, generator)
        init_normal(self.W_out, self.cfg, out_fan_in, generator)
        nn.init.zeros_(self.b_in)
        nn.init.zeros_(self.b_out)

    def forward(self, x: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_model"]:
        """What the sublayer adds to the residual stream."""
        if self.cfg.act_fn == "relu" and not is_hooked((self.hook_pre, self.hook_post)) and runs_eagerly():
            weights = (self.W_in, self.b_in, self.W_out, self.b_out)
            return ReluMLP.apply(x.reshape(-1, x.shape[-1]), *weights).view(x.shape)
        pre = self.hook_pre(affine(x, self.W_in, self.b_in))
        post = self.hook_post(self.act_fn(pre))
        return affine(post, self.W_out, self.b_out)


class ReluMLP(torch.autograd.Function):
    """``relu(x W_in + b_in) W_out + b_out`` that overwrites what it no longer needs.

    The hidden layer is the largest tensor of a small network: reading and writing it anew for
    the ReLU and for its gradient costs a tenth of the products' time.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_in: Tensor, b_in: Tensor, W_out: Tensor, b_out: Tensor
    ) -> Float[Tensor, "row d_model"]:
        """The sublayer's output, row by row."""
        post = torch.addmm(b_in, x, W_in).relu_()
        ctx.save_for_backward(x, W_in, b_in, W_out, post)
        return torch.addmm(b_out, post, W_out)

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "row d_model"]) -> tuple[Tensor | None, ...]:
        """The gradients of ``forward``'s arguments, where they are needed."""
        x, W_in, b_in, W_out, post = ctx.saved_tensors
        needed = ctx.needs_input_grad
        hidden = grad @ W_out.mT
        if not may_overwrite(grad):
            post = torch.addmm(b_in, x, W_in).relu()
            hidden = hidden * (post > 0)
        else:
            torch.ops.aten.threshold_backward.grad_input(hidden, post, 0, grad_input=hidden)
        ones = hidden.new_ones(1, len(hidden))  # a product sums rows faster than a sum does
        return (
            hidden @ W_in.mT if needed[0] else None,
            x.mT @ hidden if needed[1] else None,
            (ones @ hidden)[0] if needed[2] else None,
            post.mT @ grad if needed[3] else None,
            (ones @ grad)[0] if needed[4] else None,
        )
