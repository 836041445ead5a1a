"""The report: claims, figures and provenance on one page that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from mechinterp.formatting import format_interval, format_number
from mechinterp.result import Claim, Result


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
    """One self-contained HTML page; plotly's code is in it once."""
    from plotly.offline import get_plotlyjs

    loader = jinja2.FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text())
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.globals.update(number=format_number, interval=format_interval, draw=_draw)
    return page.get_template("report.html.j2").render(
        title=title,
        summary=summary,
        claims=list(claims),
        sections=list(sections),
        environment=environment,
        plotlyjs=get_plotlyjs(),
    )


def _draw(result: Result) -> str:
    """A figure's title as a caption, which wraps on a narrow screen, and the figure below it."""
    figure = result.figure()
    caption = jinja2.filters.escape(figure.layout.title.text)
    top = figure.layout.margin.t
    figure.update_layout(title=None, margin={"t": max(28, top - 28), "l": 56, "r": 12})
    settings = {"responsive": True, "displayModeBar": False}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=settings)
    return f"<figcaption>{caption}</figcaption>{html}"
