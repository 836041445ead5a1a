"""Codebooks: bottlenecks that let a few of so many vectors through, and nothing else.

Source: Tamkin, Taufeeque & Goodman (2024), "Codebook Features"; the temperature and the noise are those of
Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax", with similarities for logits.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.autograd import is_readable
from mechinterp.hooks import HookPoint
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import widened


class Codebook(nn.Module):
    """Replaces a vector by the sum of the ``top_k`` codes most like it, by cosine similarity.

    How alike codes are is divided by a temperature; the softmax passes ``hook_code_soft`` and the chosen
    codes ``hook_code``, as ones among zeros. Gradients pass the choice as if it were the softmax
    (straight-through). While the network trains, Gumbel noise may be added to the similarities, and the
    softmax may pass in the place of the codes chosen.

    Attributes:
        codes: ``[code, d_model]``.
        temperature: a buffer, so that it is saved with the weights; callbacks change it.
        entropy: of the softmax without noise, in nats, the mean over the positions of the last run in
            training mode.
        commitment: the mean squared distance of the vectors there from the codes chosen, twice: with the
            codes held, and with the vectors held.
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
        temperature = torch.tensor(float(cfg.codebook_temperature), dtype=torch.float32)
        self.register_buffer("temperature", temperature)
        self.hook_code_soft, self.hook_code = HookPoint(), HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the codes anew, of length about 1."""
        with torch.no_grad():
            drawn = torch.randn(self.codes.shape, generator=generator, dtype=torch.float32)
            self.codes.copy_(drawn / self.cfg.d_model**0.5)

    def similarity(self, x: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at code"]:
        """The cosine of each vector with each code, 0 for a vector of zeros."""
        return _unit(x) @ _unit(self.codes).T

    @property
    def noisy(self) -> bool:
        """Whether choices are drawn at random while the network trains."""
        return self.cfg.codebook_noise

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What passes."""
        alike = self.similarity(x)
        drawn = alike
        if self.training and self.noisy:
            drawn = alike - torch.empty_like(alike).exponential_().log()
        scores = drawn / self.temperature
        soft = scores.softmax(-1)
        seen = self.hook_code_soft(soft)
        # Far apart scores have a softmax of exactly 0; an edited softmax has no scores.
        chosen = (scores if seen is soft else seen).topk(self.cfg.codebook_top_k, dim=-1).indices
        hard = torch.zeros_like(seen).scatter(-1, chosen, 1.0)
        if self.training and self.cfg.codebook_soft:
            code = self.hook_code(seen)
        elif torch.is_grad_enabled() and seen.requires_grad:
            code = self.hook_code(hard + (seen - seen.detach()))  # in this order nothing is rounded
        else:
            code = self.hook_code(hard)
        if self.training:
            self._measure(x, alike, chosen, hard)
        return code @ self.codes

    def _measure(self, x: Tensor, alike: Tensor, chosen: Tensor, hard: Tensor) -> None:
        soft, replaced = (alike / self.temperature).softmax(-1), hard @ self.codes
        self.entropy = torch.special.entr(soft).sum(-1).mean()
        self.commitment = (x - replaced.detach()).square().mean() + (x.detach() - replaced).square().mean()
        self.given = x.detach().flatten(0, -2)
        if is_readable(chosen):
            self.used = chosen.flatten().bincount(minlength=len(self.codes))
        else:  # how long bincount's result is depends on values
            codes = torch.arange(len(self.codes), device=chosen.device)
            self.used = (chosen.flatten()[:, None] == codes).sum(0)

    def __getstate__(self) -> dict[str, Any]:
        """Without what the last run measured, which hangs on its graph and cannot be copied."""
        own = dict(self.__dict__)
        for name in ("entropy", "commitment", "given", "used"):
            own.pop(name, None)
        return own

    @torch.no_grad()
    def revive(self, dead: Int[Tensor, " dead"], like: Float[Tensor, "n d_model"], seed: int = 0) -> None:
        """Replace codes by vectors drawn from some that should pass.

        Args:
            dead: which codes.
            like: such vectors, as the codebook is given them.
        """
        rows = torch.randint(len(like), (len(dead),), generator=torch.Generator().manual_seed(seed))
        self.codes[dead] = like[rows].to(self.codes)


def _unit(x: Float[Tensor, "*at d_model"]) -> Float[Tensor, "*at d_model"]:
    """Vectors of length 1 or 0; a sum of squares overflows, and a smallest length underflows, in half."""
    wide = widened(x)
    size = wide.norm(dim=-1, keepdim=True)
    return (wide / size.where(size > 0, 1.0)).to(x.dtype)
