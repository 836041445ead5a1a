"""Where a network that adds mod p has its answer, who writes it, and how far off first-order patching is."""

import sys

import torch

from mechinterp import Recipe, constructions, fit, models, tasks
from mechinterp.analysis.attribution_patching import attribution_patching
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.lens import logit_lens
from mechinterp.analysis.logit_attribution import direct_logit_attribution
from mechinterp.training.recipes import FAST


def main(p: int = 113, recipe: Recipe = FAST, hand_built: bool = False) -> None:
    """Train (or build) the network, and print what 64 test pairs show."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task) if hand_built else models.modular_addition(task)
    if not hand_built:
        fit(model, task, recipe)
    gate, batch = Gate.of(model.eval(), task), task.dataset("test")[:64]
    clean, right, wrong = batch.inputs.roll(1, 0), batch.targets[:, 0], batch.targets[:, 0].roll(1)
    print(logit_lens(model, batch.inputs, batch.targets, gate=gate))
    print(direct_logit_attribution(model, batch.inputs, right, wrong, gate=gate))
    sides = torch.eye(p)[right] - torch.eye(p)[wrong]
    print(attribution_patching(model, clean, batch.inputs, lambda out: (out[:, 0] * sides).sum(1), gate=gate))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
