"""Which waves of the answer a network that adds mod p carries, and where; the raw input as a control."""

import sys

import torch

from mechinterp import constructions, models, run_with_cache, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.probes import Fourier, online_code, probe

HOOKS = ["blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"]


def main(p: int = 31) -> None:
    """Probe a hand-built network at "=", beside an untrained one of the usual make."""
    task = tasks.ModularAddition(p=p)
    model, pairs = constructions.modular_addition(task), task.everything
    with torch.no_grad():
        _, cache = run_with_cache(model, pairs.inputs, names=HOOKS)
        _, untrained = run_with_cache(models.modular_addition(task), pairs.inputs, names=HOOKS)
    answer, settings = pairs.variables["c"], {"positions": [-1], "gate": Gate.of(model, task)}
    beside = {"untrained": untrained, "inputs": pairs.inputs, "types": answer}
    waves = probe(cache, answer, Fourier(p=p), **beside, **settings)
    best = waves.values.max(["hook", "position"])
    print(waves, f"frequencies read: {best.frequency.values[best > 0.5].tolist()}", sep="\n")
    print(online_code(cache, (answer < p // 2).long(), **settings))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
