"""``mechinterp compare-weights``: one run's weights beside its automaton, as a table and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mechinterp.analysis.gates import Gate
from mechinterp.analysis.transitions import MEASURES
from mechinterp.automata import CLASSES
from mechinterp.files import write_atomic, write_json
from mechinterp.formatting import format_number
from mechinterp.models.transformer import HookedTransformer
from mechinterp.report import Section, report
from mechinterp.result import Result
from mechinterp.runs import environment
from mechinterp.studies.regex_language.training import Trained
from mechinterp.studies.regex_language.weights import activations, basis_of, plain, weight_comparison
from mechinterp.tasks.regex_language import RegexLanguage


def compare(
    path: str | Path,
    checkpoint: str = "best",
    visualize_heads: Sequence[int] = (),
    test_strings: Sequence[str] = (),
    layer: int = 0,
) -> str:
    """Compare, write ``weight_comparison.json`` and ``.html`` into the run, and say what was found.

    Args:
        checkpoint: ``"best"``, ``"final"`` or the number of a step.
        visualize_heads: those to draw; none: all.
        test_strings: words to run through the network and the automaton.
        layer: whose heads.

    Raises:
        ValueError: no such run, checkpoint, head or layer; words with other symbols, or too long; d_model <
            states.
    """
    trained = Trained.open(path)
    task, model, untrained = trained.task, trained.model(checkpoint), trained.untrained()
    _check(model, layer, visualize_heads, test_strings)
    words = _traces(model, task, test_strings, layer) if test_strings else []
    gate = Gate.of(model, task)
    results = weight_comparison(model, task, untrained=untrained, layer=layer, gate=gate)
    if visualize_heads:
        shown = list(visualize_heads)
        results = tuple(replace(one, provenance={**one.provenance, "visualized": shown}) for one in results)
    record(trained, results, checkpoint, layer)
    text = "Above: cosines of each head, over the middle 95 % of random automata. Below: matrices."
    sections = [Section(heading=_HEADINGS[one.name], text=text, results=[one]) for one in results]
    title = f"The weights of {task.pattern} beside its automaton"
    page = trained.run.path / f"weight_comparison{_suffix(checkpoint)}.html"
    write_atomic(page, report(title, str(gate), [], sections, environment()))
    tables = [f"{_HEADINGS[one.name]}\n{table(one)}" for one in results]
    return "\n\n".join([str(gate), *tables, *words, f"Pictures: {page}"])


def record(trained: Trained, results: Sequence[Result], checkpoint: str = "best", layer: int = 0) -> None:
    """Write ``weight_comparison.json`` into the run; of another checkpoint than the best, with its name."""
    found = {one.name: one.to_json() for one in results}
    path = trained.run.path / f"weight_comparison{_suffix(checkpoint)}.json"
    write_json(path, {"checkpoint": checkpoint, "layer": layer, **found})


def _suffix(checkpoint: str) -> str:
    return "" if checkpoint == "best" else f"_{checkpoint}"


_HEADINGS = {
    "raw_transitions": "Raw: head h beside symbol h, in the leading dimensions of the stream",
    "state_transitions": "In the basis of states, heads matched to symbols",
}


def table(result: Result) -> str:
    """Measures of every head beside the middle 95 % of random automata, as text."""
    heads = [str(head) for head in result.values.coords["head"].values]
    symbols = [*map(str, result.extra["symbol"].values), ""]
    lines = [
        f"  {'head':6}{'symbol':8}{'measure':16}{'value':>9}{'untrained':>11}  {'random automata':20}"
        f"{'p':>7}{'p relabelled':>14}"
    ]
    for head, symbol in zip(heads, symbols):
        for measure in MEASURES if symbol != "-1" else ():
            lines.append(f"  {head:6}{symbol:8}{measure:16}{_numbers(result, measure, head)}")
    said = result.provenance
    if "rotated" in result.extra:
        rotated = result.extra["rotated"].sel(measure="cosine", head="all")
        low, high = float(rotated.min()), float(rotated.max())
        lines.append(
            f"  In {len(rotated)} rotated streams, whose outputs differ by at most "
            f"{said['outputs differ by']}, the cosine of all heads is {low:.3f} to {high:.3f}."
        )
    else:
        lines.append(
            f"  The probe that gives the basis reads {said['probe accuracy']:.1%} of held-out states "
            f"(trivial {said['probe trivial']:.1%})."
        )
    return "\n".join(lines)


def _numbers(result: Result, measure: str, head: str) -> str:
    at = {"measure": measure, "head": head}
    value, untrained = (float(result.extra[name].sel(**at)) for name in ("measures", "untrained"))
    low, high = (
        format_number(float(result.extra[end].sel(null="random automata", **at)))
        for end in ("null_low", "null_high")
    )
    p, relabelled = (
        float(result.extra["p"].sel(null=null, **at)) for null in ("random automata", "relabelled states")
    )
    numbers = [f"{x:.3f}" if x == x else "–" for x in (value, untrained, p, relabelled)]
    return f"{numbers[0]:>9}{numbers[1]:>11}  {f'{low} to {high}':20}{numbers[2]:>7}{numbers[3]:>14}"


@torch.no_grad()
def _traces(model: HookedTransformer, task: RegexLanguage, words: Sequence[str], layer: int) -> list[str]:
    """Each word symbol by symbol: states by automaton and by probe, classes by automaton and by network."""
    batch = task.words(*words)
    answers = task.outputs(model, batch)[..., task.class_columns].argmax(-1)
    network = plain(model)
    read = activations(network, batch, layer).double() @ basis_of(network, task, layer).read
    probed = torch.full(batch.inputs.shape, -1).masked_scatter(batch.mask, read.argmax(-1))
    text = []
    for row, word in enumerate(words):
        lines = [f"{word!r}", f"  {'read':12}{'state':>6}{'probed':>8}  {'class':12}{'network':12}"]
        for t in range(len(word) + 1):
            state, kind = (int(batch.variables[name][row, t]) for name in ("state", "class"))
            lines.append(
                f"  {word[:t][-10:] or 'nothing':12}{state:6}{int(probed[row, t]):8}  {CLASSES[kind]:12}"
                f"{CLASSES[int(answers[row, t])]:12}"
            )
        text.append("\n".join(lines))
    return text


def _check(model: HookedTransformer, layer: int, heads: Sequence[int], words: Sequence[str]) -> None:
    if too_long := [word for word in words if len(word) >= model.cfg.n_ctx]:
        raise ValueError(
            f"expected words of at most {model.cfg.n_ctx - 1} symbols, twice as many as it trained on, got "
            f"{too_long}; shorten them"
        )
    if not 0 <= layer < model.cfg.n_layers:
        raise ValueError(f"expected a layer of 0 to {model.cfg.n_layers - 1}, got {layer}; name one of those")
    if strange := [head for head in heads if not 0 <= head < model.cfg.n_heads]:
        raise ValueError(f"expected heads of 0 to {model.cfg.n_heads - 1}, got {strange}; name some of those")
