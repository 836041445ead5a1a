"""Where the network groks, over weight decay and the share of the pairs that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import stats

from mechinterp.analysis.fourier import key_frequencies, trigonometric_share
from mechinterp.analysis.statistics import proportion_interval
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import Claim, Result
from mechinterp.studies.base import FITTED, Watch, train
from mechinterp.studies.modular_addition.anatomy import Activations
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.training.recipes import FAST

DECAYS = (0.0, 0.3, 1.0, 2.0)
FRACTIONS = (0.2, 0.3, 0.5, 0.7)


def phase_grid(
    base: ModularAddition,
    network: Callable[[ModularAddition], HookedTransformer],
    folder: Path,
    watch: Watch,
) -> Result:
    """Train every cell by the fast recipe: whether, when, and with how many frequencies it groks."""
    recipe = replace(FAST, checkpoints=0, cleanup_steps=0, stop_at_score=FITTED)
    cells = np.full((3, len(DECAYS), len(FRACTIONS)), np.nan)
    for i, decay in enumerate(DECAYS):
        for j, fraction in enumerate(FRACTIONS):
            task = replace(base, train_fraction=fraction)
            label = f"decay {decay:g}, train {fraction:.0%}"
            place = folder / f"decay_{decay}_train_{fraction}"
            model = network(task)
            job = train(model, task, replace(recipe, weight_decay=decay), place, watch, label)
            cells[2, i, j] = job.history.test_score[-1]
            if cells[2, i, j] >= FITTED:
                keys = key_frequencies(trigonometric_share(Activations.of(model, task).logits))
                cells[:2, i, j] = job.step, len(keys)
    coords = {
        "measure": ["steps", "key_frequencies", "test_score"],
        "weight_decay": list(DECAYS),
        "train_fraction": list(FRACTIONS),
    }
    return Result(
        name="decay_and_fraction_phase",
        values=xr.DataArray(cells, dims=tuple(coords), coords=coords, attrs={"units": "steps"}),
        trivial=base.trivial,
        control=xr.DataArray(
            cells[2, 0], dims=("train_fraction",), coords={"train_fraction": list(FRACTIONS)}
        ),
        control_kind="test accuracy without weight decay",
        provenance={
            "seed": base.seed,
            "p": base.p,
            "most steps": recipe.steps,
            "groks": f"test accuracy >= {FITTED}",
        },
    )


def phase_claim(grid: Result) -> Claim:
    """Judge the grid: with weight decay more networks grok, and sooner with more data."""
    steps = grid.values.sel(measure="steps")
    decayed, without = steps.sel(weight_decay=steps.weight_decay > 0), steps.sel(weight_decay=0.0)
    counts = [[int(cells.notnull().sum()), int(cells.isnull().sum())] for cells in (decayed, without)]
    p = float(stats.fisher_exact(counts, alternative="greater").pvalue)
    times = decayed.fillna(np.inf).transpose("weight_decay", "train_fraction").values  # never is latest
    sooner = bool((times[:, 1:] <= times[:, :-1]).all())
    return Claim(
        id="decay_and_fraction_phase",
        statement="With weight decay more networks grok within the budget than without, beyond chance "
        f"(Fisher's exact test, p = {p:.2g}), and the sooner the more pairs train, of one seed",
        value=float(decayed.notnull().mean()),
        trivial=0.0,
        control=float(without.notnull().mean()),
        control_kind="without weight decay",
        interval=proportion_interval(counts[0][0], int(decayed.size)),
        interval_over="cells of the grid",
        verdict="holds" if p < 0.05 and sooner else "fails",
        source="Nanda et al. (2023), appendix",
    )
