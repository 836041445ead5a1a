"""Trials of patching, paths, ablation and pairs: effects on a metric, tested by sign flips over examples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from planted_networks import (
    WORDS,
    concepts,
    first_two,
    preferring,
    random_answers,
    random_network,
    relay,
    tokens,
    unread_head,
)
from trial import Trial, before_correction

from mechinterp.analysis import attribution_patching as first_order
from mechinterp.analysis import effects, logit_attribution, redundancy
from mechinterp.analysis.ablation import ablation, erase_directions
from mechinterp.analysis.components import component_ablation, component_patching, mean_loss
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.path_patching import path_patching
from mechinterp.analysis.redundancy import pairwise_ablation
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.result import PrecisionWarning

RECEIVERS = [(1, 0, part) for part in "qkv"]


def swept(analysis: Any, *arguments: Any, planted: Any = (), **options: Any) -> Trial:
    """The trial of an analysis whose result is ``effects_result``'s."""
    with before_correction(effects) as seen:
        found = analysis(*arguments, **options)
    return Trial.of(found.extra["p_value"], seen[-1], planted)


# Nulls. A patch does nothing; or all that it does, another example's activation does too.
def patch_random_answers(seed: int) -> Trial:
    """Neither the patch nor its control favours an answer that was drawn at random."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(activation_patching, random_network(seed), *pair, random_answers(seed))


def headline(seed: int) -> Trial:
    """Whether the interval of the strongest effect leaves out 0, under the same null."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    low, high = activation_patching(random_network(seed), *pair, random_answers(seed)).interval
    return Trial.of([0.0 if low > 0 or high < 0 else 1.0])


def patch_without_control(seed: int) -> Trial:
    """The same with the first of both hypotheses alone."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(activation_patching, random_network(seed), *pair, random_answers(seed), control=False)


def strangers(seed: int) -> tuple[Any, Any]:
    """Donors of other words than the recipients': every donor has an effect, and none a special one."""
    return tokens(2 * seed, high=4), tokens(2 * seed + 1, low=3)


def patch_strangers(seed: int) -> Trial:
    """The patch does something, but any donor does as much."""
    return swept(activation_patching, random_network(seed), *strangers(seed), first_two)


def patch_random_pairs(seed: int) -> Trial:
    """Clean and corrupted inputs that have nothing to do with each other, and a metric that means nothing."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(activation_patching, random_network(seed), *pair, first_two)


def patch_siblings(seed: int) -> Trial:
    """The patch does as much good as harm, since the donor is as good as the recipient; a stranger harms."""
    model, clean = random_network(seed), tokens(2 * seed)
    corrupted = clean.clone()
    corrupted[:, -1] = tokens(2 * seed + 1)[:, -1]
    third = clean.clone()
    third[:, -1] = tokens(3 * seed + 5)[:, -1]
    answer = model(third)[:, -1].detach().sort(1).indices
    return swept(
        activation_patching, model, clean, corrupted, preferring(answer[:, -1], answer[:, 0]), "resid_pre",
        by=("layer",),
    )  # fmt: skip


def path_random_answers(seed: int) -> Trial:
    """As ``patch_random_answers``."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(path_patching, random_network(seed), *pair, random_answers(seed), RECEIVERS)


def path_strangers(seed: int) -> Trial:
    """As ``patch_strangers``."""
    return swept(path_patching, random_network(seed), *strangers(seed), first_two, RECEIVERS)


def ablate_random_answers(seed: int, reference: str = "mean", metric: Any = None) -> Trial:
    """No component favours an answer that was drawn at random."""
    inputs, held_out = tokens(2 * seed), tokens(2 * seed + 1, n=40)
    return swept(
        ablation, random_network(seed), inputs, metric or random_answers(seed), reference=reference,
        held_out=held_out,
    )  # fmt: skip


def ablate_first_two(seed: int) -> Trial:
    """No null: an untrained head moves a fixed difference of logits, and zero ablation takes that away."""
    return ablate_random_answers(seed, "zero", first_two)


def ablate_unread(seed: int) -> Trial:
    """A head writes where nobody reads: all that its ablation does is rounding."""
    trial = swept(ablation, unread_head(seed), tokens(2 * seed), first_two, reference="zero")
    return Trial(trial.flagged[:1], trial.alone[:1], trial.planted[:1])


def component_random_answers(seed: int) -> Trial:
    """As ``patch_random_answers``."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(component_patching, random_network(seed), *pair, random_answers(seed))


def component_random_pairs(seed: int) -> Trial:
    """As ``patch_random_pairs``."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    return swept(component_patching, random_network(seed), *pair, first_two)


def component_unread(seed: int) -> Trial:
    """As ``ablate_unread``, by the loss on random answers."""
    trial = _losses(unread_head(seed), tokens(2 * seed), tokens(seed, length=1))
    return Trial(trial.flagged[:1], trial.alone[:1], trial.planted[:1])


