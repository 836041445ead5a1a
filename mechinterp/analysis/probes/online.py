"""How many bits a variable takes, given activations: the online code of a probe.

Labels are sent block by block, each coded by a probe fitted to the blocks before it; a variable
that is easy to learn from few examples has a short code. Source: Voita & Titov (2020),
"Information-theoretic probing with minimum description length", section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.probes.classifiers import Logistic
from mechinterp.analysis.probes.controls import draw_labels
from mechinterp.analysis.probes.given import Cache, Given, gather, tensors_of
from mechinterp.analysis.probes.layout import Layout
from mechinterp.analysis.probes.scale import one_scale
from mechinterp.analysis.probes.scores import bootstrap
from mechinterp.analysis.probes.targets import Variable, classes
from mechinterp.analysis.tensors import tensor_of, vectors_of, whole_of
from mechinterp.devices import cpu_default
from mechinterp.result import Result

ENDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where the blocks end, as shares of the examples (Voita & Titov 2020)."""

PENALTIES = (1e-4, 1e-2, 1.0)
"""``C`` of the logistic regressions that are mixed."""


@cpu_default
def code_length(
    x: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    kinds: int,
    *,
    ends: Sequence[float] = ENDS,
    penalties: Sequence[float] = PENALTIES,
    together: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, " n"]:
    """Bits of each label, given the activations and the labels before its block.

    The first block is sent with log2 of ``kinds`` bits a label. After it, labels have the probability that a
    Bayesian mixture of logistic regressions gives them, one for each penalty: never more than
    log2(penalties) bits in all above the best of them. Each regression counts the uniform guess as
    one more example, since a label that it has not seen yet must not cost infinitely much.

    Args:
        together: the group of each row, where rows of one input follow one another: no block ends within a
            group, since of its other rows the label is known.
    """
    x, labels = vectors_of(x), tensor_of(labels, "labels").cpu()
    fits = labels.ndim == 1 and len(x) == len(labels) > 0 and not labels.is_floating_point()
    fits = fits and not labels.is_complex() and not isinstance(kinds, bool) and isinstance(kinds, int)
    if not fits or not 0 <= int(labels.min()) <= int(labels.max()) < kinds:
        raise ValueError(
            f"expected activations [n, d] and as many classes below {kinds}, got {x.dtype} "
            f"{list(x.shape)} and {labels.dtype} {list(labels.shape)}; number the classes"
        )
    x, labels = x if x.dtype == torch.float64 else x.float(), labels.long()
    if not penalties or not all(0 < C < math.inf for C in penalties) or not all(0 < end <= 1 for end in ends):
        raise ValueError(
            f"expected penalties C > 0 and ends of blocks in (0, 1], got {list(penalties)} and {list(ends)}"
        )
    n = len(labels)
    stops = sorted({max(1, math.ceil(end * n)) for end in ends} | {n})
    if together is not None:
        last = torch.cat(((together[1:] != together[:-1]).nonzero()[:, 0] + 1, torch.tensor([n])))
        stops = sorted({int(last[last >= stop].min()) for stop in stops})
    log_p = torch.full((len(penalties), n), -math.log(kinds), dtype=torch.float64)
    for seen, stop in pairwise(stops):
        for row, C in zip(log_p, penalties):
            p = _class_probabilities(x[:seen], labels[:seen], x[seen:stop], kinds, C)
            guessed = (seen * p + 1 / kinds) / (seen + 1)
            row[seen:stop] = guessed.gather(1, labels[seen:stop, None]).squeeze(1).log()
    so_far = log_p.cumsum(1).logsumexp(0) - math.log(len(penalties))
    return -so_far.diff(prepend=torch.zeros(1, dtype=torch.float64)) / math.log(2)


def _class_probabilities(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], new: Float[Tensor, "m d"], kinds: int, C: float
) -> Float[Tensor, "m kind"]:
    p = torch.zeros(len(new), kinds, dtype=torch.float64)
    known = labels.unique()
    if len(known) == 1:
        p[:, known] = 1.0
        return p
    x, new = one_scale(x, new)
    fitted = Logistic(C=C).estimator(seed=0).fit(x.cpu().numpy(), labels.cpu().numpy())
    p[:, known] = torch.from_numpy(fitted.predict_proba(new.cpu().numpy())).double()
    return p


