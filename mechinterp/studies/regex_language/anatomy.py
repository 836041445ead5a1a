"""What one trained network answers, what can be read from it, and what becomes of swapped states."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.behaviour import agreement, state_swap
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.probes import Logistic, probe
from mechinterp.automata import PAD, WordMixture
from mechinterp.hooks import run_with_cache
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import NotLearned, Result
from mechinterp.studies.regex_language.options import Trained
from mechinterp.studies.regex_language.weights import (
    along_training,
    basis_of,
    different,
    stream_after,
    weight_comparison,
)
from mechinterp.tasks.base import Batch
from mechinterp.tasks.regex_language import RegexLanguage

LATER = 4
"""How many symbols after a swap the answers are followed."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One network's findings.

    Args:
        measures: of the task on test words, as ``RegexLanguage.measures`` gives them.
        untrained: the same of the network before training.
        longer: the same on words beyond the training lengths.
        untrained_longer: class accuracy of the network before training on these.
        trivial_longer: that of the best constant answer.
        results: by name.
    """

    trained: Trained
    gate: Gate
    measures: Mapping[str, float]
    untrained: Mapping[str, float]
    longer: Mapping[str, float]
    untrained_longer: float
    trivial_longer: float
    results: Mapping[str, Result]

    @classmethod
    def of(cls, trained: Trained, checkpoint: str = "best") -> Anatomy:
        """Take a run's network apart; of one that did not learn, the claims say so, once."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearned)
            return cls._of(trained, checkpoint)

    @classmethod
    def _of(cls, trained: Trained, checkpoint: str) -> Anatomy:
        task, model, before = trained.task, trained.model(checkpoint), trained.untrained()
        gate, test, longer = Gate.of(model, task), task.dataset("test"), longer_words(task)
        results = {
            **behaviour(model, before, task, longer, gate),
            "state_probe": states_read(model, before, task, gate),
        }
        swap = swapped(model, task, gate, seed=trained.options.seed)
        if swap is not None:
            results["state_swap"] = swap
        found = [*weight_comparison(model, task, untrained=before, gate=gate), along_training(trained)]
        results |= {result.name: result for result in found}
        return cls(
            trained=trained, gate=gate, measures=_measures(task, model, test),
            untrained=_measures(task, before, test), longer=_measures(task, model, longer), results=results,
            untrained_longer=_measures(task, before, longer)["class_acc"],
            trivial_longer=task.most_frequent(longer),
        )  # fmt: skip


def longer_words(task: RegexLanguage, n: int = 300) -> Batch:
    """Words of one symbol more than the longest that trained, up to twice as many."""
    mixture = WordMixture(task.dfa, task.max_len + 1, 2 * task.max_len, task.p_class)
    return task.batch(mixture.draw(n, seed=task.seed)[0])


@torch.no_grad()
def _measures(task: RegexLanguage, model: HookedTransformer, batch: Batch) -> Mapping[str, float]:
    return task.measures(task.outputs(model, batch), batch)


@torch.no_grad()
def right_answers(model: HookedTransformer, task: RegexLanguage, batch: Batch) -> dict[str, Tensor]:
    """Whether the class is right at each place, and whether the guess of the next symbol is a best one."""
    outputs, odds = task.outputs(model, batch), task.next_symbol(batch)
    guess = outputs[..., task.next_columns].argmax(-1)
    best = odds.gather(-1, guess[..., None])[..., 0] >= odds.amax(-1) - 1e-9
    return {"class": task.right(outputs, batch) & batch.mask, "best token": best & batch.mask}


def behaviour(
    model: HookedTransformer, untrained: HookedTransformer, task: RegexLanguage, longer: Batch, gate: Gate
) -> dict[str, Result]:
    """Agreement with the automaton by length (in training and beyond), position and state."""
    test = task.dataset("test")
    right, before = right_answers(model, task, test), right_answers(untrained, task, test)
    settings = {"trivial": task.trivial, "gate": gate}
    places = torch.arange(test.inputs.shape[1]).expand(test.inputs.shape)
    groups = {"position": places, "state": test.variables["state"]}
    found = [
        agreement(right, group, test.mask, axis=axis, untrained=before, **settings)
        for axis, group in groups.items()
    ]
    both = [(test, right, before)]
    both.append((longer, right_answers(model, task, longer), right_answers(untrained, task, longer)))
    wide = longer.inputs.shape[1]
    mask = torch.cat([_widened(batch.mask, wide) for batch, _, _ in both])
    kinds = [
        {name: torch.cat([_widened(pair[of][name], wide) for pair in both]) for name in right}
        for of in (1, 2)
    ]
    by_length = agreement(
        kinds[0], mask.sum(1) - 1, mask, axis="length", untrained=kinds[1],
        provenance={"trained up to": task.max_len}, **settings,
    )  # fmt: skip
    return {result.name: result for result in [by_length, *found]}


