"""How a network knows where a token stands: added to the stream, or inside attention.

Learned and sinusoidal positions (Vaswani et al. 2017) add a vector to the stream. Rotary
positions (Su et al. 2021) turn queries and keys; ALiBi (Press et al. 2022) lowers a score by
the distance. Drawn positions (Ruoss et al. 2023) keep the order, not the distance, so that a short
sequence is seen at the positions of long ones.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.autograd import is_readable
from mechinterp.models.config import TransformerConfig
from mechinterp.models.linear import init_normal


def sinusoidal_table(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    """Sines in the even columns and cosines in the odd ones, wavelengths 2 pi to 20,000 pi."""
    rates = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32) * (-math.log(10000.0) / d_model))
    angles = torch.arange(n_ctx)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class PosEmbed(nn.Module):
    """The table of position vectors: trained (``"standard"``) or fixed (``"sinusoidal"``).

    A sequence takes its rows in order, all of them behind the last one that last one; or, with
    ``randomised_positions``, rows that are drawn in training mode, and evenly spread otherwise, over so many
    positions as the sequence has real tokens.
    """

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        rows = cfg.randomised_positions or cfg.n_ctx
        if cfg.positional_embedding_type == "standard":
            rows = cfg.learned_positions if cfg.learned_positions != -1 else rows
            self.W_pos = nn.Parameter(torch.empty(rows, cfg.d_model))
        else:
            table = sinusoidal_table(rows, cfg.d_model)
            self.register_buffer("W_pos", table, persistent=False)

    @property
    def noisy(self) -> bool:
        """Whether every run in training mode sees others."""
        return self.cfg.randomised_positions > 0

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw a trained table anew."""
        if isinstance(self.W_pos, nn.Parameter):
            init_normal(self.W_pos, self.cfg, self.cfg.d_model, generator)

    def forward(
        self, positions: Int[Tensor, "*at"], lengths: Int[Tensor, "*some"] | None = None
    ) -> Float[Tensor, "*places d_model"]:
        """Vectors of the given positions, of which the last of the sequence is one.

        Args:
            lengths: how many real tokens each one's sequence has, where some are padded; broadcast.
        """
        if self.cfg.randomised_positions and positions.numel():
            n_pos = int(positions.max()) + 1 if is_readable(positions) else positions.shape[-1]
            if lengths is None:
                return self.W_pos[self.drawn(n_pos).to(positions.device)[positions]]
            return self.W_pos[self.drawn_for_each(n_pos).to(positions.device)[lengths, positions]]
        if self.cfg.learned_positions != -1:
            positions = positions.clamp(max=len(self.W_pos) - 1)
        return self.W_pos[positions]

    def drawn(self, n_pos: int) -> Int[Tensor, " pos"]:
        """The rows that a sequence of so many positions takes: drawn, or in evaluation mode evenly spread."""
        rows = len(self.W_pos)
        if self.training:
            return torch.randperm(rows)[:n_pos].sort().values
        return torch.arange(n_pos) * (rows - 1) // max(1, n_pos - 1)

    def drawn_for_each(self, n_pos: int) -> Int[Tensor, "length pos"]:
        """The rows that sequences of 0 to so many real tokens take, all of one draw, then the last row.

        Each length has those that ``drawn`` gives it alone.
        """
        last, place = len(self.W_pos) - 1, torch.arange(n_pos)
        length = torch.arange(n_pos + 1)[:, None]
        if self.training:
            every = torch.randperm(last + 1)[:n_pos].expand(n_pos + 1, -1)
            return every.masked_fill(place >= length, last).sort(-1).values
        return (place * last // (length - 1).clamp(min=1)).clamp(max=last)


class Rotary(nn.Module):
    """Turns pairs of a head's dimensions by an angle proportional to the position."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        assert cfg.rotary_dim is not None
        self.dim, self.adjacent = int(cfg.rotary_dim), cfg.rotary_adjacent_pairs
        rates = cfg.rotary_base ** (-torch.arange(self.dim // 2, dtype=torch.float32) / (self.dim / 2))
        angles = torch.arange(cfg.n_ctx)[:, None] * rates
        repeat = angles.repeat_interleave(2, -1) if self.adjacent else angles.repeat(1, 2)
        self.register_buffer("cos", repeat.cos(), persistent=False)
        self.register_buffer("sin", repeat.sin(), persistent=False)

    def forward(
        self, x: Float[Tensor, "... pos head d_head"], positions: Int[Tensor, "... pos"]
    ) -> Float[Tensor, "... pos head d_head"]:
        """Turn queries or keys that stand at the given positions."""
        turning, rest = x[..., : self.dim], x[..., self.dim :]
        if self.adjacent:
            even, odd = turning[..., ::2], turning[..., 1::2]
            quarter_turn = torch.stack((-odd, even), dim=-1).flatten(-2)
        else:
            first, second = turning.chunk(2, dim=-1)
            quarter_turn = torch.cat((-second, first), dim=-1)
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)
        return torch.cat((turning * cos + quarter_turn * sin, rest), dim=-1)


def alibi_bias(
    n_heads: int, queries: Int[Tensor, "... query"], keys: Int[Tensor, "... key"]
) -> Float[Tensor, "... head query key"]:
    """What ALiBi adds to the scores: minus the distance times a slope for each head."""
    head = torch.arange(1, n_heads + 1, device=keys.device, dtype=torch.float32)
    slopes = 2.0 ** (-8 / n_heads * head)
    distance = (queries[..., :, None] - keys[..., None, :]).abs()
    return -slopes[:, None, None] * distance.unsqueeze(-3)
