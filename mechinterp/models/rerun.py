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
from torch import Tensor, nn

from mechinterp.devices import cpu_default
from mechinterp.hooks import run_with_cache
from mechinterp.masks import position_ids, real_tokens
from mechinterp.models.attention import View
from mechinterp.models.changed_keys import ChangedKeys, stretch
from mechinterp.models.entering import STAGES, Change, Entrances, Stage
from mechinterp.models.linear import affine
from mechinterp.models.normalisation import Normalisation
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


@cpu_default
class Rerun(Entrances, Paths):
    """The intact run of a ``HookedTransformer``, from which changed ones are worked out.

    Args:
        model: in evaluation mode.
        inputs, read, attention_mask: as its ``forward`` takes them.
        keep: further hook names to keep of the intact run, after ``blocks.L.``.

    Raises:
        ValueError: a model with hooks, which reruns would pass by.

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
        if model.hooked:
            raise ValueError("expected a model without hooks to rerun, got some attached; call reset_hooks()")
        model.check(inputs, attention_mask)
        self.model, self.cfg = model, model.cfg
        n_pos, device = inputs.shape[1], inputs.device
        self.everywhere = torch.arange(n_pos, device=device)
        at = self.everywhere if read is None else torch.as_tensor(read, device=device) % n_pos
        self.read, self.needed = at, at.unique() if at.numel() else self.everywhere
        self.mask = real_tokens(attention_mask)
        self.position_ids = position_ids(self.mask)
        self.causal = self.cfg.attention_dir == "causal"
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        turned = "rot_" if self.cfg.positional_embedding_type == "rotary" else ""
        self.names = {"q": f"attn.hook_{turned}q", "k": f"attn.hook_{turned}k"}
        own = [name for name in _KEPT if not (self.cfg.attn_only and name == "hook_resid_mid")]
        every = dict.fromkeys((*own, *self.names.values(), *keep))
        names = [f"blocks.{layer}.{name}" for layer in range(self.cfg.n_layers) for name in every]
        last = f"blocks.{self.cfg.n_layers - 1}.hook_resid_post"
        self.intact, self.cache = run_with_cache(
            model, inputs, read=read, attention_mask=attention_mask, names=[*names, last]
        )

    def base(self, layer: int, name: str) -> Tensor:
        """An activation of the intact run: ``"q"`` and ``"k"`` after rotation, or a hook name."""
        return self.cache[f"blocks.{layer}.{self.names.get(name, name)}"]

    # ---- how far it reaches -------------------------------------------------------------

    @torch.no_grad()
    def outputs(
        self, change: Change, pins: Pins | None = None
    ) -> Float[Tensor, "patch batch read out"] | None:
        """The outputs of each patch; ``None`` if none of them can reach what is read."""
        at, stream, layer = change.positions, change.delta, change.layer
        if pins is None and not bool(stream.any()):
            return None
        if change.stage == "pre":
            stream = stream + self._at(self.base(layer, "hook_resid_pre"), at)
        else:
            at, stream = self._leave(layer, change.stage, at, stream, pins)
            layer += 1
        for later in range(layer, self.cfg.n_layers):
            if not at.shape[1]:
                return None
            at, stream = self._block(later, at, stream, pins)
        return self.read_out(at, stream) if at.shape[1] else None

    def heard(self, layer: int, activation: str) -> Int[Tensor, " at"]:
        """The positions at which what a change of an activation writes can reach what is read."""
        last = layer == self.cfg.n_layers - 1
        return self.needed if last and STAGES[activation] != "pre" else self._before_the_last

    def breadth(self, layer: int, activation: str, position: int) -> int:
        """At how many positions a layer is worked out, at most, after a change at one."""
        following = range(layer + (STAGES[activation] != "pre"), self.cfg.n_layers)
        at = self.everywhere[position : position + 1]
        return max([1, *(len(self.reach(later, at)) for later in following)])

    def matter(self, layer: int) -> Int[Tensor, " to"]:
        """The positions whose stream after this layer can matter to what is read."""
        return self.needed if layer == self.cfg.n_layers - 1 else self._before_the_last

    @property
    def _before_the_last(self) -> Int[Tensor, " at"]:
        """The positions whose stream into the last layer can matter to what is read."""
        return self.everywhere[: int(self.needed[-1]) + 1] if self.causal else self.everywhere

    def reach(self, layer: int, at: Int[Tensor, "*patch at"]) -> Int[Tensor, " to"]:
        """Those of them that can see, in this layer, one of the positions given."""
        matter = self.matter(layer)
        return matter[matter >= at.min()] if self.causal and at.numel() else matter

    def _leave(
        self, layer: int, stage: Stage, at: Tensor, delta: Tensor, pins: Pins | None
    ) -> tuple[Tensor, Tensor]:
        """The stream after the layer that a patch enters behind its attention."""
        if len(at) == 1 and not bool((kept := torch.isin(at[0], self.matter(layer))).all()):
            at, delta = at[:, kept], delta[:, :, kept]
        if stage == "post" or self.cfg.attn_only:
            return at, delta + self._stream_after(layer, at)
        return at, self._feed_forward(
            layer, at, delta + self._at(self.base(layer, "hook_resid_mid"), at), pins
        )

    def _stream_after(self, layer: int, at: Tensor) -> Float[Tensor, " batch #patch at d_model"]:
        last = layer == self.cfg.n_layers - 1
        name, of = ("hook_resid_post", layer) if last else ("hook_resid_pre", layer + 1)
        return self._at(self.base(of, name), at)

    def _block(
        self, layer: int, at: Tensor, stream: Float[Tensor, "batch patch at d_model"], pins: Pins | None
    ) -> tuple[Tensor, Float[Tensor, "batch patch to d_model"]]:
        """One block from a changed stream: where it matters what comes out, and that."""
        to = self.reach(layer, at)
        if not len(to):
            return to[None], stream[:, :, :0]
        if self.causal and len(at) == 1 and bool((unheard := at[0] > to[-1]).any()):
            at, stream = at[:, ~unheard], stream[:, :, ~unheard]
        asking = torch.isin(at, to)
        z = self._heads(layer, at, to, asking, stream)
        if pins is not None and bool(pins.heads[:, layer].any()):
            z = torch.where(pins.heads[:, layer, None, :, None], pins.z[layer][:, None, to], z)
        entering = self._put(self.base(layer, "hook_resid_pre"), at, to, asking, stream)
        mid = entering + self.model.blocks[layer].attn.out(z)
        return to[None], self._feed_forward(layer, to[None], mid, pins)

    def _heads(
        self, layer: int, at: Tensor, to: Tensor, asking: Tensor, stream: Float[Tensor, "batch patch at d"]
    ) -> Float[Tensor, "batch patch to head d_head"]:
        """``z`` of the asking positions; keys and values that did not change are shared by all patches."""
        block, n_keys = self.model.blocks[layer], int(to[-1]) + 1 if self.causal else len(self.everywhere)
        attn, n_patches = block.attn, stream.shape[1]
        weight, bias = self._projections(layer)
        normed, size = _normed(block.ln1, stream), weight.shape[1] // 3
        first = 0 if bool(asking.all()) else size  # queries too, where all of them ask
        new = affine(normed, weight[:, first:], bias[first:]).unflatten(-1, (-1, *attn.b_Q.shape))
        new_k, new_v = new[..., -2, :, :], new[..., -1, :, :]
        if first and bool(asking.any()):
            new_q = affine(_pick(normed, asking), weight[:, :size], bias[:size]).unflatten(-1, attn.b_Q.shape)
        else:
            new_q = _pick(new[..., 0, :, :], asking)
        if attn.rotary is not None:
            asked = at[asking] if len(at) > 1 else at[:, asking[0]]
            new_q = attn.rotary(new_q, self.standing(asked))
            new_k = attn.rotary(new_k, self.standing(at))
        q = self._put(self.base(layer, "q"), at, to, asking, new_q, picked=True, patches=n_patches)
        k, v = (self.base(layer, name)[:, :n_keys] for name in ("k", "attn.hook_v"))
        keys = ChangedKeys(k, v, at, new_k, new_v)
        return keys.mix(self.pattern(layer, keys.scores(q), to, n_keys))

    def _projections(self, layer: int) -> tuple[Float[Tensor, "d_model qkv"], Float[Tensor, " qkv"]]:
        """Queries', keys' and values' matrices side by side, and their biases."""
        if layer not in self._weights:
            attn = self.model.blocks[layer].attn
            flat = [weight.transpose(0, 1).flatten(1) for weight in (attn.W_Q, attn.W_K, attn.W_V)]
            biases = [bias.flatten() for bias in (attn.b_Q, attn.b_K, attn.b_V)]
            self._weights[layer] = torch.cat(flat, 1), torch.cat(biases)
        return self._weights[layer]

    def pattern(
        self, layer: int, scores: Float[Tensor, "batch head patch to key"], to: Tensor, n_keys: int
    ) -> Float[Tensor, "batch head patch to key"]:
        """The pattern of raw products of queries and keys, which are overwritten."""
        attn, keys = self.model.blocks[layer].attn, self.everywhere[:n_keys]
        scores = scores.div_(attn.attn_scale)
        if self.cfg.positional_embedding_type == "alibi":
            bias = alibi_bias(self.cfg.n_heads, self.standing(to), self.standing(keys))
            scores += bias.to(scores.dtype).unsqueeze(-3)
        mask = None if self.mask is None else self.mask[:, :n_keys]
        allowed = View.of(to, keys, self.causal, mask).allowed
        if allowed is not None:
            allowed = allowed[:, :, None]
            scores = scores.masked_fill_(~allowed, attn.masked)
        return attn.normalise(scores, allowed, dim=-1)

    def standing(self, at: Int[Tensor, "*at"]) -> Int[Tensor, "*batch_at"]:
        """Where the tokens at some places stand: there, or by example where padding moves them."""
        return at if self.position_ids is None else self.position_ids[:, at]

    def _feed_forward(self, layer: int, at: Tensor, mid: Tensor, pins: Pins | None) -> Tensor:
        """The stream after the MLP, at the given positions."""
        if self.cfg.attn_only:
            return mid
        block = self.model.blocks[layer]
        written = block.mlp(_normed(block.ln2, mid))
        if pins is not None and bool(pins.mlps[:, layer].any()):
            held = self._at(pins.mlp_out[layer], at)
            written = torch.where(pins.mlps[:, layer, None, None], held, written)
        return mid + written

    def _at(self, base: Float[Tensor, "batch pos *more"], at: Tensor) -> Float[Tensor, "batch _ at *more"]:
        """An intact activation at each patch's positions."""
        return base[:, None, stretch(at[0])] if len(at) == 1 else base[:, at]

    def _put(
        self,
        base: Float[Tensor, "batch pos *more"],
        at: Int[Tensor, "#patch at"],
        to: Int[Tensor, " to"],
        there: Bool[Tensor, "#patch at"],
        new: Tensor,
        picked: bool = False,
        patches: int = 0,
    ) -> Float[Tensor, "batch _ to *more"]:
        """An intact activation at ``to``, with what is new in its place where a patch's position is there."""
        if len(at) == 1 and torch.equal(at[0], to):
            return new
        if not bool(there.any()):
            return base[:, None, to]
        moved = base[:, None, to].repeat(1, patches or new.shape[1], *[1] * (base.ndim - 1))
        new = new if picked else _pick(new, there)
        if len(at) == 1:
            moved[:, :, torch.isin(to, at[0])] = new
        else:
            moved[:, there.nonzero()[:, 0], torch.searchsorted(to, at[there])] = new
        return moved

    def read_out(self, at: Tensor, stream: Tensor) -> Float[Tensor, "patch batch read out"]:
        """The outputs at the positions read, from the stream after the last block."""
        new = self.model.unembed(_normed(self.model.ln_final, stream)).transpose(0, 1)
        if len(at) == 1 and self.read.ndim == 1 and torch.equal(self.read, at[0]):
            return new
        read = self.read.expand(len(self.intact), -1)
        here = at[:, None, None] == read[:, :, None]  # patch, batch, read, at
        new = new.gather(2, here.int().argmax(-1)[..., None].expand(len(new), -1, -1, new.shape[-1]))
        return torch.where(here.any(-1, keepdim=True), new, self.intact)

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
        outputs = self.outputs(Change(first, "mid", at[None], delta), pins)
        assert outputs is not None
        return outputs


def _normed(ln: nn.Module, x: Tensor) -> Tensor:
    return ln.without_hooks(x) if isinstance(ln, Normalisation) else x


def _pick(x: Tensor, chosen: Bool[Tensor, "#patch at"]) -> Tensor:
    """Some of ``[batch, patch, at, ...]``: of all patches alike, or one by one, ``[batch, some, ...]``."""
    if len(chosen) > 1:
        return x[:, chosen]
    return x if bool(chosen.all()) else x[:, :, chosen[0]]
