"""How networks of more layers and more width do: each is trained and analysed in a run of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.erasure import decodability, leace
from mechinterp.analysis.probes import probe
from mechinterp.analysis.statistics import seeds_interval
from mechinterp.models.factories import text_arithmetic
from mechinterp.result import Result
from mechinterp.runs import Run
from mechinterp.studies.base import Watch, silent, train
from mechinterp.studies.networks import stream_hooks, streams
from mechinterp.studies.sweeps import Told, sweep
from mechinterp.tasks.text_arithmetic import TextSum
from mechinterp.training.recipe import Recipe
from mechinterp.training.recipes import TEXT_ARITHMETIC

MEASURES = ("rmse", "r2", "probe", "probe first", "erased", "untrained rmse")
"""Its error in units of the sum, and R²; R² of a ridge probe of the sum at the last character, after the last
layer and after the first; that of a fresh probe once LEACE has been there; and the error before training."""


LEARNED_AT = 0.9
"""R² from which a network counts in a trend: less than the task's own mark, which would leave out the
small."""


@dataclass(frozen=True, kw_only=True)
class TextGrid:
    """Train networks of every number of layers and every width, and ask each where its sum can be read."""

    n_layers: tuple[int, ...] = (2, 4, 6)
    """Numbers of layers."""

    d_model: tuple[int, ...] = (128, 256, 512)
    """Widths; MLPs are four times as wide."""

    n_heads: int = 4
    """Heads of each layer."""

    seeds: int = 3
    """How many seeds, counted from ``seed``."""

    seed: int = 0
    """Seed of problems and initial weights."""

    max_operand: int = 999
    """The largest number."""

    steps: int = 1500
    """Steps of each training."""

    n_test: int = 4000
    """Held-out problems."""

    def recipe(self, d_model: int, seed: int) -> Recipe:
        """The fast one, at a lower rate beyond a width of 128."""
        fast = TEXT_ARITHMETIC["fast"]
        rate = fast.lr * min(1.0, (128 / d_model) ** 0.5)
        return replace(fast, steps=self.steps, seed=seed, checkpoints=0, lr=rate)

    def settings(self) -> dict[str, TextCell]:
        """The runs by name.

        Raises:
            ValueError: an empty grid, or sizes that cannot be.
        """
        if not self.n_layers or not self.d_model or self.seeds < 1 or self.steps < 1:
            raise ValueError(
                f"expected layers, widths, seeds and steps, at least one each, got {self.n_layers}, "
                f"{self.d_model}, {self.seeds} and {self.steps}; give some"
            )
        for side in (self.n_layers, self.d_model):
            if len(set(side)) < len(side):
                raise ValueError(f"expected sizes that differ, got {side}; name each once")
        cells = [
            TextCell(
                n_layers=layers, d_model=width, n_heads=self.n_heads, seed=seed, steps=self.steps,
                max_operand=self.max_operand, n_test=self.n_test, recipe=self.recipe(width, seed),
            )
            for layers, width, seed in itertools.product(
                self.n_layers, self.d_model, range(self.seed, self.seed + self.seeds)
            )
        ]  # fmt: skip
        for cell in cells[:: self.seeds]:
            cell.network()  # what cannot be is refused before work starts
        n, least = min(len(cell.task.dataset("test")) for cell in cells[: self.seeds]), 4 * max(self.d_model)
        if n < least:
            raise ValueError(
                f"expected at least {least} held-out problems, four for each dimension, got {n}; raise "
                "n_test or max_operand"
            )
        return {cell.name: cell for cell in cells}


@dataclass(frozen=True, kw_only=True)
class TextCell:
    """One network of the grid."""

    n_layers: int
    d_model: int
    n_heads: int
    seed: int
    steps: int
    max_operand: int
    n_test: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"layers-{self.n_layers}_width-{self.d_model}_seed-{self.seed}"

    @property
    def task(self) -> TextSum:
        """Its task."""
        return TextSum(max_operand=self.max_operand, n_test=self.n_test, seed=self.seed)

    def network(self) -> Any:
        """The untrained network."""
        return text_arithmetic(
            self.task, n_layers=self.n_layers, d_model=self.d_model, n_heads=self.n_heads,
            d_mlp=4 * self.d_model, seed=self.seed,
        )  # fmt: skip


def do(cell: TextCell, folder: Path, watch: Watch = silent) -> None:
    """Train one network and analyse it; what the folder holds already is read instead."""
    run, task, model = Run.create(folder, {"kind": "cell", **asdict(cell)}), cell.task, cell.network()
    job = train(model, task, cell.recipe, folder, watch, cell.name)
    found = measures(model.eval(), cell.network().eval(), task)
    run.finish({**found, "steps": job.step, "seconds": round(job.history.seconds, 1)})


@torch.no_grad()
def measures(model: Any, untrained: Any, task: TextSum) -> dict[str, float]:
    """A network's numbers, by ``MEASURES``, on held-out problems."""
    batch = task.dataset("test")
    outputs, before = (task.answers(one, batch) for one in (model, untrained))
    hooks = stream_hooks(model)
    cache = streams(model, batch, hooks)
    at_last, at_first = (cache[hook][:, -1].double() for hook in (hooks[-1], hooks[0]))
    total = batch.variables["sum"].double()
    half = len(total) // 2
    eraser = leace(at_last[:half], total[:half])

    def read(x: Tensor) -> float:
        return float(probe(x[:, None], total, shuffles=1, permutations=0).values.squeeze())

    values = (
        task.measures(outputs, batch)["rmse"],
        task.score(outputs, batch),
        read(at_last),
        read(at_first),
        decodability(eraser(at_last[half:]), total[half:]),
        task.measures(before, batch)["rmse"],
    )
    return dict(zip(MEASURES, values))