def _losses(model: Any, inputs: Any, targets: Any, planted: Any = (), **options: Any) -> Trial:
    """What single ablations do to the loss."""
    ablated = component_ablation(model, inputs, targets, **{"kinds": ["zero"]} | options)
    return swept(ablated.effect, mean_loss, "component_loss", planted=planted)


def attribution_random_answers(seed: int) -> Trial:
    """As ``patch_random_answers``, to first order."""
    pair = tokens(2 * seed), tokens(2 * seed + 1)
    with before_correction(first_order) as seen:
        found = first_order.attribution_patching(
            random_network(seed), *pair, random_answers(seed), exact=False
        )
    return Trial.of(found.extra["p_adjusted"], seen[-1])


def direct_random_readout(seed: int) -> Trial:
    """The readout of a random network is one random direction among others."""
    order = torch.rand(16, WORDS, generator=torch.Generator().manual_seed(seed)).argsort(1)
    model = random_network(seed, normalization_type=None)
    with torch.no_grad():
        model.unembed.W_U.normal_(generator=torch.Generator().manual_seed(seed + 10**6))
        model.unembed.b_U.zero_()
    found = logit_attribution.direct_logit_attribution(model, tokens(2 * seed), order[:, 0], order[:, 1])
    return Trial.of(found.extra["p_adjusted"], found.extra["p"])


def pairs_random_answers(seed: int) -> Trial:
    """What two components do together favours no answer that was drawn at random."""
    inputs, held_out = tokens(2 * seed), tokens(2 * seed + 1, n=40)
    return paired(random_network(seed), inputs, random_answers(seed), held_out=held_out)


def pairs_that_add_up(seed: int) -> Trial:
    """One layer of attention and a linear readout: effects add up, and what is beyond is rounding."""
    model = random_network(seed, n_layers=1, attn_only=True, n_heads=4, d_head=2, normalization_type=None)
    return paired(model, tokens(2 * seed), first_two, held_out=tokens(2 * seed + 1, n=40))


def pairs_first_two(seed: int) -> Trial:
    """No null: in an untrained network of two layers effects on a fixed metric do not add up."""
    return paired(random_network(seed), tokens(2 * seed), first_two, held_out=tokens(2 * seed + 1, n=40))


def paired(model: Any, *arguments: Any, planted: Any = None, **options: Any) -> Trial:
    """The interactions of all pairs, each once."""
    with before_correction(redundancy) as seen:
        found = pairwise_ablation(model, *arguments, **options).extra["interaction_p"].to_numpy()
    upper = np.triu_indices(len(found), 1)
    return Trial.of(found[upper], seen[0], () if planted is None else planted[upper])


# What is planted.
def some_heads(seed: int, n: int, layers: int = 2) -> tuple[set[tuple[int, int]], Any]:
    """Random heads of four a layer, and where they are, ``[layer, head]``."""
    chosen = torch.randperm(4 * layers, generator=torch.Generator().manual_seed(seed))[:n].tolist()
    where = np.zeros((layers, 4), dtype=bool)
    where.ravel()[chosen] = True
    return {divmod(at, 4) for at in chosen}, where


def patch_planted(seed: int, strength: float = 2.0, n: int = 16) -> Trial:
    """Two of eight heads bring the concept, all bring noise; layers, positions and heads are swept."""
    heads, where = some_heads(seed, 2)
    clean, corrupted = concepts(seed, n)
    planted = np.stack([np.zeros_like(where), np.zeros_like(where), where], 1)  # at the last position
    metric = preferring(clean[:, 0], corrupted[:, 0])
    return swept(
        activation_patching, relay(seed, heads, strength)[0], clean, corrupted, metric, planted=planted
    )


def two_classes(seed: int, n: int) -> tuple[Any, Any, Any]:
    """Clean examples of one class, corrupted ones of another, and the metric that tells them apart."""
    clean, corrupted = concepts(seed, n)
    clean[:, 0], corrupted[:, 0] = 0, 1
    return clean, corrupted, preferring(clean[:, 0], corrupted[:, 0])


def patch_two_classes(seed: int, n_heads: int = 2, strength: float = 2.0, n: int = 40) -> Trial:
    """As ``patch_planted``, of two classes: every donor brings the same answer. Without heads a null."""
    heads, where = some_heads(seed, n_heads)
    clean, corrupted, metric = two_classes(seed, n)
    model = relay(seed, heads, strength)[0]
    return swept(activation_patching, model, clean, corrupted, metric, by=("layer", "head"), planted=where)


def patch_half_precision(seed: int, dtype: torch.dtype = torch.bfloat16, n: int = 40) -> Trial:
    """As ``patch_planted``, layers and heads, in half precision."""
    heads, where = some_heads(seed, 2)
    clean, corrupted = concepts(seed, n)
    metric = preferring(clean[:, 0], corrupted[:, 0])
    model = relay(seed, heads, 2.0)[0].to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        return swept(
            activation_patching, model, clean, corrupted, metric, by=("layer", "head"), planted=where
        )


