"""Trials of what is read off activations and patterns: matches, probes, erasure, similarity, spectra."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import numpy as np
import torch
from planted_networks import WORDS, first_two, random_network, tokens
from torch import Tensor
from trial import Trial, before_correction

from mechinterp.analysis import similarity as similarity_module
from mechinterp.analysis.attention_match import match_score
from mechinterp.analysis.attention_scores import attention_scores, repeated_tokens
from mechinterp.analysis.erasure import erasure_effect, place
from mechinterp.analysis.geometry import spectrum
from mechinterp.analysis.probes import Fourier, probe, probing
from mechinterp.analysis.similarity import similarity
from mechinterp.hooks import Site, run_with_cache
from mechinterp.models import HookedTransformer, TransformerConfig

STREAMS = ("*hook_resid_pre", "*hook_resid_post")
CLASSES, OTHERS = 3, 6
"""A token is a class and something else, which share nothing."""


def normal(*shape: int, seed: int) -> Tensor:
    """Independent normal entries."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Attention matches.
def match_random(seed: int, of_token: bool = False) -> Trial:
    """A variable in random order; eight heads. ``of_token``: no null, a function of the token."""
    model = random_network(seed, n_heads=4, d_head=4)
    inputs = tokens(seed, length=6)
    variable = inputs % 3 if of_token else tokens(seed + 10**6, length=6, high=3)
    found = match_score(model, inputs, variable, draws=199, seed=seed)
    return Trial.of(found.extra["p_adjusted"], found.extra["p"])


def match_planted(seed: int, sharpness: float = 1.0) -> Trial:
    """One of eight heads looks for keys of its class, ``sharpness`` nats higher; none else sees classes."""
    width = CLASSES + 8
    cfg = TransformerConfig(
        d_model=width, d_head=4, n_heads=4, n_layers=2, n_ctx=8, d_vocab=CLASSES * OTHERS, seed=seed,
        attn_only=True, use_attn_scale=False,
    )  # fmt: skip
    model = HookedTransformer(cfg).eval()
    layer, head = divmod(int(torch.randint(8, (1,), generator=torch.Generator().manual_seed(seed))), 4)
    inputs = tokens(seed, n=16, length=8, high=CLASSES * OTHERS)
    with torch.no_grad():
        model.embed.W_E[:, :CLASSES] = torch.eye(CLASSES).repeat(OTHERS, 1)
        model.embed.W_E[:, CLASSES:] = normal(OTHERS, 8, seed=seed).repeat_interleave(CLASSES, 0)
        model.pos_embed.W_pos[:, :CLASSES] = 0.0
        for block in model.blocks:
            block.attn.W_O[..., :CLASSES] = 0.0
            for weight in (block.attn.W_Q, block.attn.W_K, block.attn.W_V):
                weight[:, :CLASSES] = 0.0
        attn = model.blocks[layer].attn
        for weight, size in ((attn.W_Q, sharpness), (attn.W_K, 1.0)):
            weight[head] = 0.0
            weight[head, :CLASSES, :CLASSES] = size * torch.eye(CLASSES)
        attn.W_O[head] = 0.0  # what it brings would tell the next layer of classes
    found = match_score(model, inputs, inputs % CLASSES, draws=199, seed=seed)
    planted = np.zeros((2, 4), dtype=bool)
    planted[layer, head] = True
    return Trial.of(found.extra["p_adjusted"], found.extra["p"], planted)


def scores_random(seed: int) -> Trial:
    """Whether the interval of each score of each head of a random network leaves out even attention's."""
    found = attention_scores(random_network(seed), repeated_tokens(16, 3, WORDS, seed=seed), seed=seed)
    low, high, even = (found.extra[name] for name in ("low", "high", "even"))
    there = (low.notnull() & (even > 0)).to_numpy()
    return Trial.of(((low <= even) & (even <= high)).to_numpy().astype(float)[there])