def grid(
    config: TextGrid,
    out: str | Path,
    *,
    workers: int = 1,
    cluster: str | None = None,
    told: Told = lambda name, done, of: None,
    watch: Watch = silent,
) -> Result:
    """Do all runs that are not finished, and set them side by side.

    Args:
        workers, cluster, told: as ``sweep`` has them.
        watch: to follow trainings with, where they are done one after another in this process.

    Returns:
        As ``scale``.

    Raises:
        ValueError: a grid that cannot be.
        KeyboardInterrupt: interrupted; the same call goes on.
    """
    alone = workers == 1 and cluster is None
    one = partial(do, watch=watch) if alone else do
    runs = sweep(one, config.settings(), out, workers=workers, cluster=cluster, told=told)
    return scale(config, {name: dict(zip(MEASURES, run.numbers(*MEASURES))) for name, run in runs.items()})


def scale(config: TextGrid, metrics: Mapping[str, Mapping[str, float]]) -> Result:
    """The measures of every network, and how they change with scale.

    Returns:
        Dims ``n_layers``, ``d_model``, ``seed``, ``measure``. Trivial is the error of the mean, in units of
        the sum; the control that of the untrained networks. ``extra``: ``slopes`` (scale: layers, width;
        seed), by how many factors of ten the error changes for each doubling, of networks that learned; NaN
        where these are of one size; ``untrained slopes`` likewise, of all; ``learned`` (n_layers, d_model,
        seed); ``low`` and ``high`` (scale), 95 % interval of the mean slope over seeds, NaN for one seed.
    """
    seeds = list(range(config.seed, config.seed + config.seeds))
    coords: dict[str, Sequence[Any]] = {
        "n_layers": list(config.n_layers), "d_model": list(config.d_model), "seed": seeds,
        "measure": list(MEASURES),
    }  # fmt: skip
    cells = config.settings()
    shape = tuple(len(side) for side in coords.values())
    values = np.array([[metrics[name][m] for m in MEASURES] for name in cells]).reshape(shape)
    array = xr.DataArray(values, dims=list(coords), coords=coords)
    every, n = np.arange(config.max_operand + 1), len(next(iter(cells.values())).task.dataset("test"))
    learned = array.sel(measure="r2", drop=True) >= LEARNED_AT
    slopes, before = (
        np.array([slope(errors.sel(seed=seed)) for seed in seeds]).T
        for errors in (
            array.sel(measure="rmse").where(learned),
            array.sel(measure="untrained rmse"),
        )
    )
    known = [side[np.isfinite(side)] for side in slopes]
    ends = np.array([seeds_interval(side) if len(side) > 1 else (np.nan, np.nan) for side in known]).T
    along = {"scale": ["layers", "width"], "seed": seeds}
    return Result(
        name="scale_trends",
        values=array,
        trivial=float(np.sqrt(2 * every.var())),
        control=array.sel(measure="untrained rmse", drop=True),
        control_kind="error of the untrained network",
        provenance={
            "split": "test", "n": n, "steps": config.steps, "n_heads": config.n_heads,
            "learned": bool(learned.any()),
            "networks that learned": f"{int(learned.sum())} of {learned.size}",
        },
        extra={
            "slopes": xr.DataArray(slopes, dims=list(along), coords=along),
            "untrained slopes": xr.DataArray(before, dims=list(along), coords=along),
            "learned": learned,
            **{
                name: xr.DataArray(end, dims="scale", coords={"scale": along["scale"]})
                for name, end in zip(("low", "high"), ends)
            },
        },
    )  # fmt: skip


def slope(errors: xr.DataArray) -> tuple[float, float]:
    """By how many factors of ten errors ``(n_layers, d_model)`` change for each doubling of either; errors
    that are NaN are left out."""
    sides = [np.log2(errors[name].values.astype(float)) for name in ("n_layers", "d_model")]
    logs = np.log10(errors.values.ravel())
    there, found = np.isfinite(logs), np.full(2, np.nan)
    across = np.stack([side.ravel() for side in np.meshgrid(*sides, indexing="ij")], 1)[there]
    if not len(across):
        return np.nan, np.nan
    centred, logs = across - across.mean(0), logs[there]
    known = [i for i in range(2) if np.ptp(across[:, i]) > 0]
    found[known] = np.linalg.lstsq(centred[:, known], logs - logs.mean(), rcond=None)[0]
    return float(found[0]), float(found[1])


def headline(result: Result) -> dict[str, float]:
    """The headline numbers of a grid: its least and largest error, and by how much it falls with scale."""
    errors = result.values.sel(measure="rmse")
    slopes = {
        f"log10_rmse_per_doubling_of_{name}": float(result.extra["slopes"].sel(scale=name).mean())
        for name in ("layers", "width")
    }
    known = {name: value for name, value in slopes.items() if np.isfinite(value)}
    return {"least_rmse": float(errors.min()), "largest_rmse": float(errors.max()), **known}
