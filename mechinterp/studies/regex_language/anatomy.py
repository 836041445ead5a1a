"""What one trained network answers, what can be read from it, and what becomes of swapped states."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis.behaviour import agreement, state_swap
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.probes import Logistic, probe
from mechinterp.automata import WordMixture
from mechinterp.hooks import run_with_cache
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import NotLearned, Result
from mechinterp.studies.regex_language.training import Trained
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
        longer: class accuracy on words beyond the training lengths, of ``trained``, ``untrained`` and the
            best constant answer, ``trivial``; empty where the language has no longer words.
        results: by name.
        missing: what could not be measured, and why.
    """

    trained: Trained
    gate: Gate
    measures: Mapping[str, float]
    untrained: Mapping[str, float]
    longer: Mapping[str, float]
    results: Mapping[str, Result]
    missing: Mapping[str, str]

    @classmethod
    def of(cls, trained: Trained, checkpoint: str = "best") -> Anatomy:
        """Take a run's network apart; of one that did not learn, the claims say so, once."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearned)
            return cls._of(trained, checkpoint)

    @classmethod
    def _of(cls, trained: Trained, checkpoint: str) -> Anatomy:
        task, model, before = trained.task, trained.model(checkpoint), trained.untrained()
        gate, test, seed = Gate.of(model, task), task.dataset("test"), trained.options.seed
        missing: dict[str, str] = {}

        def tried(name: str, measure: Callable[[], Any], otherwise: Any) -> Any:
            """Languages differ in what can be asked of them: too few states, no longer words."""
            try:
                return measure()
            except ValueError as error:
                missing[name] = str(error)
                return otherwise

        longer = tried("longer words", lambda: longer_words(task), None)
        found = [
            *behaviour(model, before, task, longer, gate),
            *tried("states read", lambda: [states_read(model, before, task, gate)], []),
            *tried("states swapped", lambda: [swapped(model, task, gate, seed=seed)], []),
            *tried("weights", lambda: weight_comparison(model, task, untrained=before, gate=gate), []),
            *tried("weights along training", lambda: [along_training(trained, gate=gate)], []),
        ]
        return cls(
            trained=trained, gate=gate, measures=_measures(task, model, test),
            untrained=_measures(task, before, test), longer=_beyond(task, model, before, longer),
            results={result.name: result for result in found}, missing=missing,
        )  # fmt: skip


def longer_words(task: RegexLanguage, n: int = 300) -> Batch:
    """Words of one symbol more than the longest that trained, up to twice as many."""
    mixture = WordMixture(task.dfa, task.max_len + 1, 2 * task.max_len, task.p_class)
    return task.batch(mixture.draw(n, seed=task.seed)[0])


@torch.no_grad()
def _measures(task: RegexLanguage, model: HookedTransformer, batch: Batch) -> Mapping[str, float]:
    return task.measures(task.outputs(model, batch), batch)


@torch.no_grad()
def _beyond(
    task: RegexLanguage, model: HookedTransformer, untrained: HookedTransformer, longer: Batch | None
) -> Mapping[str, float]:
    if longer is None:
        return {}
    scores = {"trained": model, "untrained": untrained}
    found = {name: task.score(task.outputs(network, longer), longer) for name, network in scores.items()}
    return {**found, "trivial": task.most_frequent(longer)}


@torch.no_grad()
def right_answers(model: HookedTransformer, task: RegexLanguage, batch: Batch) -> dict[str, Tensor]:
    """Whether the class is right at each place, and whether the guess of the next symbol is a best one."""
    outputs, odds = task.outputs(model, batch), task.next_symbol(batch)
    guess = outputs[..., task.next_columns].argmax(-1)
    best = (odds.gather(-1, guess[..., None])[..., 0] >= odds.amax(-1) - 1e-9) & (odds.amax(-1) > 0)
    return {"class": task.right(outputs, batch) & batch.mask, "best token": best & batch.mask}


def behaviour(
    model: HookedTransformer,
    untrained: HookedTransformer,
    task: RegexLanguage,
    longer: Batch | None,
    gate: Gate,
) -> list[Result]:
    """Agreement with the automaton by length (and beyond that of training, if it can be), position, state."""
    test = task.dataset("test")
    right, before = (right_answers(network, task, test) for network in (model, untrained))
    places = torch.arange(test.inputs.shape[1]).expand(test.inputs.shape)
    groups = {"position": places, "state": test.variables["state"]}
    settings = {"trivial": task.trivial, "together": _copies(test.inputs), "gate": gate}
    found = [
        agreement(right, group, test.mask, axis=axis, untrained=before, **settings)
        for axis, group in groups.items()
    ]
    batches = [test] if longer is None else [test, longer]
    width = batches[-1].inputs.shape[1]
    mask = torch.cat([_widened(batch.mask, width) for batch in batches])
    inputs = torch.cat([_widened(batch.inputs, width, task.pad) for batch in batches])
    kinds = torch.cat([batch.variables["class"][batch.mask] for batch in batches])
    answers = []
    for network, known in ((model, right), (untrained, before)):
        # What comes next is asked within the task's lengths only: longer words do not occur.
        each = [known, *(right_answers(network, task, batch) for batch in batches[1:])]
        answers.append({"class": torch.cat([_widened(one["class"], width) for one in each])})
    by_length = agreement(
        answers[0], mask.sum(1) - 1, mask, axis="length", untrained=answers[1], gate=gate,
        trivial=kinds.bincount().max().item() / len(kinds), together=_copies(inputs),
        provenance={"trained up to": task.max_len},
    )  # fmt: skip
    return [by_length, *found]


def _copies(inputs: Int[Tensor, "b pos"]) -> Int[Tensor, " b"]:
    """The number of each word among the different ones."""
    return inputs.unique(dim=0, return_inverse=True)[1]


def _widened(x: Tensor, width: int, value: int = 0) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]), value=value)


def states_read(
    model: HookedTransformer, untrained: HookedTransformer, task: RegexLanguage, gate: Gate, n: int = 300
) -> Result:
    """The state of the automaton by a probe of the last layer's stream, and by one of the bare symbol."""
    batch, hooks = different(task.dataset("test"), n), [stream_after(model.cfg.n_layers - 1)]
    with torch.no_grad():
        caches = [run_with_cache(network, batch.inputs, names=hooks)[1] for network in (model, untrained)]
    return probe(
        caches[0], batch.variables["state"], Logistic(), mask=batch.mask, pool=True, untrained=caches[1],
        inputs=batch.inputs, gate=gate, provenance={"pattern": task.pattern, "variable": "state"},
    )  # fmt: skip