@cpu_default
def online_code(
    activations: Cache,
    variable: Variable,
    *,
    mask: Bool[Tensor, "_ _"] | None = None,
    positions: Sequence[int] | None = None,
    pool: bool = False,
    seed: int = 0,
    untrained: Cache | None = None,
    inputs: Tensor | None = None,
    types: Tensor | None = None,
    shuffles: int = 1,
    gate: Gate | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Result:
    """The online code length of a variable of classes, in bits, at every hook and position.

    All examples are sent, in an order drawn by ``seed``; each is predicted before it is learned from.
    Arguments are those of ``probe``.

    Returns:
        Dims ``hook``, ``position`` and, where there are several variables, ``target``. ``trivial``: the
        uniform code, n log2 K bits; ``control``: the mean over shuffled labels; the interval is that of
        the shortest code. ``extra``: ``compression`` (uniform over online code),
        ``shuffled_compression``, ``untrained``, ``raw_input``, and ``control_task`` and ``selectivity``
        (bits that the control task takes more).

    Raises:
        ValueError: as ``probe``, or a variable that is not of integers.
    """
    shuffles = whole_of(shuffles, "shuffles")
    mask, inputs, types = tensors_of(mask=mask, inputs=inputs, types=types).values()
    given = gather(
        activations,
        variable,
        classes,
        lambda n, alike: _sending_order(n, seed, alike),
        mask=mask,
        positions=positions,
        pool=pool,
        untrained=untrained,
        inputs=inputs,
        types=types,
    )
    bits, each = _code_lengths(given, given.activations, given.layout, shuffles, seed)
    others = {
        name: _code_lengths(given, x, layout, 0, seed)[0][:, :, 0]
        for name, (x, layout) in given.others.items()
    }
    sizes = {"seed": seed, "shuffles": shuffles, "n": given.layout.sizes("all"), **given.told()}
    return _as_result(given, bits, each, shuffles, others, gated(gate, {**(provenance or {}), **sizes}))


def _sending_order(n: int, seed: int, alike: Tensor | None = None) -> dict[str, Int[Tensor, " n"]]:
    """An order at random, in which rows of one input follow one another."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    if alike is not None:
        turn = torch.full((int(alike.max()) + 1,), n).scatter_reduce(0, alike[order], torch.arange(n), "amin")
        order = order[turn[alike[order]].argsort(stable=True)]
    return {"all": order}


def _code_lengths(
    given: Given, activations: Mapping[str, Tensor], layout: Layout, shuffles: int, seed: int
) -> tuple[Float[Tensor, "hook position draw target"], dict[tuple[int, int, int], tuple[Tensor, Tensor]]]:
    """Bits of the truth, its shuffles and control tasks; each example's of the truth, and its sequence."""
    values, draws = given.targets.values, 1 + shuffles * (1 if given.types is None else 2)
    kinds = (1 + values.argmax(-1).amax((0, 1))).tolist()
    bits = torch.zeros(len(activations), len(layout.positions), draws, len(kinds)).double()
    each = {}
    for part in layout.parts:
        labels = draw_labels(values, part, shuffles, given.types, seed)["all"].argmax(-1)
        alike = None if part.together is None else part.units("all")
        for hook, (name, x) in enumerate(activations.items()):
            if part.hooks is not None and name not in part.hooks:
                continue
            x = part.take(x, "all")
            for cell, position in enumerate(part.at):
                for draw, target in product(range(labels.shape[1]), range(len(kinds))):
                    y = labels[cell % len(labels), draw, :, target]
                    found = code_length(x[cell % len(x)], y, kinds[target], together=alike)
                    bits[hook, position, draw, target] = found.sum()
                    if draw == 0:
                        each[hook, position, target] = found, part.units("all")
    return bits, each


def _as_result(
    given: Given,
    bits: Float[Tensor, "hook position draw target"],
    each: Mapping[tuple[int, int, int], tuple[Tensor, Tensor]],
    shuffles: int,
    others: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
) -> Result:
    values, random, tasks = bits[:, :, 0], bits[:, :, 1 : 1 + shuffles].mean(2), bits[:, :, 1 + shuffles :]
    kinds = 1 + given.targets.values.argmax(-1).amax((0, 1))
    n = torch.tensor([[len(each[i, at, 0][0]) for at in range(bits.shape[1])] for i in range(len(bits))])
    uniform = n[..., None] * kinds.double().log2()
    cell, best = given.at(int((values / uniform).argmin()))
    own, sequence = each[cell]
    extra = {"uniform": given.label(uniform, "bits"), "compression": given.label(uniform / values, "ratio")}
    if shuffles:
        extra["shuffled_compression"] = given.label(uniform / random, "ratio")
    if tasks.shape[2]:
        extra["control_task"] = given.label(tasks.mean(2), "bits")
        extra["selectivity"] = given.label(tasks.mean(2) - values, "bits")
    for name, x in others.items():
        extra[name] = given.label(x[0] if name == "raw_input" else x, "bits")
    low, high = bootstrap(lambda x, _: x.mean(-3)[..., 0], own[:, None, None], own[:, None, None], sequence)
    return Result(
        name="online_code",
        values=given.label(values, "bits"),
        trivial=uniform[cell].item(),
        control=given.label(random, "bits") if shuffles else None,
        control_kind=f"shuffled labels, mean of {shuffles} codes" if shuffles else "",
        interval=(low * len(own), high * len(own)),
        provenance={**provenance, "best": best},
        extra=extra,
    )
