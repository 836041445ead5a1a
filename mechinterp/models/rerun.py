"""Run a network again after a change, computing only what the change can reach.

A patch leaves alone all that comes before it: earlier layers, and in a causal network earlier
positions. So the intact run is kept, each patch enters as a difference of the residual stream
where it acts, and from there only positions that can see a changed one are computed, in the
last layer only those that are read. Many patches are one batch; keys and values that did
not change are shared between them.

Everything here gives the numbers of the plain forward pass with hooks, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.hooks import run_with_cache
from mechinterp.models.attention import View, project
from mechinterp.models.entering import Change, Entrances, Stage
from mechinterp.models.paths import Paths
from mechinterp.models.positions import alibi_bias

_KEPT = ("hook_resid_pre", "hook_resid_mid", "attn.hook_v", "attn.hook_z", "attn.hook_pattern")


@dataclass(frozen=True)
class Pins:
    """Heads' ``z`` and MLPs' outputs that are held at given values, patch by patch.

    Args:
        heads: which, for each layer.
        mlps: which.
        z, mlp_out: the values, for each layer; a batch of 1 serves all examples.
    """

    heads: Bool[Tensor, "patch layer head"]
    mlps: Bool[Tensor, "patch layer"]
    z: Mapping[int, Float[Tensor, "some pos head d_head"]]
    mlp_out: Mapping[int, Float[Tensor, "any pos d_model"]]


class Rerun(Entrances, Paths):
    """The intact run of a ``HookedTransformer``, from which changed ones are worked out.

    Args:
        model: in evaluation mode.
        inputs, read, attention_mask: as its ``forward`` takes them.
        keep: further hook names to keep of the intact run, after ``blocks.L.``.

    Attributes:
        intact: the outputs of the intact run, ``[batch, read, d_vocab_out]``.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: Any,
        inputs: Tensor,
        read: Any = None,
        attention_mask: Tensor | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self.model, self.cfg = model, model.cfg
        n_pos, device = inputs.shape[1], inputs.device
        self.everywhere = torch.arange(n_pos, device=device)
        at = self.everywhere if read is None else torch.as_tensor(read, device=device) % n_pos
        self.read, self.needed = at, at.unique()
        self.mask = None if attention_mask is None else attention_mask.bool()
        self.causal = self.cfg.attention_dir == "causal"
        turned = "rot_" if self.cfg.positional_embedding_type == "rotary" else ""
        self.names = {"q": f"attn.hook_{turned}q", "k": f"attn.hook_{turned}k"}
        own = [name for name in _KEPT if not (self.cfg.attn_only and name == "hook_resid_mid")]
        names = [f"blocks.*.{name}" for name in (*own, *self.names.values(), *keep)]
        last = f"blocks.{self.cfg.n_layers - 1}.hook_resid_post"
        self.intact, self.cache = run_with_cache(
            model, inputs, read=read, attention_mask=attention_mask, names=[*dict.fromkeys(names), last]
        )

    def base(self, layer: int, name: str) -> Tensor:
        """An activation of the intact run: ``"q"`` and ``"k"`` after rotation, or a hook name."""
        return self.cache[f"blocks.{layer}.{self.names.get(name, name)}"]

    # ---- how far it reaches -------------------------------------------------------------

    @torch.no_grad()
    def outputs(
        self, change: Change, pins: Pins | None = None
    ) -> Float[Tensor, "patch batch read out"] | None:
        """The outputs of each patch; ``None`` if it cannot reach what is read."""
        at, stream, layer = change.positions, change.delta, change.layer
        if pins is None and not bool(stream.any()):
            return None
        if change.stage == "pre":
            stream = stream + self.base(layer, "hook_resid_pre")[:, None, at]
        else:
            at, stream = self._leave(layer, change.stage, at, stream, pins)
            layer += 1
        for later in range(layer, self.cfg.n_layers):
            if not len(at):
                return None
            at, stream = self._block(later, at, stream, pins)
        return self.read_out(at, stream) if len(at) else None

    def matter(self, layer: int) -> Int[Tensor, " to"]:
        """The positions whose stream after this layer can matter to what is read."""
        if layer == self.cfg.n_layers - 1:
            return self.needed
        return self.everywhere[: int(self.needed[-1]) + 1] if self.causal else self.everywhere

    def reach(self, layer: int, at: Int[Tensor, " at"]) -> Int[Tensor, " to"]:
        """Those of them that can see, in this layer, one of the positions given."""
        matter = self.matter(layer)
        return matter[matter >= at[0]] if self.causal else matter

    def _leave(
        self, layer: int, stage: Stage, at: Tensor, delta: Tensor, pins: Pins | None
    ) -> tuple[Tensor, Tensor]:
        """The stream after the layer that a patch enters behind its attention."""
        kept = torch.isin(at, self.matter(layer))
        if not bool(kept.all()):
            at, delta = at[kept], delta[:, :, kept]
        if stage == "post" or self.cfg.attn_only:
            return at, delta + self._stream_after(layer, at)
        return at, self._feed_forward(
            layer, at, delta + self.base(layer, "hook_resid_mid")[:, None, at], pins
        )

    def _stream_after(self, layer: int, at: Tensor) -> Float[Tensor, "batch 1 at d_model"]:
        last = layer == self.cfg.n_layers - 1
        name, of = ("hook_resid_post", layer) if last else ("hook_resid_pre", layer + 1)
        return self.base(of, name)[:, None, at]

    def _block(
        self, layer: int, at: Tensor, stream: Float[Tensor, "batch patch at d_model"], pins: Pins | None
    ) -> tuple[Tensor, Float[Tensor, "batch patch to d_model"]]:
        """One block from a changed stream: where it matters what comes out, and that."""
        to = self.reach(layer, at)
        if not len(to):
            return to, stream[:, :, :0]
        z = self._heads(layer, at, to, stream)
        if pins is not None and bool(pins.heads[:, layer].any()):
            z = torch.where(pins.heads[:, layer, None, :, None], pins.z[layer][:, None, to], z)
        entering = self._moved(self.base(layer, "hook_resid_pre"), at, to, stream)
        return to, self._feed_forward(layer, to, entering + self.model.blocks[layer].attn.out(z), pins)

    def _heads(
        self, layer: int, at: Tensor, to: Tensor, stream: Float[Tensor, "batch patch at d_model"]
    ) -> Float[Tensor, "batch patch to head d_head"]:
        """``z`` of the asking positions; keys and values that did not change are shared by all patches."""
        block, n_keys = self.model.blocks[layer], int(to[-1]) + 1 if self.causal else len(self.everywhere)
        attn, (b, m) = block.attn, stream.shape[:2]
        k, v = self.base(layer, "k"), self.base(layer, "attn.hook_v")
        normed = block.ln1(stream).flatten(0, 1)
        answering = at < n_keys
        if not bool(answering.all()):
            at, normed = at[answering], normed[:, answering]
        new_k = project(normed, attn.W_K, attn.b_K)
        new_v = project(normed, attn.W_V, attn.b_V).unflatten(0, (b, m))
        asking = torch.isin(at, to)
        new_q = project(normed if bool(asking.all()) else normed[:, asking], attn.W_Q, attn.b_Q)
        if attn.rotary is not None:
            new_q, new_k = attn.rotary(new_q, at[asking]), attn.rotary(new_k, at)
        q = self._moved(self.base(layer, "q"), at[asking], to, new_q.unflatten(0, (b, m)))
        dk = (new_k.unflatten(0, (b, m)) - k[:, None, at]).permute(0, 3, 1, 4, 2)
        dv = (new_v - v[:, None, at]).permute(0, 3, 1, 2, 4)
        q, columns = q.permute(0, 3, 1, 2, 4), _slice(at)
        shared = k[:, :n_keys].permute(0, 2, 3, 1)
        scores = (q.flatten(2, 3) @ shared).unflatten(2, (m, len(to)))
        scores[..., columns] += q @ dk
        pattern = self.pattern(layer, scores, to, n_keys)
        z = (pattern.flatten(2, 3) @ v[:, :n_keys].transpose(1, 2)).unflatten(2, (m, len(to)))
        return (z + pattern[..., columns] @ dv).permute(0, 2, 3, 1, 4)

    def pattern(
        self, layer: int, scores: Float[Tensor, "batch head patch to key"], to: Tensor, n_keys: int
    ) -> Float[Tensor, "batch head patch to key"]:
        """The pattern of raw products of queries and keys."""
        attn, keys = self.model.blocks[layer].attn, self.everywhere[:n_keys]
        scores = scores / attn.attn_scale
        if self.cfg.positional_embedding_type == "alibi":
            scores = scores + alibi_bias(self.cfg.n_heads, to, keys).to(scores.dtype)[:, None]
        mask = None if self.mask is None else self.mask[:, :n_keys]
        allowed = View.of(to, keys, self.causal, mask).allowed
        if allowed is not None:
            allowed = allowed[:, :, None]
            scores = scores.masked_fill(~allowed, attn.masked)
        return attn.normalise(scores, allowed, dim=-1)

    def _feed_forward(self, layer: int, at: Tensor, mid: Tensor, pins: Pins | None) -> Tensor:
        """The stream after the MLP, at the given positions."""
        if self.cfg.attn_only:
            return mid
        block = self.model.blocks[layer]
        written = block.mlp(block.ln2(mid))
        if pins is not None and bool(pins.mlps[:, layer].any()):
            written = torch.where(pins.mlps[:, layer, None, None], pins.mlp_out[layer][:, None, at], written)
        return mid + written

    def _moved(self, base: Tensor, at: Tensor, to: Tensor, new: Tensor) -> Tensor:
        """An intact activation at ``to``, with what is new ``at`` some positions put in its place."""
        if torch.equal(at, to):
            return new
        moved = base[:, None, to].expand(-1, new.shape[1], *base[:, to].shape[1:]).clone()
        both = torch.isin(at, to)
        moved[:, :, torch.isin(to, at)] = new if bool(both.all()) else new[:, :, both]
        return moved

    def read_out(self, at: Tensor, stream: Tensor) -> Float[Tensor, "patch batch read out"]:
        """The outputs at the positions read, from the stream after the last block."""
        new = self.model.unembed(self.model.ln_final(stream)).transpose(0, 1)
        if self.read.ndim == 1 and torch.equal(self.read, at):
            return new
        outputs = self.intact.expand(len(new), *self.intact.shape).clone()
        read = self.read.expand(len(self.intact), -1).contiguous()
        place = torch.searchsorted(at, read).clamp(max=len(at) - 1)
        changed = at[place] == read
        rows = torch.arange(len(read), device=read.device)[:, None].expand_as(read)
        outputs[:, changed] = new[:, rows[changed], place[changed]]
        return outputs

    # ---- sets of components -------------------------------------------------------------

    @torch.no_grad()
    def pinned(
        self,
        heads: Bool[Tensor, "patch layer head"],
        mlps: Bool[Tensor, "patch layer"],
        z: Mapping[int, Float[Tensor, "some pos head d_head"]],
        mlp_out: Mapping[int, Float[Tensor, "any pos d_model"]],
    ) -> Float[Tensor, "patch batch read out"]:
        """The outputs with sets of heads and MLPs held at given values, a set for each patch.

        Args:
            heads, mlps: which, for each patch.
            z, mlp_out: their values, by layer; a batch of 1 serves all examples.
        """
        pins = Pins(heads, mlps, z, mlp_out)
        layers = (heads.any(-1) | mlps).any(0).nonzero()
        if not len(layers):
            return self.intact.expand(len(heads), *self.intact.shape)
        first = int(layers[0])
        at = self.matter(first)
        shape = (len(self.intact), len(heads), len(at), self.cfg.d_model)
        delta = self.intact.new_zeros(shape)
        if bool(heads[:, first].any()):
            dz = z[first][:, at] - self.base(first, "attn.hook_z")[:, at]
            written = torch.einsum("bthe,hed->bhtd", dz, self.model.blocks[first].attn.W_O)
            delta = torch.einsum("mh,bhtd->bmtd", heads[:, first].to(dz.dtype), written).expand(shape)
        outputs = self.outputs(Change(first, "mid", at, delta), pins)
        assert outputs is not None
        return outputs


def _slice(at: Int[Tensor, " at"]) -> slice | Tensor:
    """The same positions as a slice, which copies nothing, where they are consecutive."""
    start, stop = int(at[0]), int(at[-1]) + 1
    return slice(start, stop) if stop - start == len(at) else at
