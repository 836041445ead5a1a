"""The report: claims, figures and provenance on one page that needs no network."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from mechinterp.formatting import format_interval, format_number
from mechinterp.result import Claim, Result, result_text


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, what to make of it (plain sentences), and the results to draw."""

    heading: str
    text: str
    results: Sequence[Result] = ()


def report(
    title: str,
    summary: str,
    claims: Iterable[Claim],
    sections: Iterable[Section],
    environment: Mapping[str, Any],
) -> str:
    """One self-contained HTML page; plotly's code is in it once.

    A result that has no figure, or whose figure fails, is a table: what was measured is reported in any case.
    """
    from plotly.offline import get_plotlyjs

    loader = jinja2.FunctionLoader(
        lambda name: resources.files(__package__).joinpath(name).read_text("utf-8")
    )
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    draw = importlib.import_module("mechinterp.figures.html").in_report  # figures know results, as in Result
    page.globals.update(text=result_text, number=format_number, interval=format_interval, draw=draw)
    return page.get_template("report.html.j2").render(
        title=title,
        summary=summary,
        claims=list(claims),
        sections=list(sections),
        environment=environment,
        plotlyjs=get_plotlyjs(),
    )
