"""``mechinterp runs`` and ``mechinterp compare-weights``: what run folders hold."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CompareWeights:
    """Set a trained network's value circuits beside the automaton of its language."""

    run: Path
    """Run folder of ``mechinterp train regex-language``."""

    checkpoint: str = "best"
    """best (lowest loss on val), final, or the number of a kept step."""

    visualize_heads: tuple[int, ...] = ()
    """Heads to draw beside their symbols, in ``weight_comparison.html``; by default all."""

    test_strings: tuple[str, ...] = ()
    """Words to run through network and automaton, symbol by symbol."""

    layer: int = 0
    """Whose heads."""


@dataclass(frozen=True, kw_only=True)
class RunsList:
    """List runs, oldest first."""

    root: Path = Path("runs")
    """Folder to look in."""

    best: bool = False
    """Show only the run with the largest value of the metric, or of a loss with the smallest."""

    smallest: bool = False
    """With ``--best``: the smallest value instead."""

    metric: str | None = None
    """The metric to show, and to choose the best by, such as class_acc; by default each run's own score."""

    pattern: str | None = None
    """Only runs of this pattern: the same as ``--where pattern=...``."""

    where: tuple[str, ...] = ()
    """Only runs whose config says so, as ``key=value``."""


def runs(words: list[str]) -> int:
    """List runs, or show one."""
    if words[:1] == ["list"]:
        return _list_runs(words[1:])
    if words[:1] == ["show"] and len(words) == 2:
        return _show_run(words[1])
    raise ValueError("expected mechinterp runs list, or mechinterp runs show PATH; see mechinterp --help")


def _list_runs(words: list[str]) -> int:
    import tyro

    folders = import_module("mechinterp.runs")
    options = tyro.cli(RunsList, args=words, prog="mechinterp runs list")
    for pair in options.where:
        if "=" not in pair:
            raise ValueError(f"expected --where key=value, got {pair!r}")
    if options.smallest and not options.best:
        raise ValueError("expected --smallest beside --best, got it alone; add --best")
    wanted = dict(pair.split("=", 1) for pair in options.where)
    if options.pattern is not None:
        wanted["pattern"] = options.pattern
    found = folders.list_runs(options.root, **wanted)
    if options.best:
        metric = options.metric or _only({score_of(run) for run in found} - {None})
        found = [folders.best_run(found, metric, smallest=options.smallest or metric.endswith("loss"))]
    if not found:
        print(f"no such run below {options.root}", file=sys.stderr)
    for run in found:
        try:
            metric = options.metric or score_of(run)
            said = f"{metric or 'score'} {run.metrics.get(metric, '–')}"
        except ValueError as error:  # one damaged file hides no other run
            print(f"damaged     {run.path}: {error}")
            continue
        print(f"{'finished  ' if run.finished else 'unfinished'}  {said}  {run.path}")
    return 0


def score_of(run: Any) -> str | None:
    """The metric that says how good a run's network is, if it has one: its task's score on the test split."""
    scores = [name for name in run.metrics if name.startswith("test_") and name != "test_loss"]
    return scores[0] if scores else None


def _only(metrics: set[str]) -> str:
    if len(metrics) > 1:
        raise ValueError(
            f"expected --metric, since these runs have different scores, {sorted(metrics)}; give one, or "
            "--where with what the runs have in common"
        )
    return metrics.pop() if metrics else "test_accuracy"


def _show_run(path: str) -> int:
    run = import_module("mechinterp.runs").Run.open(path)
    print(json.dumps({"config": run.config, "metrics": run.metrics, "finished": run.finished}, indent=1))
    if (run.path / "claims.json").exists():
        withdraw = import_module("mechinterp.studies.withdrawn").withdraw  # also what was saved before
        for claim in withdraw(run.config.get("study", ""), run.claims):
            print(claim)
    return 0


def compare_weights(words: list[str]) -> int:
    """Set a run's network beside its automaton."""
    import tyro

    named = [] if not words or words[0].startswith("--") else ["--run"]
    options = tyro.cli(CompareWeights, args=[*named, *words], prog="mechinterp compare-weights")
    module = import_module("mechinterp.studies.regex_language.comparing")
    print(
        module.compare(
            options.run, options.checkpoint, options.visualize_heads, options.test_strings, options.layer
        )
    )
    return 0