def patch_copies(seed: int, times: int = 4) -> Trial:
    """As ``patch_without_control``, each example several times."""
    pair = (tokens(2 * seed + each).repeat(times, 1) for each in (0, 1))
    order = torch.rand(16, WORDS, generator=torch.Generator().manual_seed(seed)).argsort(1).repeat(times, 1)
    metric = preferring(order[:, 0], order[:, 1])
    return swept(activation_patching, random_network(seed), *pair, metric, control=False)


def ablate_unread_half(seed: int, dtype: torch.dtype = torch.bfloat16) -> Trial:
    """As ``ablate_unread``, in half precision, of more examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        inputs = tokens(2 * seed, n=100)
        trial = swept(ablation, unread_head(seed).to(dtype), inputs, first_two, reference="zero")
    return Trial(trial.flagged[:1], trial.alone[:1], trial.planted[:1])


def ablate_planted(seed: int, strength: float = 2.0, n: int = 16) -> Trial:
    """The same heads, mean-ablated."""
    heads, where = some_heads(seed, 2)
    (clean, other), (held_out, _) = concepts(seed, n), concepts(seed + 10**6, 40)
    metric = preferring(clean[:, 0], other[:, 0])
    return swept(ablation, relay(seed, heads, strength)[0], clean, metric, held_out=held_out, planted=where)


def component_planted(seed: int, strength: float = 2.0, n: int = 16) -> Trial:
    """The same heads, patched at all positions at once."""
    heads, where = some_heads(seed, 2)
    clean, corrupted = concepts(seed, n)
    metric = preferring(clean[:, 0], corrupted[:, 0])
    return swept(component_patching, relay(seed, heads, strength)[0], clean, corrupted, metric, planted=where)


def component_loss_planted(seed: int, strength: float = 2.0, n: int = 16) -> Trial:
    """The same heads, each mean-ablated; the others write nothing."""
    heads, where = some_heads(seed, 2)
    (clean, _), (held_out, _) = concepts(seed, n), concepts(seed + 10**6, 40)
    model = relay(seed, heads, strength, noise=0.0)[0]
    return _losses(model, clean, clean[:, :1], where, kinds=["mean"], held_out=held_out)


def path_planted(seed: int, strength: float = 2.0, n: int = 16) -> Trial:
    """One head tells the concept to one of the next layer, which answers; eight senders, four receivers."""
    sender, receiver = torch.randint(4, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    model, stream = relay(seed, {(0, sender)}, strength, to="between")
    clean, corrupted = concepts(seed, n)
    with torch.no_grad():
        first, second = model.blocks[0].attn, model.blocks[1].attn
        for head in range(4):  # the others tell it noise
            if head != sender:
                first.W_O[head] += (
                    torch.randn(4, 4, generator=torch.Generator().manual_seed(head)) @ stream.between
                )
        second.W_K[receiver, :, 0] = stream.position[-1]
        second.W_V[receiver] = stream.between.mT @ torch.eye(4) + second.W_V[receiver]
    planted = np.zeros((4, 2, 4), dtype=bool)
    planted[receiver, 0, sender] = True
    metric, receivers = preferring(clean[:, 0], corrupted[:, 0]), [(1, head, "v") for head in range(4)]
    return swept(path_patching, model, clean, corrupted, metric, receivers, planted=planted)


def pairs_planted(seed: int, n: int = 16) -> Trial:
    """Two of four heads bring the same, and either is enough; the other two add noise to the answers."""
    heads, where = some_heads(seed, 2, layers=1)
    model, _ = relay(seed, heads, 1.2, noise=0.3, layers=1, to="between", saturating=True)
    (clean, other), (held_out, _) = concepts(seed, n), concepts(seed + 10**6, 40)
    metric = preferring(clean[:, 0], other[:, 0])
    return paired(model, clean, metric, held_out=held_out, planted=np.outer(where[0], where[0]))


def directions_planted(seed: int, strength: float = 1.0, n: int = 16, width: int = 8) -> Trial:
    """A concept of two values along one direction of vectors, among noise; the readout reads both.

    Erased are that direction and four others, at right angles to it.
    """
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    model = HookedTransformer(
        TransformerConfig(
            d_model=width, d_head=width, n_layers=1, n_ctx=1, d_input=width, d_vocab_out=1, readout="values",
            attn_only=True, positional_embedding_type="none",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E.copy_(torch.eye(width))
        model.unembed.W_U.copy_(basis.sum(0)[:, None])
    concept = 2.0 * torch.randint(2, (n, 1), generator=generator) - 1
    inputs = torch.randn(n, width, generator=generator) + strength * concept * basis[0]
    held_out = torch.randn(40, 1, width, generator=generator)
    return swept(
        erase_directions, model, inputs[:, None], lambda out: concept[:, 0] * out[:, -1, 0],
        dict(enumerate(basis[:5])), reference="mean", held_out=held_out, planted=np.arange(5) == 0,
    )  # fmt: skip
