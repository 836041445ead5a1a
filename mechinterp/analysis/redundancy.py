"""Ablating components two at a time: which of them stand in for each other?

Two heads that do the same hide each other from single ablations: without either nothing happens, without
both the answer is lost. The word *redundant* needs the joint effect, and so does *independent*.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.arguments import checked
from mechinterp.analysis.checks import check_inputs, check_model
from mechinterp.analysis.effects import beyond, distinct, effects_result
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.references import references
from mechinterp.analysis.sets import FIELDS, Component, ablate_sets, check_components, components_of
from mechinterp.analysis.setting import MEMORY, Metric, Progress, Setting
from mechinterp.analysis.statistics import benjamini_hochberg, sign_flip_p_values
from mechinterp.result import Result


@checked
def pairwise_ablation(
    model: Any,
    inputs: Tensor,
    metric: Metric,
    components: Sequence[Component] | None = None,
    *,
    reference: str = "mean",
    held_out: Tensor | None = None,
    read: Sequence[int] | Tensor = (-1,),
    attention_mask: Tensor | None = None,
    held_out_mask: Tensor | None = None,
    fast: bool = True,
    memory: int = MEMORY,
    progress: Progress | None = None,
    gate: Gate | None = None,
    seed: int = 0,
) -> Result:
    """Ablate every pair of components together, and each alone.

    Args:
        components: all heads by default.
        reference, held_out: as in ``ablation``; the other arguments as in ``activation_patching``.

    Returns:
        Dims ``component`` and ``with``: the metric without both (on the diagonal without the one), as
        ``effects_result``. The control is what the pair would do if effects added up. In ``extra``:
        ``interaction``, the joint effect beyond the sum of the single ones, with ``interaction_p``
        (sign flips over examples, Benjamini-Hochberg over pairs).

    Raises:
        ValueError: as ``ablation``; components that the network does not have.
    """
    check_inputs(inputs, attention_mask)
    check_model(model, "ablating components", FIELDS)
    chosen = components_of(model) if components is None else list(components)
    check_components(model, chosen)
    setting = Setting(model, inputs, metric, read, attention_mask, memory)
    becomes = references(
        model, sorted({one.hook for one in chosen}), reference, inputs, held_out,
        attention_mask=attention_mask, held_out_mask=held_out_mask, seed=seed,
    )  # fmt: skip
    before = setting.intact()
    sample = setting.sample(before, distinct(inputs, mask=attention_mask))
    n, pairs = len(chosen), list(combinations(range(len(chosen)), 2))
    sets = [(one,) for one in chosen] + [(chosen[i], chosen[j]) for i, j in pairs]
    found = ablate_sets(setting, sets, becomes, fast=fast, progress=progress)
    single = found[:n] - before
    joint = torch.diag_embed(found[:n].mT).permute(1, 2, 0)
    added = joint.clone()
    p_values = torch.full((n, n), torch.nan, dtype=torch.float64)
    if pairs:
        i, j = torch.tensor(pairs).mT
        joint[i, j] = joint[j, i] = found[n:]
        added[i, j] = added[j, i] = before + single[i] + single[j]
        beside = beyond(
            3 * sample.rounding, (joint - added)[i, j]
        )  # which has the rounding of three differences
        adjusted = benjamini_hochberg(sign_flip_p_values(sample.summed(beside.mT), seed=seed).numpy())
        p_values[i, j] = p_values[j, i] = torch.from_numpy(adjusted)
    names = [str(one) for one in chosen]
    axes = {"component": names, "with": names}

    def array(cells: Any) -> xr.DataArray:
        return xr.DataArray(np.asarray(cells), dims=list(axes), coords=axes)

    provenance = {"what": "pairs", "reference": reference, "seed": seed}
    return effects_result(
        "pairwise_ablation", joint, before, axes, gated(gate, provenance), other=added, sample=sample,
        tested=~torch.eye(n, dtype=torch.bool),
        control_kind="the sum of the single effects",
        extra={"interaction": array((joint - added).mean(-1)), "interaction_p": array(p_values)}, seed=seed,
    )  # fmt: skip
