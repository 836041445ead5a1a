"""Does the head of a network that adds mod p act on the answer directly, or through the MLP?"""

import sys

import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.metrics import logit_difference
from mechinterp.analysis.path_patching import path_patching


def main(p: int = 31, n: int = 100) -> None:
    """Patch the path from the head to the logits with the MLP answering, and with it frozen."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task)
    pairs = task.everything[torch.randperm(p * p)[:n]]
    clean, corrupted = pairs.inputs, pairs.inputs.roll(1, 0)
    preference = logit_difference(pairs.targets, pairs.targets.roll(1, 0))
    for through_mlps in (True, False):
        found = path_patching(
            model, clean, corrupted, preference, through_mlps=through_mlps, gate=Gate.of(model, task)
        )
        print(found)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
