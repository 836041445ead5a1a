"""How often each tool of the analysis layer cries wolf, and how often it misses what is planted.

The trials are those of tests/calibration, with more networks. ``--table`` prints the tables of
docs/calibration.md instead of the figures.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import show
from mechinterp.analysis.effects import effects_result

TRIALS = Path(__file__).parents[1] / "tests" / "calibration"
EXAMPLES = (6, 8, 10, 12, 16, 40)


def main(nulls: int = 1000, planted: int = 400) -> None:
    found: dict[str, Any] = {}
    sys.path.insert(0, str(TRIALS))  # the trials are no package: the tests import them by name
    cases, trial = (importlib.import_module(name) for name in ("cases", "trial"))
    for group, n in ((cases.NULLS, nulls), (cases.OPEN, nulls), (cases.PLANTED, planted)):
        for name, case in group.items():
            rates = trial.rates(case.run(range(n)))
            found[name] = {"tool": case.tool, "what": case.what, "kind": case.kind, **rates}
    lone = {str(n): most_cells(n) for n in EXAMPLES}
    if "--table" in sys.argv:
        print(tables(found, lone))
    else:
        show("calibration", {**found, "cells_for_one_effect": lone})


def most_cells(n: int) -> int:
    """Among how many cells the sign flips of n examples can tell a single sure effect from chance."""
    few, many = 0, 1
    while many - few > 1 or called(many, n):
        if called(many, n):
            few, many = many, 2 * many
        elif called((few + many) // 2, n):
            few = (few + many) // 2
        else:
            many = (few + many) // 2
    return few


def called(cells: int, n: int) -> bool:
    """Whether one cell whose effect is 1 in all of n examples is called an effect among others of 0."""
    after = torch.zeros(cells, n, dtype=torch.float64)
    after[0] = 1.0
    found = effects_result("lone", after, torch.zeros(n).double(), {"cell": range(cells)}, {})
    return float(found.extra["p_value"][0]) <= 0.05


def tables(found: dict[str, Any], lone: dict[str, int]) -> str:
    """Tables in Markdown: false positives, misses, and the fewest examples."""
    by_kind = {
        kind: [each for each in found.values() if each["kind"] == kind]
        for kind in ("null", "open", "planted")
    }
    quiet = ["| tool | what is true | networks with a false positive | cells, before correction |", _line(4)]
    columns = ("crying", "alone")
    quiet += [_row(each, columns) for each in by_kind["null"]]
    loud = ["| tool | what is true | networks with a call | cells, before correction |", _line(4)]
    loud += [_row(each, columns) for each in by_kind["open"]]
    planted = ["| tool | what is planted | missed | false among what is called |", _line(4)]
    planted += [_row(each, ("missed", "false")) for each in by_kind["planted"]]
    few = [f"| examples | {' | '.join(lone)} |", _line(1 + len(lone))]
    few += [f"| cells | {' | '.join(map(str, lone.values()))} |"]
    return "\n\n".join("\n".join(lines) for lines in (quiet, loud, planted, few))


def _line(columns: int) -> str:
    return "|" + "---|" * columns


def _row(each: dict[str, Any], columns: tuple[str, str]) -> str:
    cells = [_percent(each[column]) for column in columns]
    return f"| {each['tool']} | {each['what']} | {' | '.join(cells)} |"


def _percent(share: dict[str, Any] | None) -> str:
    if share is None:
        return "–"
    rate, low, high = (f"{100 * share[name]:.1f}" for name in ("rate", "low", "high"))
    return f"{rate} % [{low}, {high}], n {share['n']}"


if __name__ == "__main__":
    main()
