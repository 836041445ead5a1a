"""``mechinterp study``: train, take apart and judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mechinterp.cli.names import STUDIES, folder_name, name_of, watch, with_output


@dataclass(frozen=True, kw_only=True)
class StudyOutput:
    """Where a study's results go."""

    out: Path | None = None
    """Run folder; by default one below ``runs/`` named after the study and its options."""

    json: bool = False
    """Print one JSON object instead of the table, and no progress."""


def study(words: list[str]) -> int:
    """Run the study that is named first."""
    import tyro

    name = name_of(words, STUDIES, "study")
    room, config_class = STUDIES[name]
    module = import_module(f"mechinterp.studies.{room}")
    config_type = getattr(module, config_class)
    both = tyro.cli(
        tyro.conf.OmitArgPrefixes[with_output(config_type, StudyOutput)],
        args=words[1:],
        prog=f"mechinterp study {name}",
    )
    config, output = both.config, both.output
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
