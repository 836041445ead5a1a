"""What each head seeks and what it writes, in the basis of tokens or positions, read off the weights alone.

Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", sections on the QK and OV
circuits and on copying. These are the direct paths: from the embedding into a head, and from a head to
the outputs, as if no other layer stood between. Where the stream is normalised, they hold up to the size of
each vector; its mean is taken out where LayerNorm takes it out. Works on every model with
TransformerLens's weights.

In all results the control is of random heads with matrices of the same norms (one draw), or of the
untrained network. Extras, where rows and columns are the same things: ``diagonal_top``, the share of
rows that are largest on the diagonal, and ``positive``, the sum of the eigenvalues over that of their sizes,
1 for pure copying or self-seeking; ``diagonal_top_null`` and ``positive_null`` are means over random
heads. The interval is that of the highest ``diagonal_top``, over rows (Clopper & Pearson).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_model, check_no_codebooks
from mechinterp.analysis.folded import centred, require_folded, rows_of, score_scale, weight_of
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.statistics import proportion_interval
from mechinterp.result import Result

_MOST = 5 * 10**7
_DRAWS = 20
Factors = tuple[Float[Tensor, "layer head row d_head"], Float[Tensor, "layer head d_head column"]]


@checked
def qk_circuit(
    model: nn.Module,
    *,
    tokens: Sequence[int] | None = None,
    untrained: nn.Module | None = None,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """The score that each token's query gives each token's key: ``W_E W_Q W_K' W_E'`` over the scale.

    Positions are left out, and so is what rotary or ALiBi positions do to scores.

    Args:
        tokens: rows of ``W_E`` to take; ``None``: all.

    Returns:
        Dims ``layer``, ``head``, ``query``, ``key``, both in tokens. ``key_bias``: what the queries' bias
        ``b_Q`` adds to the score of each key.

    Raises:
        ValueError: the normalisation is not folded, the model lacks a weight, or the circuit is too large.
    """
    check_model(model, "a circuit", ("normalization_type",), ("W_E", "W_Q", "W_K", "b_Q"))
    require_folded(model, "a circuit in the basis of tokens")
    found = _seeking("qk_circuit", "W_E", model, tokens, None, untrained, seed)
    return Result(**found, provenance=gated(gate, _origin(model, "W_E to head", seed)))


@checked
def position_circuit(
    model: nn.Module,
    *,
    positions: int | None = None,
    untrained: nn.Module | None = None,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """The score that each position's vector gives each other's: ``W_pos W_Q W_K' W_pos'`` over the scale.

    Args:
        positions: how many to take, from the first; ``None``: all.

    Returns:
        As ``qk_circuit``, in positions; NaN at keys that causality forbids. ``previous_top``: the share of
        positions, from the second on, that seek the one before most.

    Raises:
        ValueError: the positions are not vectors in the stream, or as ``qk_circuit``.
    """
    check_model(model, "a circuit", ("normalization_type",), ("W_Q", "W_K", "b_Q"))
    require_folded(model, "a circuit in the basis of positions")
    cfg: Any = model.cfg
    kind = getattr(cfg, "positional_embedding_type", "none")
    if kind not in ("standard", "sinusoidal"):
        raise ValueError(
            f"expected position vectors added to the stream, got {kind!r}; without W_pos there is no such "
            "circuit: look at attention_scores"
        )
    chosen = range(len(weight_of(model, "W_pos")) if positions is None else positions)
    causal = getattr(cfg, "attention_dir", "causal") != "bidirectional"
    allowed = torch.ones(len(chosen), len(chosen), dtype=torch.bool).tril() if causal else None
    found = _seeking("position_circuit", "W_pos", model, chosen, allowed, untrained, seed)
    return Result(**found, provenance=gated(gate, _origin(model, "W_pos to head", seed)))


@checked
def ov_circuit(
    model: nn.Module,
    *,
    tokens: Sequence[int] | None = None,
    untrained: nn.Module | None = None,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """What a head adds to each output if it attends to one token only: ``W_E W_V W_O W_U``.

    Args:
        tokens: rows of ``W_E`` to take, and the same outputs if there are as many; ``None``: all.

    Returns:
        Dims ``layer``, ``head``, ``source``, ``output``, in logits (or units of the outputs). ``bias``:
        what the values' bias ``b_V`` adds to each output.

    Raises:
        ValueError: as ``qk_circuit``; a network with codebooks.
    """
    check_model(model, "a circuit", ("normalization_type",), ("W_E", "W_V", "W_O", "W_U", "b_V"))
    require_folded(model, "a circuit in the basis of tokens")
    check_no_codebooks(model, "an OV circuit", "see analysis.codes and analysis.steering")
    alike = len(weight_of(model, "W_E")) == weight_of(model, "W_U").shape[1]

    def factors(network: nn.Module, draw: int | None) -> Factors:
        W_V, W_O = (weight_of(network, name, draw, seed) for name in ("W_V", "W_O"))
        rows, W_U = rows_of(network, "W_E", tokens), weight_of(network, "W_U")
        W_U = W_U[:, list(tokens)] if alike and tokens is not None else W_U
        return rows @ W_V, centred(network, W_O) @ W_U

    out = factors(model, None)[1]
    bias = {"bias": torch.einsum("lhe,lheo->lho", weight_of(model, "b_V"), out)}
    dims = ("source", "output")
    found = _circuit("ov_circuit", dims, "logits", factors, model, untrained, alike, None, bias)
    return Result(**found, provenance=gated(gate, _origin(model, "W_E to head to outputs", seed)))


def _seeking(
    name: str,
    basis: str,
    model: nn.Module,
    chosen: Sequence[int] | None,
    allowed: Bool[Tensor, "row row"] | None,
    untrained: nn.Module | None,
    seed: int,
) -> dict[str, Any]:
    """A query-key circuit of rows of ``W_E`` or ``W_pos``."""

    def factors(network: nn.Module, draw: int | None) -> Factors:
        rows = rows_of(network, basis, chosen)
        W_Q, W_K = (weight_of(network, name, draw, seed) for name in ("W_Q", "W_K"))
        return rows @ W_Q, (rows @ W_K).mT / score_scale(network, W_Q.shape[-1])

    bias = {"key_bias": torch.einsum("lhe,lhek->lhk", weight_of(model, "b_Q"), factors(model, None)[1])}
    dims = ("query", "key")
    return _circuit(name, dims, "attention score", factors, model, untrained, True, allowed, bias)


def _circuit(
    name: str,
    dims: tuple[str, str],
    units: str,
    factors: Callable[[nn.Module, int | None], Factors],
    model: nn.Module,
    untrained: nn.Module | None,
    alike: bool,
    allowed: Bool[Tensor, "row row"] | None,
    extra: Mapping[str, Tensor],
) -> dict[str, Any]:
    """A result's fields: the product of two factors, beside those of random heads."""
    own = factors(model, None)
    entries = math.prod(own[0].shape[:3]) * own[1].shape[-1]
    if entries > _MOST:
        raise ValueError(f"expected at most {_MOST} entries in all heads, got {entries}; take fewer tokens")

    def product(pair: Factors) -> Tensor:
        whole = pair[0] @ pair[1]
        return whole if allowed is None else whole.masked_fill(~allowed, torch.nan)

    def array(x: Tensor, *more: str, units: str = units) -> xr.DataArray:
        axes = ("layer", "head", *more)
        coords = {axis: list(range(size)) for axis, size in zip(axes, x.shape)}
        return xr.DataArray(x.numpy(), dims=axes, coords=coords, attrs={"units": units})

    random = [factors(model, draw) for draw in range(_DRAWS)]
    extras, interval = {key: array(x, dims[1]) for key, x in extra.items()}, None
    if alike:
        found = _to_themselves(product(own), own, allowed is not None)
        nulls = [_to_themselves(product(pair), pair, allowed is not None) for pair in random]
        for key, x in found.items():
            extras[key] = array(x, units="share")
            extras[f"{key}_null"] = array(torch.stack([null[key] for null in nulls]).mean(0), units="share")
        rows = own[0].shape[2]
        interval = proportion_interval(round(float(found["diagonal_top"].max()) * rows), rows)
    control = random[0] if untrained is None else factors(untrained, None)
    kind = "random heads with matrices as large" if untrained is None else "untrained network"
    return {"name": name, "values": array(product(own), *dims), "trivial": 0.0, "interval": interval,
            "control": array(product(control), *dims), "control_kind": kind, "extra": extras}  # fmt: skip


def _to_themselves(values: Tensor, factors: Factors, previous: bool) -> dict[str, Tensor]:
    """By head: the share of rows largest on the diagonal or just before it, and positive eigenvalues."""
    at = torch.arange(values.shape[-1])
    known = values.nan_to_num(-torch.inf)
    top = known.argmax(-1).masked_fill(
        (known == known.amax(-1, keepdim=True)).sum(-1) > 1, -1
    )  # a tie has none
    eigenvalues = torch.linalg.eigvals(factors[1] @ factors[0])
    found = {
        "diagonal_top": (top == at).double().mean(-1),
        "positive": eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1).clamp_min(1e-300),
    }
    return found | ({"previous_top": (top[..., 1:] == at[:-1]).double().mean(-1)} if previous else {})


def _origin(model: nn.Module, path: str, seed: int) -> dict[str, Any]:
    cfg: Any = model.cfg
    positions = getattr(cfg, "positional_embedding_type", None)
    kinds = {"normalisation": cfg.normalization_type, "positions": positions}
    return {"path": path, "seed": seed} | {key: str(kind) for key, kind in kinds.items()}
