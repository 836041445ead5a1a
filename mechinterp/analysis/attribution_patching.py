"""Attribution patching: every component's effect at once, to first order, and how far that is from exact.

The scores are those of TransformerLens 4's ``tools.analysis.attribution_patch`` (Nanda 2023; edges as in
Syed et al. 2023), on any model that it takes, ours among them. A first-order score is a guess; here each
comes with what patching the same place really does. Under TransformerLens 3 it raises ``ImportError``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import (
    check_evaluation,
    check_metric,
    check_model,
    check_no_codebooks,
    check_one_stack,
    check_pair,
)
from mechinterp.analysis.effects import derangement
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.readouts import Read, at_read, read_positions
from mechinterp.analysis.statistics import benjamini_hochberg, bootstrap_means, sign_flip_p_values
from mechinterp.hooks import Site, patch, transformer_lens_tools
from mechinterp.result import Result

Metric = Callable[[Tensor], Tensor]


@checked
def attribution_patching(
    model: nn.Module,
    clean: Tensor,
    corrupted: Tensor,
    metric: Metric,
    *,
    granularity: Literal["node", "edge"] = "node",
    read: Read = (-1,),
    exact: bool = True,
    seed: int = 0,
    gate: Gate | None = None,
) -> Result:
    """What patching each component from the clean into the corrupted run does to a metric, to first order.

    ``(clean - corrupted) * gradient`` of the metric in the corrupted run: positive where patching raises it.

    Args:
        clean, corrupted: paired token ids, ``[batch, pos]``.
        metric: outputs ``[batch, read, d_out]`` to numbers ``[batch]``, each of its own example's outputs.
        granularity: nodes are the embedding, heads and MLPs; edges go from one of them to what reads it.
        read: the positions whose outputs the metric takes, ``[read]`` or ``[batch, read]``.
        exact: also patch every node in turn, one run each.

    Returns:
        Dims ``node``, ``position``, or ``writer``, ``reader``, ``position`` (NaN where there is no edge);
        means over examples. The control takes each example's clean run from another one. ``low`` and
        ``high``: 95 % bootstrap over examples; ``p_adjusted``: sign flips over examples, Benjamini-Hochberg.
        The interval is that of the largest, which provenance names. With ``exact``: ``first_order`` and
        ``exact``, both ``[node, position]``, and ``first_order_error`` over all examples and places.

    Raises:
        ValueError: inputs that are no pairs, fewer than two pairs, a metric of another shape, a network
            without MLPs (which the tool does not take) or in training mode.
        ImportError: TransformerLens is older than 4.3.
    """
    check_pair(clean, corrupted)
    check_model(model, "attribution patching", ("n_layers", "n_heads", "attn_only"))
    check_evaluation(model)
    check_one_stack(model, "attribution", "give models.Decoder(model, source) and targets", decoder=True)
    if clean.ndim != 2 or clean.is_floating_point() or model.cfg.attn_only:
        raise ValueError(
            f"expected token ids [batch, pos] and a network with MLPs, got {clean.dtype} "
            f"{tuple(clean.shape)} and attn_only={model.cfg.attn_only}; patch others exactly"
        )
    check_no_codebooks(
        model, "gradients, which pass codes straight through", "patch exactly, by activation_patching"
    )
    ask = _Asked(metric, read_positions(read, *clean.shape))
    with torch.no_grad():
        ask(model(corrupted))  # a metric that does not fit is found before the work
    donors = derangement(len(clean), seed)
    own, writers = _scores(model, clean, corrupted, ask, granularity)
    others, _ = _scores(model, clean[donors], corrupted, ask, granularity)
    values = own[granularity]
    means, extra = _means(values)
    found: dict[str, float] = {}
    if exact:
        truth = _exact(model, clean, corrupted, ask, writers, own["node"])
        found = first_order_error(own["node"].values, truth.values)
        extra |= {name: xr.DataArray(number) for name, number in found.items()}
        extra |= {"first_order": own["node"].mean("example"), "exact": truth.mean("example")}
    at = np.unravel_index(np.nan_to_num(np.abs(means.values), nan=-1.0).argmax(), means.shape)
    where = [str(means.coords[dim].values[k]) for dim, k in zip(means.dims, at)]
    return Result(
        name=f"attribution_{granularity}s",
        values=means,
        trivial=0.0,
        control=others[granularity].mean("example"),
        control_kind="clean runs shuffled among examples",
        interval=(float(extra["low"].values[at]), float(extra["high"].values[at])),
        provenance=gated(gate, {
            "n": len(clean), "seed": seed, "largest": f"{' to '.join(where[:-1])} at position {where[-1]}",
            **{name.replace("_", " "): round(number, 4) for name, number in found.items()},
        }),
        extra=extra,
    )  # fmt: skip


def first_order_error(first_order: ArrayLike, exact: ArrayLike) -> dict[str, float]:
    """How far first-order effects are from exact ones of the same shape.

    Returns:
        ``correlation`` (Pearson; NaN if either does not vary), ``largest_error``, and ``sign_agreement``: the
        share with the same sign of those whose exact effect is at least 1 % of the largest.
    """
    guess, truth = np.asarray(first_order, dtype=float).ravel(), np.asarray(exact, dtype=float).ravel()
    varies = guess.std() > 0 and truth.std() > 0
    large = np.abs(truth) >= 0.01 * np.abs(truth).max()
    return {
        "correlation": float(np.corrcoef(guess, truth)[0, 1]) if varies else float("nan"),
        "largest_error": float(np.abs(guess - truth).max()),
        "sign_agreement": float((np.sign(guess) == np.sign(truth))[large].mean()),
    }


class _Asked:
    """The metric of the outputs at the positions read, of all examples or of one alone."""

    def __init__(self, metric: Metric, at: Int[Tensor, "batch read"]) -> None:
        self.metric, self.at = metric, at

    def __call__(self, logits: Float[Tensor, "batch pos out"]) -> Float[Tensor, " batch"]:
        return self._checked(at_read(logits, self.at))

    def alone(self, row: int) -> Metric:
        """For TransformerLens: logits of one example ``[1, pos, out]`` to a number."""

        def number(logits: Tensor) -> Tensor:
            outputs = at_read(logits, self.at[row : row + 1])
            # The metric may know each example's answer by its place, so it gets a whole batch.
            return self._checked(outputs.expand(len(self.at), -1, -1))[row]

        return number

    def _checked(self, outputs: Tensor) -> Tensor:
        return check_metric(self.metric(outputs), len(outputs), "a run")


def _scores(
    model: nn.Module, clean: Tensor, corrupted: Tensor, ask: _Asked, granularity: str
) -> tuple[dict[str, xr.DataArray], dict[str, tuple[str, int | None]]]:
    """First-order scores by example, of nodes and of edges; and where each node is patched."""
    tools = transformer_lens_tools()
    config = tools.EdgeAttributionConfig(granularity=granularity)
    with torch.enable_grad():
        found = [
            tools.attribution_patch(model, clean[i : i + 1], corrupted[i : i + 1], ask.alone(i), config)
            for i in range(len(clean))
        ]
    length = clean.shape[1]
    nodes = [{(_label(n), n.position): score for n, score in each.node_scores.items()} for each in found]
    scores = {"node": _array(nodes, ("node",), length)}
    if granularity == "edge":
        edges = [
            {(_label(w), _label(r), w.position): score for (w, r), score in each.edge_scores.items()}
            for each in found
        ]
        scores["edge"] = _array(edges, ("writer", "reader"), length)
    return scores, {_label(node): (node.hook_name, node.head) for node in found[0].node_scores}


def _label(node: Any) -> str:
    name = "" if node.head is None else f"L{node.layer}H{node.head}"
    if node.kind in ("q_input", "k_input", "v_input"):
        return f"{name} {node.kind[0]}"
    if node.kind in ("mlp_out", "mlp_in"):
        return f"{node.layer}_{node.kind}"
    return name or node.kind


def _array(scores: list[dict[tuple, float]], dims: tuple[str, ...], length: int) -> xr.DataArray:
    """Scores keyed by labels and a position, one dictionary an example, as an array; NaN elsewhere."""
    axes = [list(dict.fromkeys(key[axis] for key in scores[0])) for axis in range(len(dims))]
    places = [{label: place for place, label in enumerate(axis)} for axis in axes]
    array = np.full((len(scores), *map(len, axes), length), np.nan)
    for example, each in enumerate(scores):
        for key, score in each.items():
            array[(example, *(place[label] for place, label in zip(places, key)), key[-1])] = score
    coords = dict(zip(dims, axes)) | {"position": list(range(length))}
    return xr.DataArray(
        array, dims=("example", *dims, "position"), coords=coords, attrs={"units": "change of the metric"}
    )


def _means(values: xr.DataArray) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Means over examples, with bootstrap intervals and adjusted p-values of the sign-flip test."""
    means = values.mean("example", keep_attrs=True)
    x = torch.from_numpy(values.values)
    low, high = bootstrap_means(x)
    there = ~np.isnan(means.values)
    p = np.where(there, sign_flip_p_values(x.nan_to_num()).numpy(), np.nan)
    found = {"low": low.numpy(), "high": high.numpy(), "p_adjusted": benjamini_hochberg(p)}
    return means, {name: means.copy(data=array) for name, array in found.items()}


@torch.no_grad()
def _exact(
    model: nn.Module,
    clean: Tensor,
    corrupted: Tensor,
    ask: _Asked,
    writers: dict[str, tuple[str, int | None]],
    like: xr.DataArray,
) -> xr.DataArray:
    """The change of the metric when each node at each position takes its value in the clean run."""
    names = {name for name, _ in writers.values()}
    _, cache = model.run_with_cache(clean, names_filter=lambda name: name in names)
    intact = ask(model(corrupted))

    def effect(name: str, head: int | None, position: int) -> Tensor:
        edit = patch(Site.at(name, position=position, **({} if head is None else {"head": head})), cache)
        with model.hooks(fwd_hooks=[(name, lambda tensor, hook: edit(tensor, name))]):
            return ask(model(corrupted)) - intact

    found = [
        torch.stack([effect(*writers[str(label)], position) for position in range(clean.shape[1])])
        for label in like.coords["node"].values
    ]
    return like.copy(data=torch.stack(found).movedim(-1, 0).double().cpu().numpy())