def _widened(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))


def states_read(
    model: HookedTransformer, untrained: HookedTransformer, task: RegexLanguage, gate: Gate, n: int = 300
) -> Result:
    """The state of the automaton by a probe of the stream, layer by layer, and by one of the bare symbol."""
    batch = different(task.dataset("test"), n)
    hooks = ["blocks.0.hook_resid_pre", *map(stream_after, range(model.cfg.n_layers))]
    with torch.no_grad():
        caches = [run_with_cache(network, batch.inputs, names=hooks)[1] for network in (model, untrained)]
    return probe(
        caches[0], batch.variables["state"], Logistic(), mask=batch.mask, pool=True, untrained=caches[1],
        inputs=batch.inputs, gate=gate, provenance={"pattern": task.pattern, "variable": "state"},
    )  # fmt: skip


def swapped(
    model: HookedTransformer, task: RegexLanguage, gate: Gate, *, layer: int = 0, seed: int = 0, n: int = 400
) -> Result | None:
    """States swapped in the stream after a layer; ``None`` if there is only one state."""
    if task.dfa.n_states < 2:
        return None
    layer = layer % model.cfg.n_layers
    basis, draw = basis_of(model, task, layer), torch.Generator().manual_seed(seed)
    words, _ = task.mixture.draw(4 * n, seed + 1)
    lengths = (words != PAD).sum(1)
    words = words[lengths >= 2][:n]
    batch, lengths = task.batch(words), (words != PAD).sum(1)
    at = (1 + torch.rand(len(words), generator=draw) * lengths).long().clamp(max=lengths)
    source = batch.variables["state"][torch.arange(len(words)), at]
    others = _others(task, source, at, draw)

    def follows(outputs: Float[Tensor, "b pos out"], target: Int[Tensor, " b"]) -> Float[Tensor, "b later"]:
        answers = outputs[..., task.class_columns].argmax(-1)
        return _follows(task, batch, answers, at, source, target)

    return state_swap(
        model, batch.inputs, stream_after(layer), at, basis.write, source, *others.T, follows,
        seed=seed, gate=gate, provenance={"pattern": task.pattern, "layers": model.cfg.n_layers},
    )  # fmt: skip


def _others(
    task: RegexLanguage, source: Int[Tensor, " b"], at: Int[Tensor, " b"], draw: torch.Generator
) -> Int[Tensor, "b 2"]:
    """Two other states each, first those in which a word can be after so many symbols; of two, the same."""
    n_states, reach = task.dfa.n_states, [torch.eye(task.dfa.n_states)[0] > 0]
    for _ in range(task.max_len):
        reach.append((reach[-1].float() @ task.dfa.matrices.sum(0)) > 0)
    order = torch.rand(len(source), n_states, generator=draw) + torch.stack(reach)[at].float()
    order.scatter_(1, source[:, None], 0.0 if n_states > 2 else -1.0)
    ranked = order.argsort(1, descending=True)
    return ranked[:, :2]


def _follows(
    task: RegexLanguage,
    batch: Batch,
    answers: Int[Tensor, "b pos"],
    at: Int[Tensor, " b"],
    source: Int[Tensor, " b"],
    target: Int[Tensor, " b"],
) -> Float[Tensor, "b later"]:
    """Whether the class answered is the target's where it differs from the source's."""
    rows, found = torch.arange(len(at)), []
    states = torch.stack((source, target))
    for later in range(LATER + 1):
        place = (at + later).clamp(max=batch.inputs.shape[1] - 1)
        real = batch.mask[rows, place] & (at + later < batch.inputs.shape[1])
        if later:
            symbols = batch.inputs[rows, place].clamp(max=task.dfa.n_symbols - 1)
            states = task.dfa.table[states, symbols]
        kinds = task.dfa.classes[states]
        follows = (answers[rows, place] == kinds[1]).double()
        found.append(torch.where(real & (kinds[0] != kinds[1]), follows, torch.nan))
    return torch.stack(found, 1)
