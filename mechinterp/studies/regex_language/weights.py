"""The learned weights beside the automaton's: raw as published, in a basis of states, along training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.state_basis import StateBasis, state_basis
from mechinterp.analysis.transitions import compare_transitions, leading_blocks
from mechinterp.hooks import run_with_cache
from mechinterp.models.folding import fold_ln
from mechinterp.models.rotation import rotate_stream
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import Result
from mechinterp.studies.regex_language.training import Trained
from mechinterp.tasks.base import Batch
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.training.checkpoint import load_into

ROTATIONS = 20


def stream_after(layer: int) -> str:
    """The hook of the stream after a layer."""
    return f"blocks.{layer}.hook_resid_post"


@torch.no_grad()
def activations(model: HookedTransformer, batch: Batch, layer: int = -1) -> Tensor:
    """The stream after a layer at the real places of a batch, ``[place, d_model]``."""
    hook = stream_after(layer % model.cfg.n_layers)
    return run_with_cache(model, batch.inputs, names=hook)[1][hook][batch.mask]


def basis_of(model: HookedTransformer, task: RegexLanguage, layer: int = -1, seed: int = 0) -> StateBasis:
    """The basis of states in the stream after a layer, from the words that train.

    Raises:
        ValueError: as ``state_basis``; states that those words hardly reach.
    """
    batch = different(task.dataset("train"), 2000)
    word = torch.arange(len(batch))[:, None].expand(batch.inputs.shape)[batch.mask]
    states = batch.variables["state"][batch.mask]
    stream = activations(model, batch, layer)
    return state_basis(stream, states, n_states=task.dfa.n_states, groups=word, seed=seed)


def different(batch: Batch, most: int) -> Batch:
    """Some words of a batch, each once, in an order that does not depend on what they are."""
    _, word = batch.inputs.unique(dim=0, return_inverse=True)
    first = torch.full((int(word.max()) + 1,), len(batch)).scatter_reduce(
        0, word, torch.arange(len(batch)), "amin"
    )
    return batch[first.sort().values[:most]]


def weight_comparison(
    model: HookedTransformer,
    task: RegexLanguage,
    *,
    untrained: HookedTransformer | None = None,
    layer: int = 0,
    draws: int = 500,
    seed: int = 0,
    gate: Gate | None = None,
) -> tuple[Result, Result]:
    """A layer's heads beside the automaton's transition matrices, twice.

    The first, ``raw_transitions``, is the published comparison: head h beside symbol h, in the leading
    dimensions of the stream. Its ``extra["rotated"]`` are the same numbers (measure, head, rotation) of
    networks that compute the same in a turned stream, and ``provenance["outputs differ by"]`` says how
    nearly the same. The second, ``state_transitions``, has the heads in the basis of states, each beside the
    symbol it fits best.

    Args:
        untrained: the same network before training.
        layer: whose heads; the basis is that of the stream after it.

    Raises:
        ValueError: d_model < states; as ``compare_transitions`` and ``state_basis``.
    """
    transitions, n = task.dfa.matrices, task.dfa.n_states
    settings: dict[str, Any] = {"draws": draws, "seed": seed, "gate": gate}
    here = {"layer": layer, "pattern": task.pattern}

    model, untrained = plain(model), None if untrained is None else plain(untrained)

    def blocks(network: HookedTransformer) -> Tensor:
        return leading_blocks(network.W_V[layer], network.W_O[layer], n)

    def in_states(network: HookedTransformer) -> tuple[Tensor, StateBasis]:
        basis = basis_of(network, task, layer, seed)
        return basis(network.W_V[layer], network.W_O[layer]), basis

    raw = compare_transitions(
        blocks(model), transitions, match=False, untrained=None if untrained is None else blocks(untrained),
        name="raw_transitions", provenance={**here, "basis": "leading dimensions"}, **settings,
    )  # fmt: skip
    matrices, basis = in_states(model)
    quality = {
        "basis": "states",
        "probe accuracy": round(basis.accuracy, 4),
        "probe trivial": round(basis.trivial, 4),
    }
    states = compare_transitions(
        matrices, transitions, untrained=None if untrained is None else in_states(untrained)[0],
        name="state_transitions", provenance={**here, **quality}, **settings,
    )  # fmt: skip
    return _with_rotations(raw, model, task, layer, seed), states


def plain(model: HookedTransformer) -> HookedTransformer:
    """A copy in evaluation mode, without scales in its normalisation, which weights alone would leave out."""
    folds = model.cfg.normalization_type in ("LN", "RMS")
    return (fold_ln(model) if folds else copy.deepcopy(model)).eval()


@torch.no_grad()
def _with_rotations(
    raw: Result, model: HookedTransformer, task: RegexLanguage, layer: int, seed: int
) -> Result:
    """The raw comparison with those of rotated networks beside it."""
    batch, transitions, values, off = task.dataset("test"), task.dfa.matrices, [], 0.0
    batch = batch[torch.arange(min(len(batch), 100))]
    intact = task.outputs(model, batch)
    for number in range(ROTATIONS):
        turned = rotate_stream(model, seed=seed + number).eval()
        off = max(off, float((task.outputs(turned, batch) - intact).abs().max()))
        blocks = leading_blocks(turned.W_V[layer], turned.W_O[layer], task.dfa.n_states)
        values.append(compare_transitions(blocks, transitions, match=False, draws=1).extra["measures"].values)
    measures = raw.extra["measures"]
    rotated = xr.DataArray(np.stack(values, -1), dims=(*measures.dims, "rotation"), coords=measures.coords)
    return replace(
        raw,
        extra={**raw.extra, "rotated": rotated},
        provenance={**raw.provenance, "outputs differ by": float(f"{off:.2g}")},
    )


def along_training(trained: Trained, layer: int = 0, draws: int = 100, gate: Gate | None = None) -> Result:
    """Both comparisons' cosine of all heads, and the loss, at every checkpoint of a run.

    Dims ``basis`` and ``step``. ``extra``: ``gradient`` (component, step), the norm of the loss's gradient
    on val by kind of weight. The control is the mean over random automata at the last checkpoint.
    """
    series, task = trained.checkpoints, trained.task
    model, rows, gradients = trained.untrained(), [], []
    for step in series.steps:
        load_into(model, series[step], f"the checkpoint of step {step}")
        found = _cosines(model, task, layer, draws)
        rows.append([result.values.sel(head="all").item() for result in found])
        gradients.append(gradient_norms(model, task))
    control = [float(result.control.sel(head="all")) for result in found]
    coords = {"basis": ["raw", "state_basis"], "step": series.steps}
    names = list(gradients[0])
    norms = [[norm[name] for norm in gradients] for name in names]
    return Result(
        name="comparison_along_training",
        values=xr.DataArray(
            np.array(rows).T, dims=("basis", "step"), coords=coords, attrs={"units": "cosine"}
        ),
        trivial=0.0,
        control=xr.DataArray(control, dims=("basis",), coords={"basis": coords["basis"]}),
        control_kind="random automata of the same size",
        provenance=gated(gate, {"pattern": task.pattern, "layer": layer, "checkpoints": len(series)}),
        extra={
            "gradient": xr.DataArray(
                norms, dims=("component", "step"), coords={"component": names, "step": series.steps}
            )
        },
    )


def _cosines(model: HookedTransformer, task: RegexLanguage, layer: int, draws: int) -> Sequence[Result]:
    folded, transitions = plain(model), task.dfa.matrices
    weights = folded.W_V[layer], folded.W_O[layer]
    raw = compare_transitions(
        leading_blocks(*weights, task.dfa.n_states), transitions, match=False, draws=draws
    )
    return raw, compare_transitions(basis_of(folded, task, layer)(*weights), transitions, draws=draws)


def gradient_norms(model: HookedTransformer, task: RegexLanguage) -> Mapping[str, float]:
    """The norm of the gradient of the loss on val, by kind of weight (``W_E``, ``W_Q``, ...)."""
    batch = task.dataset("val")
    with torch.enable_grad():
        weights = {name: x for name, x in model.named_parameters() if x.requires_grad}
        loss = task.loss(task.outputs(model, batch), batch)
        grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    squares: dict[str, float] = {}
    for name, grad in zip(weights, grads):
        kind = name.rsplit(".", 1)[-1]
        if kind.startswith("W_"):
            squares[kind] = squares.get(kind, 0.0) + (0.0 if grad is None else float(grad.square().sum()))
    return {kind: total**0.5 for kind, total in squares.items()}
