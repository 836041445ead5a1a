"""In-context linear regression against theory: how near, how fast, and a step against its products."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measure import alternate, show
from mechinterp import models
from mechinterp.analysis.in_context import method_agreement
from mechinterp.studies.linear_regression.losses import over_optimum
from mechinterp.studies.linear_regression.theory import SETTINGS
from mechinterp.tasks import LinearRegression
from mechinterp.training import fit
from mechinterp.training.recipes import DEEP_REGRESSION, ONE_LAYER
from mechinterp.training.step import Stepper

QUERIES = 8


def main(seeds: int = 3) -> None:
    found = {name: one_layer(fields, seeds) for name, fields in SETTINGS.items()}
    if "--deep" in sys.argv:
        for d in (5, 10, 20):
            found[f"deep, d={d}"] = deep(d, seeds if d == 5 else 1)
    show("linear_regression", {**found, **step()})


def one_layer(fields: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Trained loss over the optimum of a layer, agreement with its step, and seconds, by seed."""
    found: dict[str, list[float]] = {"loss_over_optimum": [], "model_cos": [], "seconds": []}
    for seed in range(seeds):
        task = LinearRegression(**fields, n_queries=QUERIES, seed=seed)
        model = models.linear_regression(task, seed=seed)
        job = fit(model, task, replace(ONE_LAYER, seed=seed, checkpoints=0))
        batch = replace(task, n_queries=1).dataset("test")
        agreed = method_agreement(model.eval(), batch, {"gd": batch.variables["w_gd"]})
        found["loss_over_optimum"].append(round(over_optimum(model, task)[0], 5))
        found["model_cos"].append(round(float(agreed.values.sel(predictor="gd", measure="model cos")), 5))
        found["seconds"].append(round(job.history.seconds, 2))
    return {"theory_loss": round(LinearRegression(**fields).one_layer_loss, 4), **found}


def deep(d: int, seeds: int) -> dict[str, Any]:
    """Six layers with noise .5: error over that of Bayes' optimum, and seconds, by seed."""
    found: dict[str, list[float]] = {"over_bayes": [], "seconds": []}
    for seed in range(seeds):
        task = LinearRegression(d=d, n_context=5, max_context=50, noise=0.5, n_queries=16, seed=seed)
        model = models.deep_linear_regression(task, seed=seed)
        job = fit(model, task, replace(DEEP_REGRESSION, seed=seed, checkpoints=0))
        batch = replace(task, n_test=16_384).dataset("test")
        with torch.no_grad():
            measured = task.measures(task.outputs(model.eval(), batch), batch)
        found["over_bayes"].append(round(measured["mse"] / measured["mse_ridge"], 4))
        found["seconds"].append(round(job.history.seconds, 1))
    return found


def step(rounds: int = 40) -> dict[str, float]:
    """A step of one and of three layers of linear attention over its matrix products alone, in turns.

    With the prompts given, and with drawing them: prompts are new at every step, and normal numbers take
    time of their own.
    """
    found = {}
    for layers in (1, 3):
        task = LinearRegression(d=20, n_context=40, n_queries=QUERIES)
        drawing, given = (
            Stepper(models.linear_regression(task, n_layers=layers).train(), task, ONE_LAYER)
            for _ in range(2)
        )
        batch = given.next_batch()
        given.next_batch = lambda batch=batch: batch  # type: ignore[method-assign]
        alone = products(layers, ONE_LAYER.batch_size, task)
        runs = {"step": given.step, "step_and_drawing": drawing.step, "products": alone}
        seconds = {name: one["median"] for name, one in alternate(runs, rounds, warmup=5).items()}
        found |= {f"{name}_ms_{layers}": 1e3 * one for name, one in seconds.items()}
        for name in ("step", "step_and_drawing"):
            found[f"{name}_over_products_{layers}"] = seconds[name] / seconds["products"]
    return found


def products(layers: int, n: int, task: LinearRegression) -> Any:
    """The products of a step, forward and back, on tensors of their shapes, with nothing else."""
    keys, d, asked = task.n_ctx, task.d_input, task.n_queries
    made = []
    for layer in range(layers):
        asking = asked if layer == layers - 1 else keys
        flat = [(n * asking, d, d), (n * keys, d, d), (n * keys, d, d), (n * asking, d, d)]
        batched = [(asking, d, keys), (asking, keys, d)]
        made += [(torch.randn(a, b), torch.randn(b, c), torch.randn(a, c)) for a, b, c in flat]
        made += [(torch.randn(n, a, b), torch.randn(n, b, c), torch.randn(n, a, c)) for a, b, c in batched]
    ends = [(n * keys, d, d), (n * asked, d, 1)]
    made += [(torch.randn(a, b), torch.randn(b, c), torch.randn(a, c)) for a, b, c in ends]

    def run() -> None:
        for x, weight, _ in made:
            x @ weight
        for x, weight, grad in reversed(made):
            grad @ weight.mT
            x.mT @ grad

    return run


if __name__ == "__main__":
    main()
