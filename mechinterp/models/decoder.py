"""A decoder whose sources are given: a network of target tokens alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.devices import cpu_default
from mechinterp.masks import check_mask
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.hooked import Hooked, hook_tables
from mechinterp.models.weights import WeightViews

GIVEN = ("source_tokens", "source_mask", "encoded")
"""Buffers: the packed sources, what is real in them, and what the encoder made of them."""


class Decoder(WeightViews, Hooked):
    """The decoder of a network for some sources, as TransformerLens's tools take a model.

    It shares its modules, and so weights and hook points, with the whole network. The sources are encoded
    once, when it is made.

    Args:
        whole: the network.
        source: one for each target, or for each of a part: a batch of several times as many targets takes
            the sources in turns.
        attention_mask: true at real tokens of the source.

    Raises:
        ValueError: a source that is too long.
    """

    @cpu_default
    @torch.no_grad()
    def __init__(
        self,
        whole: HookedEncoderDecoder,
        source: Int[Tensor, "batch source"],
        attention_mask: Bool[Tensor, "batch source"] | Int[Tensor, "batch source"] | None = None,
    ) -> None:
        super().__init__(whole.cfg)
        check_mask(attention_mask, source)
        self.cfg, self.tokenizer = whole.cfg, None  # its own: flags that are switched act in both
        for name, module in whole.named_children():
            if name != "encoder":
                setattr(self, name, module)
        self._whole = (whole,)  # in a tuple: its encoder is no part of this network
        filled, real = whole.pack(source, source.new_zeros(len(source), 0))
        if attention_mask is not None:
            real[:, : source.shape[1]] &= attention_mask.bool()
        for name, given in zip(GIVEN, (filled, real, whole.encoder(filled, real))):
            self.register_buffer(name, given, persistent=False)
        self.setup()
        self.attached = hook_tables(self)
        self.training = whole.training

    @property
    def shares_hooks_with(self) -> HookedEncoderDecoder:
        """The whole network, with whose calls these take turns."""
        return self._whole[0]

    def forward(
        self,
        input: Int[Tensor, "batch target"],
        return_type: str | None = "logits",
        *,
        prepend_bos: bool | None = None,
        **refused: Any,
    ) -> Float[Tensor, "batch target d_vocab_out"] | None:
        """Outputs at every position of the target.

        Args:
            prepend_bos: what TransformerLens's tools say of texts; targets are tokens already.

        Raises:
            ValueError: another number of targets than of sources, or of a multiple of it; another return
                type, or an option that only a network of one stack has.
        """
        given = [getattr(self, name) for name in GIVEN]
        times, rest = divmod(len(input), len(given[0])) if len(given[0]) else (1, len(input))
        if rest or not times:
            raise ValueError(
                f"expected targets for {len(given[0])} sources, or a multiple of that, got {len(input)}"
            )
        if unknown := sorted(name for name, value in refused.items() if value is not None):
            raise ValueError(f"expected targets alone, got {unknown} too; ask the whole network, or a Site")
        source, real, encoded = (x.repeat(times, *[1] * (x.ndim - 1)) for x in given)
        packed, mask = torch.cat((source, input), 1), torch.cat((real, torch.ones_like(input).bool()), 1)
        return self._whole[0](packed, return_type, attention_mask=mask, encoded=encoded)
