"""Codebooks: bottlenecks that let a few of so many vectors through, and nothing else.

Source: Tamkin, Taufeeque & Goodman (2024), "Codebook Features"; the temperature and the noise are those of
Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.hooks import HookPoint
from mechinterp.models.config import TransformerConfig


class Codebook(nn.Module):
    """Replaces a vector by the sum of the ``top_k`` codes most like it, by cosine similarity.

    How alike codes are is divided by a temperature; the softmax passes ``hook_code_soft`` and the chosen
    codes ``hook_code``, as ones among zeros. Gradients pass the choice as if it were the softmax
    (straight-through). While the network trains, Gumbel noise may be added to the choice.

    Attributes:
        codes: ``[code, d_model]``.
        temperature: a buffer, so that it is saved with the weights; callbacks change it.
        entropy: of the softmax, in nats, the mean over the positions of the last run in training mode.
        commitment: the mean squared distance of the vectors there from what replaces them.
        used: how often each code was chosen there, ``[code]``.
        given: the vectors there, ``[n, d_model]``.
    """

    entropy: Tensor
    commitment: Tensor
    used: Int[Tensor, " code"]
    given: Float[Tensor, "n d_model"]

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.codes = nn.Parameter(torch.empty(cfg.codebook_size, cfg.d_model))
        self.register_buffer("temperature", torch.tensor(float(cfg.codebook_temperature)))
        self.hook_code_soft, self.hook_code = HookPoint(), HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the codes anew, of length about 1."""
        with torch.no_grad():
            drawn = torch.randn(self.codes.shape, generator=generator)
            self.codes.copy_(drawn / self.cfg.d_model**0.5)

    def similarity(self, x: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at code"]:
        """The cosine of each vector with each code."""
        return F.normalize(x, dim=-1) @ F.normalize(self.codes, dim=-1).T

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What passes."""
        scores = self.similarity(x) / self.temperature
        if self.training and self.cfg.codebook_noise:
            scores = scores - torch.empty_like(scores).exponential_().log()
        soft = self.hook_code_soft(scores.softmax(-1))
        chosen = soft.topk(self.cfg.codebook_top_k, dim=-1).indices
        hard = torch.zeros_like(soft).scatter_(-1, chosen, 1.0)
        if torch.is_grad_enabled() and soft.requires_grad:
            hard = hard + (soft - soft.detach())  # in this order nothing is rounded
        code = self.hook_code(hard)
        passed = code @ self.codes
        if self.training:
            self._measure(x, soft, chosen, passed)
        return passed

    def _measure(self, x: Tensor, soft: Tensor, chosen: Tensor, passed: Tensor) -> None:
        self.entropy = torch.special.entr(soft).sum(-1).mean()
        self.commitment = (x - passed.detach()).square().mean() + (x.detach() - passed).square().mean()
        self.given = x.detach().flatten(0, -2)
        self.used = chosen.flatten().bincount(minlength=len(self.codes))

    @torch.no_grad()
    def revive(self, dead: Int[Tensor, " dead"], like: Float[Tensor, "n d_model"], seed: int = 0) -> None:
        """Replace codes by vectors drawn from some that should pass.

        Args:
            dead: which codes.
            like: such vectors, as the codebook is given them.
        """
        rows = torch.randint(len(like), (len(dead),), generator=torch.Generator().manual_seed(seed))
        self.codes[dead] = like[rows].to(self.codes)
