"""Grok modular addition, find the frequencies it uses, and ablate the neurons of one of them."""

import sys

import torch

from mechinterp import Recipe, Site, constructions, fit, models, run, run_with_cache, tasks
from mechinterp.analysis.clusters import clusters_by_frequency
from mechinterp.analysis.fourier import key_frequencies, pair_frequency_share, trigonometric_share
from mechinterp.hooks import mean
from mechinterp.training.recipes import FAST


def main(p: int = 113, recipe: Recipe = FAST, hand_built: bool = False) -> None:
    """Train (or build) the network, and say what each group of neurons does to the answers."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task) if hand_built else models.modular_addition(task)
    if not hand_built:
        job = fit(model, task, recipe)
        print(f"test accuracy {job.history.test_score[-1]:.4f} after {job.step} steps")
    pairs, hook = task.everything, "blocks.0.mlp.hook_post"
    with torch.no_grad():
        logits, cache = run_with_cache(model, pairs.inputs, names=hook)
        keys = key_frequencies(trigonometric_share(logits[:, -1].view(p, p, p)))
        shares = pair_frequency_share(cache[hook][:, -1].view(p, p, -1))
        print(f"key frequencies {keys.tolist()}")
        for k, neurons in zip(keys.tolist(), clusters_by_frequency(shares, keys)):
            ablated = run(model, pairs.inputs, edits=[mean(Site.at(hook, neuron=neurons), cache)])
            print(f"without the {len(neurons)} neurons of {k}: {task.score(ablated[:, -1:], pairs):.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