def scores_planted(seed: int, sharpness: float = 2.0) -> Trial:
    """One of eight heads looks one back, ``sharpness`` nats higher: whether it is the one that is named."""
    cfg = TransformerConfig(
        d_model=16, d_head=8, n_heads=4, n_layers=2, n_ctx=8, d_vocab=WORDS, seed=seed, use_attn_scale=False,
        d_mlp=8,
    )  # fmt: skip
    model = HookedTransformer(cfg).eval()
    layer, head = divmod(int(torch.randint(8, (1,), generator=torch.Generator().manual_seed(seed))), 4)
    attn = model.blocks[layer].attn
    with torch.no_grad():
        model.embed.W_E[:, :8] = model.pos_embed.W_pos[:, 8:] = 0.0
        model.pos_embed.W_pos[:, :8] = torch.eye(8)
        for block in model.blocks:
            block.attn.W_O[..., :8] = 0.0
            block.mlp.W_out[:, :8] = 0.0
        attn.W_Q[head] = attn.W_K[head] = 0.0
        attn.W_Q[head, :8] = sharpness * torch.eye(8)
        attn.W_K[head, :7, 1:] = torch.eye(7)
    found = attention_scores(model, repeated_tokens(16, 4, WORDS, seed=seed), seed=seed)
    named = found.provenance["highest above even"] == f"previous L{layer}H{head}"
    return Trial.of([0.0 if named else 1.0], planted=[True])


# Probes.
def probed(
    activations: Any, variable: Tensor, kind: Any, seed: int, planted: Any = (), **options: Any
) -> Trial:
    """The p-values of a probe, without the interval, which takes most of the time and no part in them."""
    with mock.patch.object(probing, "bootstrap", return_value=(0.0, 0.0)):
        found = probe(activations, variable, kind, seed=seed, shuffles=0, permutations=199, **options)
    return Trial.of(found.extra["p_adjusted"], found.extra["p_value"], planted)


def probe_random(seed: int, n: int = 48, **options: Any) -> Trial:
    """Numbers that have nothing to do with the inputs, at four hooks and three positions."""
    _, cache = run_with_cache(random_network(seed), tokens(seed, n, length=3), names=STREAMS)
    return probed(cache, normal(n, seed=seed + 1), "ridge", seed, **options)


def probe_planted(seed: int, strength: float = 1.0, n: int = 80) -> Trial:
    """A number along one direction at one of two hooks and two of three positions, among correlated noise."""
    z, mixing = normal(n, seed=seed), normal(2, 8, 8, seed=seed + 1) / math.sqrt(8)
    x = torch.einsum("hnpd,hde->hnpe", normal(2, n, 3, 8, seed=seed + 2), mixing)
    hook = seed % 2
    x[hook, :, 1:] += strength * z[:, None, None] * normal(8, seed=seed + 3) / math.sqrt(8)
    planted = np.zeros((2, 3), dtype=bool)
    planted[hook, 1:] = True
    return probed(dict(zip(("one", "other"), x)), z, "ridge", seed, planted)


def fourier_random(seed: int, p: int = 11, n: int = 88) -> Trial:
    """Activations that have nothing to do with the residues."""
    return probed(normal(n, 8, seed=seed), tokens(seed, n, 1, high=p)[:, 0], Fourier(p=p), seed)


def fourier_new_residues(seed: int, p: int = 11, copies: int = 10, together: bool = True) -> Trial:
    """A random vector for each residue, with a little noise; whole residues are held out.

    ``together``: the probe is told that copies of a residue belong together; no null without.
    """
    residue = torch.arange(p * copies) % p
    x = normal(p, 6, seed=seed)[residue] + 0.1 * normal(len(residue), 6, seed=seed + 1)
    held_out = torch.isin(residue, torch.randperm(p, generator=torch.Generator().manual_seed(seed))[:5])
    return probed(x, residue, Fourier(p=p), seed, test=held_out, together=residue if together else None)


