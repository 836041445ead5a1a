"""Does the head of a network that adds mod p act on the answer directly, or through the MLP?"""

import sys

import torch

from mechinterp import constructions, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.path_patching import path_patching


def main(p: int = 31, n: int = 100) -> None:
    """Patch the path from the head to the logits with the MLP answering, and with it frozen."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task)
    pairs = task.everything[torch.randperm(p * p)[:n]]
    clean, corrupted = pairs.inputs, pairs.inputs.roll(1, 0)
    right, wrong, rows = pairs.targets[:, 0], pairs.targets[:, 0].roll(1), torch.arange(n)

    def preference(outputs):  # of the clean answer over the corrupted one, by example
        return outputs[rows, 0, right] - outputs[rows, 0, wrong]

    for through_mlps in (True, False):
        found = path_patching(
            model, clean, corrupted, preference, through_mlps=through_mlps, gate=Gate.of(model, task)
        )
        print(found)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
