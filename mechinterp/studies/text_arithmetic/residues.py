"""The network that answers residues: on which circles they lie, whether those cause the answer, and what else
than a linear reader finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.attention import attention_entropy
from mechinterp.analysis.erasure import erasure_curve
from mechinterp.analysis.metrics import all_right
from mechinterp.analysis.probes import MLP, Fourier, Logistic, MLPRegression, Periods, Probe, Ridge, probe
from mechinterp.hooks import Site, run_with_cache
from mechinterp.result import Result
from mechinterp.studies.networks import Trained
from mechinterp.tasks.base import Batch

CIRCLES = 12
"""Frequencies erased one after another, those that are read best first."""
PERIODS = (2, 3, 4, 5, 7, 8)
READERS: Mapping[str, Probe] = {
    "ridge": Ridge(),
    "MLP of numbers, 64": MLPRegression(),
    "MLP of numbers, 64 + 64": MLPRegression(hidden=(64, 64)),
    "logistic": Logistic(),
    "MLP, 64": MLP(),
    "MLP, 256": MLP(hidden=(256,)),
    "MLP, 64 + 64": MLP(hidden=(64, 64)),
}
"""Of the residue: R² of those that read a number, accuracy of those that read a class."""


def residues(one: Trained, n: int) -> list[Result]:
    """Everything that is asked of the network that answers residues."""
    batch = one.task.dataset("test")[slice(0, n)]
    layers = [f"blocks.{layer}.hook_resid_post" for layer in range(len(one.model.blocks))]
    cache, before = ({name: x[:, -1:] for name, x in _streams(model, batch, layers).items()}
                     for model in (one.model, one.untrained))  # fmt: skip
    residue, common = batch.variables["residue"], {"untrained": before, "gate": one.gate}
    circles = probe(cache, residue, Fourier(p=one.task.k), together=residue, **common)
    periods = probe(cache, batch.variables["sum"].double(), Periods(periods=PERIODS), **common)
    best = circles.values.sel(hook=layers[-1]).squeeze()
    order = [int(f) for f in best.frequency.values[np.argsort(-best.values)][:CIRCLES]]
    right = all_right(batch.targets)
    curve = erasure_curve(
        one.model, batch.inputs, Site.at(layers[-1], position=-1),
        {frequency: circle(residue, frequency, one.task.k) for frequency in order}, right,
        read=(-1,), gate=one.gate,
    )  # fmt: skip
    heads = ablation(
        one.model, batch.inputs, right, "heads", held_out=one.task.dataset("val").inputs, gate=one.gate
    )
    return [
        circles, periods, curve, readers(one, batch, cache), replace(heads, name="residue_heads"),
        attention_entropy(one.model, batch.inputs[:1000], gate=one.gate),
    ]  # fmt: skip


def circle(residue: Tensor, frequency: int, k: int) -> Tensor:
    """Cosine and sine of a residue's angle, ``[n, 2]``."""
    angle = 2 * torch.pi * (residue * frequency % k).double() / k
    return torch.stack((angle.cos(), angle.sin()), 1)


def readers(one: Trained, batch: Batch, cache: Mapping[str, Tensor], n: int = 4000) -> Result:
    """What readers of several kinds find of the residue at the last character, after each layer."""
    some = {hook: x[:n] for hook, x in cache.items()}
    residue = batch.variables["residue"][:n]
    scores, shuffled, trivial = [], [], []
    for kind in READERS.values():
        numbers = isinstance(kind, (Ridge, MLPRegression))
        found = probe(some, residue.double() if numbers else residue, kind, shuffles=1, permutations=0)
        scores.append(found.values.values.ravel())
        shuffled.append(found.control.values.ravel())
        trivial.append(0.0 if numbers else found.trivial)
    coords = {"reader": list(READERS), "hook": list(cache)}
    return Result(
        name="residue_readers",
        values=xr.DataArray(
            np.array(scores), dims=list(coords), coords=coords, attrs={"units": "R² or accuracy, held out"}
        ),
        trivial=1 / one.task.k,
        control=xr.DataArray(np.array(shuffled), dims=list(coords), coords=coords),
        control_kind="shuffled labels, 1 fit",
        provenance={"n": n, "position": "last", "seed": one.task.seed, "learned": one.gate.learned},
        extra={"constant": xr.DataArray(np.array(trivial), dims="reader")},
    )


@torch.no_grad()
def _streams(model: object, batch: Batch, hooks: list[str]) -> dict[str, Tensor]:
    return dict(run_with_cache(model, batch.inputs, names=hooks)[1].items())
