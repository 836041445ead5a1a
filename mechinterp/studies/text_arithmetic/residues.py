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
from mechinterp.hooks import Site
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, stream_hooks, streams
from mechinterp.studies.text_arithmetic.sums import PERIODS
from mechinterp.studies.text_arithmetic.waves import WAVES, circle
from mechinterp.tasks.base import Batch

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
    batch, others = one.task.dataset("test")[slice(0, n)], one.task.dataset("val")
    layers = stream_hooks(one.model)
    cache, before, chosen_on = (
        {name: x[:, -1:] for name, x in streams(model, some, layers).items()}
        for model, some in ((one.model, batch), (one.untrained, batch), (one.model, others))
    )
    residue, common = batch.variables["residue"], {"untrained": before, "gate": one.gate}
    kind = Fourier(p=one.task.k)
    circles = probe(cache, residue, kind, together=residue, **common)
    seen = others.variables["residue"]
    ranked = probe(chosen_on, seen, kind, together=seen, shuffles=1, permutations=0).values.squeeze(
        "position"
    )
    order = {
        hook: [int(f) for f in ranked.frequency.values[np.argsort(-ranked.sel(hook=hook).values)]]
        for hook in layers
    }
    best = xr.DataArray([order[hook] for hook in layers], dims=("hook", "rank"), coords={"hook": layers})
    right = all_right(batch.targets)
    curves = {
        name: erasure_curve(
            one.model, batch.inputs, Site.at(hook, position=-1),
            {frequency: circle(residue, frequency, one.task.k) for frequency in order[hook][:WAVES]}, right,
            read=(-1,), gate=one.gate,
        )
        for name, hook in (("erasure_curve", layers[-1]), ("erasure_curve_first", layers[0]))
    }  # fmt: skip
    heads = ablation(one.model, batch.inputs, right, "heads", held_out=others.inputs, gate=one.gate)
    looks = attention_entropy(one.model, batch.inputs[:1000], untrained=one.untrained, gate=one.gate)
    return [
        replace(circles, extra={**circles.extra, "best on val": best}),
        probe(cache, batch.variables["sum"].double(), Periods(periods=PERIODS), **common),
        *(replace(curve, name=name) for name, curve in curves.items()),
        readers(one, batch, cache, before), replace(heads, name="residue_heads"), looks,
    ]  # fmt: skip


def readers(
    one: Trained, batch: Batch, cache: Mapping[str, Tensor], before: Mapping[str, Tensor], n: int = 4000
) -> Result:
    """What readers of several kinds find of the residue at the last character, after each layer, and in the
    characters themselves."""
    residue = batch.variables["residue"][:n]
    raw = torch.nn.functional.one_hot(batch.inputs[:n], one.task.d_vocab).flatten(1)[:, None].float()
    of = {hook: x[:n] for hook, x in cache.items()} | {"characters": raw}
    untrained = {hook: x[:n] for hook, x in before.items()}

    def scores(x: Mapping[str, Tensor], kind: Probe) -> tuple[list[float], list[float], float]:
        numbers = isinstance(kind, (Ridge, MLPRegression))
        found = probe(x, residue.double() if numbers else residue, kind, shuffles=1, permutations=0)
        constant = 0.0 if numbers else float(found.trivial)
        return found.values.values.ravel().tolist(), found.control.values.ravel().tolist(), constant

    rows = [scores(of, kind) for kind in READERS.values()]
    coords = {"reader": list(READERS), "hook": list(of)}

    def array(values: list[list[float]], hooks: list[str]) -> xr.DataArray:
        return xr.DataArray(np.array(values), dims=list(coords), coords={**coords, "hook": hooks})

    values = array([row[0] for row in rows], list(of))
    values.attrs["units"] = "R² or accuracy, held out"
    return Result(
        name="residue_readers",
        values=values,
        trivial=1 / one.task.k,
        control=array([row[1] for row in rows], list(of)),
        control_kind="shuffled labels, 1 fit",
        provenance={
            "n": len(residue), "position": "last", "seed": one.task.seed, "learned": one.gate.learned,
        },
        extra={
            "constant": xr.DataArray([row[2] for row in rows], coords={"reader": list(READERS)}),
            "untrained": array([scores(untrained, kind)[0] for kind in READERS.values()], list(untrained)),
        },
    )  # fmt: skip
