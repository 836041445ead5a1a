"""Digit addition: how well, how fast, and what the ablation of all heads costs."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measure import show
from mechinterp import models
from mechinterp.analysis.components import component_ablation
from mechinterp.analysis.references import REFERENCES, references
from mechinterp.analysis.sets import components_of
from mechinterp.hooks import HookPoint
from mechinterp.studies.digit_addition import ENOUGH
from mechinterp.studies.digit_addition.networks import exact
from mechinterp.tasks import DigitAddition
from mechinterp.training import fit
from mechinterp.training.recipes import DIGIT_ADDITION

SETTINGS = {
    "3 digits, reversed": {"n_digits": 3},
    "3 digits, plain": {"n_digits": 3, "reverse": False},
    "5 digits, reversed": {"n_digits": 5},
}


def main(seeds: int = 3) -> None:
    found: dict[str, Any] = {name: trained(fields, seeds) for name, fields in SETTINGS.items()}
    show("digit_addition", {**found, **ablations()})


def trained(fields: dict[str, Any], seeds: int) -> dict[str, Any]:
    """Exact match, written greedily, on held-out problems and on the longest cascades; seconds; by seed."""
    found: dict[str, list[float]] = {"exact_match": [], "longest_cascades": [], "seconds": []}
    for seed in range(seeds):
        task = DigitAddition(**fields, seed=seed)
        model = models.digit_addition(task, seed=seed)
        recipe = DIGIT_ADDITION["fast" if task.reverse and task.n_digits <= ENOUGH else "long"]
        job = fit(model, task, replace(recipe, seed=seed, checkpoints=0))
        batches = (task.dataset("test"), task.with_cascade(task.n_digits))
        for name, batch in zip(("exact_match", "longest_cascades"), batches):
            found[name].append(round(exact(model.eval(), task, batch).double().mean().item(), 5))
        found["seconds"].append(round(job.history.seconds, 1))
    return found


@torch.no_grad()
def ablations(n: int = 2000) -> dict[str, float]:
    """Seconds of 24 heads under three references: forced, with its control, and written greedily."""
    task = DigitAddition()
    model = models.digit_addition(task).eval()
    batch, others = task.dataset("test")[slice(0, n)], task.dataset("val")
    began = time.perf_counter()
    component_ablation(model, batch.inputs, batch.targets, held_out=others.inputs, read=batch.read)
    forced = time.perf_counter() - began
    chosen = components_of(model)
    names = sorted({one.hook for one in chosen})
    began = time.perf_counter()
    for kind in REFERENCES:
        becomes = references(model, names, kind, batch.inputs, others.inputs)
        for one in chosen:

            def hold(
                x: torch.Tensor, hook: HookPoint, one: Any = one, becomes: Any = becomes
            ) -> torch.Tensor:
                x = x.clone()
                x[:, :, one.head] = becomes[one.hook][:, : x.shape[1], one.head]
                return x

            with model.hooks(fwd_hooks=[(one.hook, hold)]):
                prompt = batch.inputs[:, : task.n_source + 1]
                models.generate(model, prompt, task.n_target, end=task.end)
    return {"forced_with_control_s": forced, "written_s": time.perf_counter() - began, "heads": len(chosen)}


if __name__ == "__main__":
    main(1 if "--quick" in sys.argv else 3)
