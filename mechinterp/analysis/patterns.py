"""The patterns of all heads, which keys each query may look at, and an even gaze to compare with.

Works on every model with TransformerLens's hook names and ``run_with_cache``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mechinterp.analysis.checks import check_attention_mask, check_inputs, check_masked, check_model
from mechinterp.analysis.patches import extent, hook_of
from mechinterp.hooks import Activations

_HALF = (torch.float16, torch.bfloat16)
_PATTERN = "attn.hook_pattern"


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """The patterns of all heads, and which keys each query may look at.

    Args:
        weights: attention weights in float64, 0 at padded queries.
        allowed: True where a query may look at a key, by causality and padding.
        asking: True at the queries that count: real tokens with at least one key.
        layers: which layers these are.
        normalised: whether every query's weights are >= 0 and sum to 1, as those of linear attention do not.
    """

    weights: Float[Tensor, "batch layer head query key"]
    allowed: Bool[Tensor, "batch query key"]
    asking: Bool[Tensor, "batch query"]
    layers: tuple[int, ...]
    normalised: bool

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: nn.Module,
        inputs: Tensor,
        mask: Tensor | None = None,
        stack: str = "",
    ) -> Patterns:
        """Run a model and take its patterns.

        Args:
            model: any model with TransformerLens's hook names.
            inputs: ids ``[batch, pos]`` or vectors ``[batch, pos, d_input]``.
            mask: True at real tokens.
            stack: of an encoder-decoder, ``"encoder"``, ``"decoder"`` or ``"cross"``.

        Raises:
            ValueError: dropout is on, attention is local, a stack that is not there, or as ``from_cache``.
        """
        check_model(model, "its patterns", ("n_layers",))
        check_inputs(inputs, mask, least=1)
        check_masked(model, mask)
        mask = None if mask is None else mask.bool()
        if getattr(model.cfg, "use_local_attn", False):
            raise ValueError("expected global attention, got use_local_attn; its windows are not known here")
        padding = {} if mask is None else {"attention_mask": mask}
        n_layers, _ = extent(model, inputs, stack)
        names = {hook_of("pattern", layer, stack): layer for layer in range(n_layers)}
        _, cache = model.run_with_cache(inputs, names_filter=lambda name: name in names, **padding)
        found = {f"blocks.{layer}.{_PATTERN}": cache[name] for name, layer in names.items() if name in cache}
        causal = getattr(model.cfg, "attention_dir", "causal") != "bidirectional"
        if not hasattr(model, "encoder"):
            return cls.from_cache(found, causal=causal, mask=mask)
        n_source = model.cfg.n_ctx_source
        source, target = (None, None) if mask is None else (mask[:, :n_source], mask[:, n_source:])
        keys = target if stack in ("", "decoder") else source
        asked = target if stack == "cross" else None
        return cls.from_cache(found, causal=stack in ("", "decoder"), mask=keys, asked=asked)

    @classmethod
    def from_cache(
        cls,
        cache: Activations,
        *,
        causal: bool = True,
        mask: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> Patterns:
        """The patterns in a cache of activations.

        Args:
            asked: True at real queries, where these stand in another sequence than keys.

        Raises:
            ValueError: there are none, they are not floating-point ``[batch, head, query, key]`` of one
                shape, an example has no real token, or a head looks where it is said not to look.
        """
        found = {int(name.split(".")[1]): cache[name] for name in cache.keys() if name.endswith(_PATTERN)}  # noqa: SIM118
        if not found:
            raise ValueError(f"expected a cache with names ending in {_PATTERN}, got none; keep those names")
        shape = next(iter(found.values())).shape
        for layer, x in found.items():
            if not x.is_floating_point() or x.ndim != 4 or x.shape != shape:
                raise ValueError(
                    f"expected floating-point patterns [batch, head, query, key] of one shape, got {x.dtype} "
                    f"{tuple(x.shape)} at layer {layer}; give the activations of {_PATTERN} as cached"
                )
        allowed, asking = _who_may_look(shape, causal, mask, asked)
        layers = tuple(sorted(found))
        weights = torch.stack([found[layer].double().cpu() for layer in layers], dim=1)
        weights = torch.where(asking[:, None, None, :, None], weights, 0.0)
        outside = float(weights.abs().masked_fill(allowed[:, None, None], 0.0).max())
        if not outside <= 1e-6:
            raise ValueError(
                f"expected no attention to keys that may not be looked at, got {outside:.3g}; say whether "
                "the network is causal, and give the mask it ran with"
            )
        sums = weights.sum(-1).movedim(0, 2)[:, :, asking]
        # In half precision each weight is rounded, and the sum is off by as much as the last bit.
        off = max(1e-3, *(2 * torch.finfo(x.dtype).eps for x in found.values() if x.dtype in _HALF), 0.0)
        normalised = bool((weights >= 0).all()) and bool(((sums - 1).abs() < off).all())
        return cls(weights=weights, allowed=allowed, asking=asking, layers=layers, normalised=normalised)

    @property
    def shares(self) -> Float[Tensor, "batch layer head query key"]:
        """The patterns; of linear attention each weight's size over the sum of sizes, 0 if all are 0."""
        if self.normalised:
            return self.weights
        sizes = self.weights.abs()
        return sizes / sizes.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)

    @property
    def even(self) -> Float[Tensor, "batch query key"]:
        """The pattern that attends alike to every key allowed."""
        return self.allowed / self.allowed.sum(-1, keepdim=True).clamp_min(1).double()

    @property
    def free(self) -> Bool[Tensor, "batch query"]:
        """The queries that can choose: those with two keys or more."""
        return self.asking & (self.allowed.sum(-1) > 1)

    @property
    def share_units(self) -> str:
        """What ``shares`` are shares of."""
        return "attention" if self.normalised else "size of linear attention (rows do not sum to 1)"

    def provenance(self) -> dict[str, Any]:
        """What a result from these patterns says of them."""
        kind = {} if self.normalised else {"attention": "linear: rows do not sum to 1"}
        return {"n": len(self.weights), "positions": self.weights.shape[-1]} | kind

    def array(self, x: Tensor, *dims: str, units: str = "") -> xr.DataArray:
        """A tensor with axes named by ``dims``, its layers by their numbers, as a labelled array."""
        numbers = {"layer": list(self.layers)}
        coords = {dim: numbers.get(dim, list(range(size))) for dim, size in zip(dims, x.shape)}
        return xr.DataArray(x.double().numpy(), dims=dims, coords=coords, attrs={"units": units})

    def untrained(
        self,
        model: nn.Module | None,
        inputs: Tensor,
        mask: Tensor | None,
        stack: str = "",
    ) -> Patterns | None:
        """The same of the network before training, if there is one.

        Raises:
            ValueError: it has other layers or heads.
        """
        if model is None:
            return None
        other = Patterns.of(model, inputs, mask, stack)
        if other.weights.shape != self.weights.shape:
            raise ValueError(
                f"expected an untrained network with the layers and heads of the trained one, "
                f"{tuple(self.weights.shape[1:3])}, got {tuple(other.weights.shape[1:3])}; build it alike"
            )
        return other


def over_examples(x: Float[Tensor, " batch *cell"], counts: Bool[Tensor, " batch *some"]) -> Tensor:
    """The mean over the examples that count; NaN where none does."""
    return (x * counts).sum(0) / counts.sum(0)


def _who_may_look(
    shape: tuple[int, ...],
    causal: bool,
    mask: Tensor | None,
    asked: Tensor | None = None,
) -> tuple[Bool[Tensor, "batch query key"], Bool[Tensor, "batch query"]]:
    """Which keys a query may look at, and which queries are real and may look at any."""
    batch, _, n_queries, n_keys = shape
    for real, length in ((mask, n_keys), (asked, n_queries)):
        check_attention_mask(real, torch.empty(batch, length))
    allowed = torch.ones(batch, n_queries, n_keys, dtype=torch.bool)
    if causal:
        allowed &= torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    real = torch.ones(batch, n_keys, dtype=torch.bool) if mask is None else mask.bool().cpu()
    allowed &= real[:, None]
    if n_queries > n_keys or asked is not None:  # of another sequence
        asks = torch.ones(batch, n_queries, dtype=torch.bool) if asked is None else asked.bool().cpu()
    else:
        asks = real[:, n_keys - n_queries :]
    return allowed, asks & allowed.any(-1)
