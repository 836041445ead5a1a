"""The weights of all layers at once, under TransformerLens's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.hooks import FactoredMatrix
from mechinterp.models.config import TransformerConfig


class WeightViews:
    """What TransformerLens's tools ask a model for besides its activations."""

    cfg: TransformerConfig
    embed: nn.Module
    unembed: nn.Module
    blocks: nn.ModuleList

    def _stack(self, path: str) -> Tensor:
        return torch.stack([block.get_parameter(path) for block in self.blocks])

    # Of the embeddings: one matrix.
    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """The position vectors, learned or sinusoidal."""
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab_out"]:
        """The readout."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab_out"]:
        """The bias of the readout."""
        return self.unembed.b_U

    # Of the blocks: stacked along a first axis of layers.
    W_Q = property(lambda self: self._stack("attn.W_Q"), doc="[layer, head, d_model, d_head]")
    W_K = property(lambda self: self._stack("attn.W_K"), doc="[layer, head, d_model, d_head]")
    W_V = property(lambda self: self._stack("attn.W_V"), doc="[layer, head, d_model, d_head]")
    W_O = property(lambda self: self._stack("attn.W_O"), doc="[layer, head, d_head, d_model]")
    b_Q = property(lambda self: self._stack("attn.b_Q"), doc="[layer, head, d_head]")
    b_K = property(lambda self: self._stack("attn.b_K"), doc="[layer, head, d_head]")
    b_V = property(lambda self: self._stack("attn.b_V"), doc="[layer, head, d_head]")
    b_O = property(lambda self: self._stack("attn.b_O"), doc="[layer, d_model]")
    W_in = property(lambda self: self._stack("mlp.W_in"), doc="[layer, d_model, d_mlp]")
    b_in = property(lambda self: self._stack("mlp.b_in"), doc="[layer, d_mlp]")
    W_out = property(lambda self: self._stack("mlp.W_out"), doc="[layer, d_mlp, d_model]")
    b_out = property(lambda self: self._stack("mlp.b_out"), doc="[layer, d_model]")

    @property
    def QK(self) -> FactoredMatrix:
        """Each head's query-key circuit, factored ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """Each head's output-value circuit, factored ``[layer, head, d_model, d_model]``."""
        return FactoredMatrix(self.W_V, self.W_O)

    def blocks_with(self, submodule: str) -> list[tuple[int, nn.Module]]:
        """The blocks that have a submodule such as ``"attn"`` or ``"mlp"``, with their indices."""
        return [(i, block) for i, block in enumerate(self.blocks) if hasattr(block, submodule)]

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Float[Tensor, " d_model"]:
        """The sum of the biases written to the stream before a layer.

        Args:
            layer: blocks 0 to ``layer - 1`` count.
            mlp_input: count also the attention bias of block ``layer``.
            include_mlp_biases: count the MLPs' biases.
        """
        total = torch.zeros(self.cfg.d_model, device=self.W_E.device, dtype=self.W_E.dtype)
        for block in self.blocks[:layer]:
            total = total + block.attn.b_O
            if include_mlp_biases and not self.cfg.attn_only:
                total = total + block.mlp.b_out
        return total + self.blocks[layer].attn.b_O if mlp_input else total

    def tokens_to_residual_directions(self, tokens: int | Int[Tensor, "*at"]) -> Float[Tensor, "*at d_model"]:
        """The readout directions of tokens given by id."""
        return self.W_U.mT[torch.as_tensor(tokens, device=self.W_U.device)]

    def tl_parameters(self) -> dict[str, Tensor]:
        """All weights under TransformerLens's names, a tied ``W_U`` among them."""
        return dict(self.named_parameters()) | {"unembed.W_U": self.W_U}

    def to_single_token(self, token: int) -> int:
        """A token's id passes through, as in ``to_tokens``."""
        if isinstance(token, str):
            raise TypeError(
                f"expected the id of a token, got {token!r}; this network has no tokenizer, so look "
                "the id up in the task"
            )
        return int(token)

    def to_tokens(self, ids: Tensor | Sequence[Tensor], **_: object) -> Int[Tensor, "batch pos"]:
        """Token ids, or a list of sequences of them, pass through: these networks have no tokenizer."""
        if isinstance(ids, Sequence) and all(isinstance(sequence, Tensor) for sequence in ids):
            ids = torch.stack(tuple(ids))
        if not isinstance(ids, Tensor):
            raise TypeError(
                f"expected token ids as a tensor, got {type(ids).__name__}; this network has no "
                "tokenizer, so encode strings with the task"
            )
        return ids if ids.ndim == 2 else ids[None]

    def set_use_attn_result(self, use: bool) -> None:
        """Compute each head's output separately, at ``hook_result``."""
        self.cfg.use_attn_result = use

    def set_use_split_qkv_input(self, use: bool) -> None:
        """Give queries, keys and values of each head their own copy of the stream."""
        self.cfg.use_split_qkv_input = use

    def set_use_attn_in(self, use: bool) -> None:
        """Give each head its own copy of the stream, at ``hook_attn_in``."""
        self.cfg.use_attn_in = use

    def set_use_hook_mlp_in(self, use: bool) -> None:
        """Pass the input of each MLP through ``hook_mlp_in``."""
        self.cfg.use_hook_mlp_in = use