def fourier_planted(seed: int, strength: float = 1.0, p: int = 13, n: int = 130) -> Trial:
    """Circles of one to three frequencies in random planes, among noise."""
    generator = torch.Generator().manual_seed(seed)
    residue = torch.randint(p, (n,), generator=generator)
    chosen = torch.randperm(p // 2, generator=generator)[: 1 + seed % 3] + 1
    turns = 2 * torch.pi / p * chosen * residue[:, None]
    waves = torch.cat((turns.cos(), turns.sin()), 1)
    planes = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q[: waves.shape[1]]
    x = strength * waves @ planes + normal(n, 12, seed=seed + 1)
    planted = np.isin(np.arange(1, p // 2 + 1), chosen.numpy())
    return probed(x, residue, Fourier(p=p), seed, planted)


# Erasure.
def erased(*arguments: Any, seed: int, planted: Any = ()) -> Trial:
    """The p-value of an erasure. Fresh readers take most of its time and no part in it."""
    with mock.patch.object(place, "decodability", return_value=0.0):
        found = erasure_effect(*arguments, draws=19, seed=seed)
    return Trial.of(found.provenance["p"], planted=planted)


LAST, EVERY = Site.at("blocks.0.hook_resid_post", position=-1), Site.at("blocks.0.hook_resid_post")


def erase_random(seed: int, n: int = 48, site: Site = LAST) -> Trial:
    """A number that has nothing to do with the inputs; of three positions the first two say the same."""
    inputs = tokens(seed, n, length=3)
    inputs[:, 1] = inputs[:, 0]
    z = normal(n, seed=seed + 1)
    metric = first_two if site is LAST else lambda outputs: (outputs[..., 1] - outputs[..., 2]).mean(1)
    model = random_network(seed, n_layers=1)
    return erased(model, inputs, site, z, metric, seed=seed)


def erase_planted(seed: int, strength: float = 1.0, read: bool = True, n: int = 64, width: int = 8) -> Trial:
    """A concept of two values along one direction, which the readout reads or not, among correlated noise."""
    generator = torch.Generator().manual_seed(seed)
    direction, readout = torch.linalg.qr(torch.randn(width, 2, generator=generator)).Q.mT
    cfg = TransformerConfig(
        d_model=width, d_head=width, n_layers=1, n_ctx=1, d_input=width, d_vocab_out=1, readout="values",
        attn_only=True, positional_embedding_type="none",
    )  # fmt: skip
    model = HookedTransformer(cfg).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E.copy_(torch.eye(width))
        model.unembed.W_U.copy_((readout + direction if read else readout)[:, None])
    z = torch.randint(2, (n,), generator=generator)
    mixing = torch.randn(width, width, generator=generator) / math.sqrt(width)
    noise = torch.randn(n, width, generator=generator) @ mixing
    inputs = noise + strength * (2 * z[:, None] - 1) * direction
    return erased(
        model, inputs[:, None], LAST, z, lambda out: (2 * z - 1) * out[:, -1, 0], seed=seed, planted=[read]
    )


# Similarity and spectra.
def similar(first: Any, second: Any, measure: str, seed: int, planted: Any = ()) -> Trial:
    """The p-values of likeness of every pair, without the intervals."""
    no_interval = mock.Mock(return_value=(0.0, 0.0))
    names = dict.fromkeys(("bootstrap_interval", "jackknife_interval"), no_interval)
    with before_correction(similarity_module) as seen, mock.patch.multiple(similarity_module, **names):
        found = similarity(first, second, measure=measure, draws=99, seed=seed)
    return Trial.of(found.extra["p"], seen[0], planted)


def similar_random(seed: int, measure: str = "cka", n: int = 24) -> Trial:
    """Two random networks that see different inputs: two layers of each, examples paired at random."""
    names = ["*hook_resid_post"]
    caches = [
        run_with_cache(random_network(2 * seed + i), tokens(2 * seed + i, n), names=names)[1] for i in (0, 1)
    ]
    return similar(*caches, measure, seed)


def similar_planted(
    seed: int, measure: str = "cka", strength: float = 1.0, n: int = 40, layers: int = 2
) -> Trial:
    """One of ``layers`` clouds of each network is the other's, turned, among noise."""
    first, second = normal(2, layers, n, 6, seed=seed)
    i, j = seed % layers, seed // layers % layers
    second[j] += strength * first[i] @ torch.linalg.qr(normal(6, 6, seed=seed + 1)).Q
    planted = np.zeros((layers, layers), dtype=bool)
    planted[i, j] = True
    return similar(*(dict(zip("abcd", each)) for each in (first, second)), measure, seed, planted)


def spectrum_trial(seed: int, strength: float = 0.0, n: int = 40, d: int = 8) -> Trial:
    """Normal entries, and one direction in which the vectors differ by ``strength`` standard deviations more.

    Flagged are singular values outside the control's middle 95 %.
    """
    x = normal(n, d, seed=seed)
    x += (
        strength
        * normal(n, 1, seed=seed + 1)
        * torch.nn.functional.normalize(normal(d, seed=seed + 2), dim=0)
    )
    found = spectrum(x, seed=seed)
    low, high = found.extra["null"].to_numpy()
    above, outside = found.values.to_numpy() > high, found.values.to_numpy() < low
    flagged = above if strength else above | outside
    return Trial(flagged, flagged, np.arange(d) == 0 if strength else np.zeros(d, bool))
