"""What every study has in common: it ends in a table of claims, on screen, as JSON and as a page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechinterp.report import Section, report
from mechinterp.result import Claim, Result
from mechinterp.runs import Run, environment

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The end of a study.

    Args:
        study: its name.
        claims: the product.
        sections: the results, in the order in which to read them.
        metrics: headline numbers for ``mechinterp runs list``.
        seconds: wall time of the whole study.
    """

    study: str
    title: str
    summary: str
    claims: Sequence[Claim]
    sections: Sequence[Section]
    metrics: dict[str, Any]
    seconds: float
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def results(self) -> list[Result]:
        """All results."""
        return [result for section in self.sections for result in section.results]

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "study": self.study,
            "seconds": round(self.seconds, 2),
            "environment": self.environment,
            "claims": [claim.to_json() for claim in self.claims],
        }

    def save(self, run: Run) -> Path:
        """Write results, claims, report and metrics; returns the report's path."""
        run.save_results(self.results)
        run.save_claims(self.claims)
        page = run.save_report(report(self.title, self.summary, self.claims, self.sections, self.environment))
        run.finish({**self.metrics, "seconds": round(self.seconds, 2)})
        return page


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.began
