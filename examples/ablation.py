"""What a network that adds mod p loses without its head, its MLP, or a quarter of its neurons."""

import sys

import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.metrics import margin
from mechinterp.analysis.pruning import prune
from mechinterp.analysis.redundancy import pairwise_ablation
from mechinterp.analysis.sets import components_of


def main(p: int = 31, n: int = 200) -> None:
    """Ablate one thing, two things, and all of them in order, in the hand-built network."""
    task = tasks.ModularAddition(p=p)
    model, rows = constructions.modular_addition(task), torch.randperm(p * p)
    some, others = task.everything[rows[:n]], task.everything[rows[n : 2 * n]]
    metric, given = margin(some.targets), {"held_out": others.inputs, "gate": Gate.of(model, task)}
    quarters = {f"quarter {i}": part for i, part in enumerate(torch.arange(model.cfg.d_mlp).chunk(4))}
    print(ablation(model, some.inputs, metric, "heads", **given))
    print(ablation(model, some.inputs, metric, "neurons", groups=quarters, **given))
    print(pairwise_ablation(model, some.inputs, metric, components_of(model, mlps=True), **given))
    print(prune(model, some.inputs, metric, **given))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
