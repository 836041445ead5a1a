"""Arithmetic as text: how well sums and residues are answered, how fast, and what the probes find."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.measure import show
from mechinterp.analysis.erasure import decodability, leace
from mechinterp.hooks import run_with_cache
from mechinterp.studies.text_arithmetic import KINDS
from mechinterp.studies.text_arithmetic.networks import RESIDUE, SUM
from mechinterp.tasks import TextModular
from mechinterp.training import fit


def main(seeds: int = 3) -> None:
    show("text_arithmetic", {"sums": sums(seeds), "residues mod 97": residues(seeds)})


def trained(name: str, seed: int) -> tuple[Any, Any, float]:
    """The task, the network and the seconds of one kind of the study's networks."""
    kind = KINDS[name]
    task = kind.posed(TextModular(seed=seed))
    model = kind.network(task)
    job = fit(model, task, replace(kind.recipe, seed=seed, checkpoints=0))
    return task, model.eval(), round(job.history.seconds, 1)


@torch.no_grad()
def sums(seeds: int) -> dict[str, list[float]]:
    """By seed, on held-out problems: R² and error of the answers, a ridge probe, and one after LEACE."""
    found: dict[str, list[float]] = {name: [] for name in ("r2", "rmse", "probe", "after_leace", "seconds")}
    for seed in range(seeds):
        task, model, seconds = trained(SUM, seed)
        batch = task.dataset("test")
        outputs, total = task.answers(model, batch), batch.variables["sum"].double()
        hook = f"blocks.{len(model.blocks) - 1}.hook_resid_post"
        _, cache = run_with_cache(model, batch.inputs, names=[hook], attention_mask=batch.mask)
        stream, half = cache[hook][:, -1].double(), len(total) // 2
        eraser = leace(stream[:half], total[:half])
        row = {
            "r2": task.score(outputs, batch),
            "rmse": task.measures(outputs, batch)["rmse"],
            "probe": decodability(stream, total),
            "after_leace": decodability(eraser(stream[half:]), total[half:]),
            "seconds": seconds,
        }
        for name, value in row.items():
            found[name].append(round(value, 6))
    return found


def residues(seeds: int) -> dict[str, list[float]]:
    """By seed: the share of residues of held-out problems that are right, and seconds of training."""
    found: dict[str, list[float]] = {"accuracy": [], "seconds": []}
    for seed in range(seeds):
        task, model, seconds = trained(RESIDUE, seed)
        batch = task.dataset("test")
        found["accuracy"].append(round(task.score(task.answers(model, batch), batch), 6))
        found["seconds"].append(seconds)
    return found


if __name__ == "__main__":
    main(1 if "--quick" in sys.argv else 3)
