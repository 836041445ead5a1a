"""Trials on the hand-built network that adds mod p: which neurons carry which frequency is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from reading_trials import probed
from trial import Trial

from mechinterp import constructions
from mechinterp.analysis.clusters import clusters_by_frequency
from mechinterp.analysis.fourier import key_frequencies, pair_frequency_share, trigonometric_share
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.probes import Fourier
from mechinterp.hooks import run_with_cache
from mechinterp.models import HookedTransformer
from mechinterp.tasks import ModularAddition

PRIMES, DIRECTIONS = (11, 13, 17, 19, 23), 7
POST, STREAM = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"


def addition(seed: int, noise: float) -> tuple[ModularAddition, list[int], HookedTransformer]:
    """A network of one to three random frequencies, its weights blurred; p goes round with the seed.

    Args:
        noise: standard deviation of what is added to each weight, in that of its matrix.
    """
    task = ModularAddition(p=PRIMES[seed % len(PRIMES)])
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm((task.p - 1) // 2, generator=generator)[: 1 + seed % 3] + 1
    model = constructions.modular_addition(task, chosen.tolist(), DIRECTIONS, scale=1.0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > 1 and bool(weight.any()):
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    return task, chosen.tolist(), model


def untrained(seed: int) -> tuple[ModularAddition, HookedTransformer]:
    """A random network of the hand-built one's shape, with five frequencies' worth of neurons."""
    task = ModularAddition(p=PRIMES[seed % len(PRIMES)])
    shape = constructions.modular_addition(task, directions=DIRECTIONS).cfg
    return task, HookedTransformer(replace(shape, seed=seed))


def all_pairs(task: ModularAddition) -> torch.Tensor:
    """Every pair, in the order of a and then b."""
    a = torch.arange(task.p)
    return torch.stack((a.repeat_interleave(task.p), a.repeat(task.p), torch.full((task.p**2,), task.p)), 1)


def is_among(frequencies: object, p: int) -> np.ndarray:
    """Which of 1 .. (p - 1) / 2 are among some."""
    return np.isin(np.arange(1, p // 2 + 1), np.asarray(frequencies))


@torch.no_grad()
def logit_frequencies(seed: int, noise: float = 0.3) -> Trial:
    """The frequencies that ``key_frequencies`` names in the logits."""
    task, chosen, model = addition(seed, noise)
    logits = model(all_pairs(task))[:, -1].view(task.p, task.p, task.p)
    found = is_among(key_frequencies(trigonometric_share(logits)), task.p)
    return Trial(found, found, is_among(chosen, task.p))


@torch.no_grad()
def untrained_logits(seed: int) -> Trial:
    """The same of a random network, which has no key frequencies."""
    task, model = untrained(seed)
    logits = model(all_pairs(task))[:, -1].view(task.p, task.p, task.p)
    found = is_among(key_frequencies(trigonometric_share(logits)), task.p)
    return Trial(found, found, np.zeros_like(found))


@torch.no_grad()
def neuron_frequencies(seed: int, noise: float = 0.1) -> Trial:
    """Which neurons ``clusters_by_frequency`` gives to which frequency."""
    task, chosen, model = addition(seed, noise)
    found = neurons_by_frequency(task, model)
    planted = np.zeros_like(found)
    for place, frequency in enumerate(chosen):
        planted[frequency - 1, place * DIRECTIONS : (place + 1) * DIRECTIONS] = True
    return Trial(found.ravel(), found.ravel(), planted.ravel())


@torch.no_grad()
def untrained_neurons(seed: int) -> Trial:
    """The same of a random network, in which no neuron follows a frequency."""
    found = neurons_by_frequency(*untrained(seed)).any(0)
    return Trial(found, found, np.zeros_like(found))


def neurons_by_frequency(task: ModularAddition, model: HookedTransformer) -> np.ndarray:
    """True where a neuron is in a frequency's cluster, ``[frequency, neuron]``."""
    _, cache = run_with_cache(model, all_pairs(task), names=POST)
    shares = pair_frequency_share(cache[POST][:, -1].view(task.p, task.p, -1))
    found = np.zeros(shares.shape, dtype=bool)
    for row, neurons in enumerate(clusters_by_frequency(shares, torch.arange(1, task.p // 2 + 1))):
        found[row, neurons] = True
    return found


def stream_frequencies(seed: int, noise: float = 0.1, n: int = 150) -> Trial:
    """The frequencies of the answer that a Fourier probe finds in the stream, of some of all pairs."""
    task, chosen, model = addition(seed, noise)
    pairs = all_pairs(task)
    some = pairs[torch.randint(len(pairs), (n,), generator=torch.Generator().manual_seed(seed))]
    _, cache = run_with_cache(model, some, names=STREAM)
    sums = some[:, :2].sum(1) % task.p
    return probed(cache[STREAM][:, -1], sums, Fourier(p=task.p), seed, is_among(chosen, task.p))


def groups_patched(seed: int, n: int = 16) -> Trial:
    """Groups of neurons, each of one frequency, patched in turn: all of them carry the answer."""
    task, chosen, model = addition(seed, 0.0)
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(task.p, (2, n), generator=generator)
    shift = torch.randint(1, task.p, (n,), generator=generator)
    clean = torch.stack((a, b, torch.full_like(a, task.p)), 1)
    corrupted = clean.clone()
    corrupted[:, 0] = (a + shift) % task.p
    right, wrong, rows = (a + b) % task.p, (a + b + shift) % task.p, torch.arange(n)
    groups = {k: range(i * DIRECTIONS, (i + 1) * DIRECTIONS) for i, k in enumerate(chosen)}
    found = activation_patching(
        model, clean, corrupted, lambda out: out[rows, -1, right] - out[rows, -1, wrong], "post",
        by=("layer", "group"), groups=groups,
    )  # fmt: skip
    p = found.extra["p_value"]
    return Trial.of(p, p, np.ones(p.shape, bool))
