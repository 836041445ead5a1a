"""``mechinterp study``: train, take apart and judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mechinterp.cli.names import STUDIES, folder_name, options_of, watch


@dataclass(frozen=True, kw_only=True)
class StudyOutput:
    """Where a study's results go."""

    out: Path | None = None
    """Run folder; by default one below ``runs/`` named after the study and its options."""

    json: bool = False
    """Print one JSON object instead of the table, and no progress."""


def study(words: list[str]) -> int:
    """Run the study that is named first."""
    name, module, config, output = options_of("study", words, STUDIES, StudyOutput)
    out = output.out or Path("runs") / folder_name(name, config)
    report = module.study(config, out, module.silent if output.json else watch)
    if output.json:
        print(json.dumps(report.to_json(), allow_nan=False))
        return 0
    print(f"\n{report.title}\n{report.summary}\n")
    for claim in report.claims:
        print(claim)
    print(f"\n{report.seconds:.1f} s. Report: {out / 'report.html'}")
    return 0
