"""Erase the sum from a network that adds mod p, before and after its neurons, and see what it costs."""

import sys

import torch

from mechinterp import Site, constructions, tasks
from mechinterp.analysis.erasure import erasure_effect
from mechinterp.analysis.gates import Gate


def main(p: int = 29, draws: int = 20) -> None:
    """Margin of the right answer, and what a fresh reader finds of the sum, with and without it."""
    task = tasks.ModularAddition(p=p)
    model, pairs = constructions.modular_addition(task), task.everything
    right = torch.nn.functional.one_hot(pairs.targets[:, 0], p).bool()
    circle = torch.stack([pairs.variables["cos_c"][:, 0], pairs.variables["sin_c"][:, 0]], 1)

    def margin(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, -1][right] - outputs[:, -1].masked_fill(right, -torch.inf).amax(1)

    for stream in ("resid_mid", "resid_post"):
        site = Site.at(f"blocks.0.hook_{stream}", position=-1)
        print(
            erasure_effect(model, pairs.inputs, site, circle, margin, draws=draws, gate=Gate.of(model, task))
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