def swapped(
    model: HookedTransformer, task: RegexLanguage, gate: Gate, *, layer: int = 0, seed: int = 0, n: int = 800
) -> Result:
    """States swapped in the stream after a layer, at one random place of each of up to n different words.

    Raises:
        ValueError: fewer than two states, or none that words of the task lead to often enough.
    """
    if task.dfa.n_states < 2:
        raise ValueError("expected at least 2 states to swap, got 1; take another language")
    layer, draw = layer % model.cfg.n_layers, torch.Generator().manual_seed(seed)
    basis = basis_of(model, task, layer)
    batch = different(task.batch(task.mixture.draw(2 * n, seed + 1)[0]), n)
    lengths, rows = batch.mask.sum(1) - 1, torch.arange(len(batch))
    at = (1 + torch.rand(len(batch), generator=draw) * lengths).long().clamp(max=lengths)
    source = batch.variables["state"][rows, at]
    target, wrong = _others(task, source, at, draw).T

    def follows(outputs: Float[Tensor, "b pos out"], goal: Int[Tensor, " b"]) -> Float[Tensor, "b later"]:
        answers = outputs[..., task.class_columns].argmax(-1)
        return _follows(task, batch, answers, at, torch.stack((goal, source, wrong)))

    return state_swap(
        model, batch.inputs, stream_after(layer), at, basis.write, source, target, wrong, follows,
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
    states: Int[Tensor, "kind b"],
) -> Float[Tensor, "b later"]:
    """Whether the class answered is that from the first of some states, where all others give another."""
    rows, found = torch.arange(len(at)), []
    for later in range(LATER + 1):
        place = (at + later).clamp(max=batch.inputs.shape[1] - 1)
        real = batch.mask[rows, place] & (at + later < batch.inputs.shape[1])
        if later:
            states = task.dfa.table[states, batch.inputs[rows, place].clamp(max=task.dfa.n_symbols - 1)]
        kinds = task.dfa.classes[states]
        tells = real & (kinds[1:] != kinds[0]).all(0)
        found.append(torch.where(tells, (answers[rows, place] == kinds[0]).double(), torch.nan))
    return torch.stack(found, 1)
