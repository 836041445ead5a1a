"""Where does the answer of a network that adds mod p come from? Patch what it read of another pair."""

import sys

import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.metrics import logit_difference
from mechinterp.analysis.patching import activation_patching


def main(p: int = 31, n: int = 100) -> None:
    """Patch the stream, the heads and the MLP of pairs ``a b`` into runs of ``c b``, position by position."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task)
    pairs = task.everything[torch.randperm(p * p)[:n]]
    clean, corrupted = pairs.inputs, pairs.inputs.clone()
    corrupted[:, 0] = (clean[:, 0] + torch.randint(1, p, (n,))) % p
    metric = logit_difference(pairs.targets[:, 0], task.answer(*corrupted[:, :2].T))
    for activation in ("resid_pre", "z", "mlp_out"):
        found = activation_patching(model, clean, corrupted, metric, activation, gate=Gate.of(model, task))
        carries = found.extra["recovered"].where(found.extra["p_value"] <= 0.05)
        print(found)
        for cell, share in carries.to_series().dropna().items():
            print(f"  carries  {dict(zip(carries.dims, cell))}: {100 * share:.0f} % of the answer")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
