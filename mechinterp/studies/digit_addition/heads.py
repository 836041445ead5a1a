"""Which heads of the encoder-decoder matter, for what, and where they look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from mechinterp.analysis.alignment import column_alignment
from mechinterp.analysis.components import (
    Ablated,
    component_ablation,
    component_patching,
    exact_match,
    mean_loss,
    token_accuracy,
)
from mechinterp.analysis.gates import gated
from mechinterp.analysis.metrics import all_right, logit_difference
from mechinterp.analysis.pruning import prune
from mechinterp.analysis.sets import Component, components_of
from mechinterp.hooks import HookPoint, run_with_cache
from mechinterp.models.generation import Generator
from mechinterp.result import Result
from mechinterp.studies.digit_addition.networks import written
from mechinterp.studies.networks import Trained
from mechinterp.tasks.base import Batch
from mechinterp.tasks.digits import CLASSES

LOST, KEPT = 0.1, 0.01
"""Of exact match: a head whose ablation costs the first is critical, one below the second redundant alone."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What one network's heads were found to do.

    Args:
        ablated: each without the others.
        redundant: heads that can go by themselves for less than a hundredth, on half of the problems.
        one_by_one, together: exact match lost without each of these, summed, and without all of them, on
            the other half.
        results: by name.
    """

    ablated: Ablated
    redundant: list[str]
    one_by_one: float
    together: float
    results: dict[str, Result]

    @property
    def lost(self) -> xr.DataArray:
        """Exact match lost to mean ablation, by component."""
        return -self.results["head_exact_match"].extra["effect"].sel(reference="mean", drop=True)

    @property
    def critical(self) -> list[str]:
        """Heads without which a tenth of the problems is lost, by mean ablation."""
        return [str(name) for name in self.lost.component.values[self.lost.values >= LOST]]

    @property
    def pruned(self) -> list[str]:
        """Heads that can go together for less than a hundredth, in the order found."""
        curve = self.results["pruning"]
        return [str(x) for x in curve.extra["order"].values[: prunable(curve.values.values)]]


def prunable(curve: np.ndarray) -> int:
    """How many components can go before a curve has lost ``KEPT`` of what it starts with."""
    lost = curve < curve[0] - KEPT
    return int(lost.argmax()) - 1 if lost.any() else len(curve) - 1


def heads_of(one: Trained, n: int = 2000) -> Heads:
    """Ablate, patch, prune and align all heads of a network."""
    batch, others = one.task.dataset("test")[slice(0, n)], one.task.dataset("val")
    chosen, common = components_of(one.model), {"read": batch.read, "gate": one.gate}
    ablated = component_ablation(
        one.model, batch.inputs, batch.targets, chosen, held_out=others.inputs, **common
    )
    measures = {
        "head_exact_match": exact_match,
        "head_token_accuracy": token_accuracy,
        "head_loss": mean_loss,
    }
    results = {name: ablated.effect(measure, name) for name, measure in measures.items()}
    results["head_columns"] = by_column(ablated, one, batch)
    results["pruning"] = prune(
        one.model, batch.inputs, all_right(batch.targets), chosen,
        held_out=others.inputs, **common,
    )  # fmt: skip
    stacks = {
        "encoder": ("source", "source"),
        "decoder": ("answer", "written"),
        "cross": ("answer", "source"),
    }
    place = one.task.column_of
    results["column_alignment"] = column_alignment(
        one.model, batch.inputs, {stack: (place[q], place[k]) for stack, (q, k) in stacks.items()}, chosen,
        untrained=one.untrained, gate=one.gate,
    )  # fmt: skip
    for kind in ("carry", "digit"):
        results[f"{kind}_heads"] = brought(one, kind, chosen)
    results["attention_example"] = attention_example(one, results["carry_heads"].values.mean("column"))
    halves = torch.arange(len(batch)) % 2 == 0, torch.arange(len(batch)) % 2 == 1
    lost = [_lost(ablated, rows) for rows in halves]
    redundant = [str(each) for each, x in zip(chosen, lost[0]) if x < KEPT]
    measured = batch[halves[1]]
    wrote = generated(one, measured, others, [Component.named(name) for name in redundant])
    intact = ablated.intact.right[halves[1]].all(-1).double().mean()
    return Heads(
        ablated=ablated,
        redundant=redundant,
        one_by_one=float(sum(x for x, first in zip(lost[1], lost[0]) if first < KEPT)),
        together=float(intact - wrote.double().mean()),
        results=results,
    )


def _lost(ablated: Ablated, rows: torch.Tensor) -> list[float]:
    """Exact match lost to mean ablation on some problems, by component."""
    without = ablated.without.right[ablated.references.index("mean")][:, rows]
    left = without.all(-1).double().mean(-1)
    return (ablated.intact.right[rows].all(-1).double().mean() - left).tolist()


def by_column(ablated: Ablated, one: Trained, batch: Batch) -> Result:
    """Right digits without each head, by reference, column and class of column; NaN where there is none."""
    task = one.task
    order = [task.columns.index(column) for column in range(task.n_digits + 1)]
    kinds = torch.stack([batch.variables["class"] == i for i in range(len(CLASSES))], -1).double()

    def cells(answers: torch.Tensor) -> np.ndarray:
        right = torch.einsum("...nc,nck->...ck", answers[..., order].double(), kinds)
        return (right / kinds.sum(0)).numpy()

    names = [f"{task.base}^{column}" for column in range(len(order))]
    coords = {
        "reference": list(ablated.references), "component": [str(each) for each in ablated.components],
        "column": names, "class": list(CLASSES),
    }  # fmt: skip
    values, others = (
        xr.DataArray(cells(x), dims=list(coords), coords=coords, attrs={"units": "share of right digits"})
        for x in (ablated.without.right, ablated.control.right)
    )
    sides = ("column", "class")
    return Result(
        name="head_columns",
        values=values,
        trivial=1 / task.base,
        control=others,
        control_kind="a change of the same size with random signs",
        provenance={**ablated.provenance, "n": len(batch)},
        extra={
            "intact": xr.DataArray(cells(ablated.intact.right), dims=sides),
            "count": xr.DataArray(kinds.sum(0).numpy(), dims=sides),
        },
    )


def brought(one: Trained, kind: str, chosen: Sequence[Component], n: int = 500) -> Result:
    """What each head brings, column by column, from the problem with the carry, or with the larger digit.

    Returns:
        Dims ``column``, ``component``: the share of the difference between the two problems' answers that
        the head's output brings from one into the other. Trivial is 0; the control brings its output from
        another problem without the carry. ``extra["chosen by"]`` is the same on other pairs.
    """
    columns = list(range(1, one.task.n_digits))
    cells: dict[str, list[np.ndarray]] = {"value": [], "control": [], "chosen by": []}
    for column in columns:
        place = one.task.columns.index(column)
        both = one.task.pairs(kind, column, n=2 * n)
        for rows in (slice(0, n), slice(n, None)):
            more, less = (batch[rows] for batch in both)
            metric = logit_difference(more.targets[:, place], less.targets[:, place])
            found = component_patching(
                one.model, more.inputs, less.inputs, metric, chosen, read=(place - one.task.n_target,),
                gate=one.gate,
            )  # fmt: skip
            cells["value" if rows.start else "chosen by"].append(found.extra["recovered"].values)
        cells["control"].append(found.extra["recovered by control"].values)
    coords = {"column": columns, "component": [str(each) for each in chosen]}
    arrays = {name: xr.DataArray(np.array(x), dims=list(coords), coords=coords) for name, x in cells.items()}
    arrays["value"].attrs["units"] = "share of the difference"
    return Result(
        name=f"{kind}_heads",
        values=arrays["value"],
        trivial=0.0,
        control=arrays["control"],
        control_kind="its output in another problem without it",
        provenance=gated(one.gate, {"n": n, "seed": one.task.seed, "pairs": "of any split, drawn anew"}),
        extra={"chosen by": arrays["chosen by"]},
    )


@torch.no_grad()
def generated(one: Trained, batch: Batch, others: Batch, gone: Sequence[Component]) -> torch.Tensor:
    """Which problems the network writes right, greedily, with components at their means, ``[n]``."""
    hooks = sorted({each.hook for each in gone})
    _, cache = run_with_cache(one.model, others.inputs, names=hooks)
    means = {hook: cache[hook].mean(0, keepdim=True) for hook in hooks}

    def to_mean(tensor: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        tensor = tensor.clone()
        for each in gone:
            if each.hook == hook.name:
                tensor[:, :, each.head] = means[each.hook][:, : tensor.shape[1], each.head]
        return tensor

    with one.model.hooks(fwd_hooks=[(hook, to_mean) for hook in hooks]):
        return (written(one.model, one.task, batch) == batch.targets).all(1)


def attention_example(one: Trained, carry: xr.DataArray, shown: int = 6) -> Result:
    """The patterns of the heads that bring the carry, for one problem whose carry runs all the way."""
    batch = one.task.with_cascade(one.task.n_digits)[slice(0, 2)]
    order = np.argsort(-carry.values)[:shown]
    heads = [Component.named(str(carry.component.values[i])) for i in order]
    size = max(one.task.n_source, one.task.n_target)

    def patterns(model: Generator) -> np.ndarray:
        hooks = [each.hook.replace("hook_z", "hook_pattern") for each in heads]
        _, cache = run_with_cache(model, batch.inputs, names=sorted(set(hooks)))
        found = np.full((len(heads), size, size), np.nan)
        for row, (each, hook) in enumerate(zip(heads, hooks)):
            pattern = cache[hook][0, each.head].numpy()
            found[row, : pattern.shape[0], : pattern.shape[1]] = pattern
        return found

    text, n_source = one.task.text(batch.inputs[0]), one.task.n_source
    coords, dims = {"component": [str(each) for each in heads]}, ("component", "query", "key")
    return Result(
        name="attention_example",
        values=xr.DataArray(
            patterns(one.model), dims=dims, coords=coords, attrs={"units": "attention weight"}
        ),
        trivial=1 / n_source,
        control=xr.DataArray(patterns(one.untrained), dims=dims, coords=coords),
        control_kind="untrained network",
        provenance={"source": text[:n_source], "target": text[n_source:], "teacher forced": True},
        extra={
            "carry": xr.DataArray(batch.variables["carry_in"][0].numpy(), dims="column"),
            "columns": xr.DataArray(list(one.task.columns), dims="written"),
            "brings": xr.DataArray(carry.values[order], dims="component", coords=coords),
        },
    )
