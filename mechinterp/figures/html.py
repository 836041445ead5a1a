"""Figures and tables as HTML: for a notebook's cell and for a report."""

from __future__ import annotations

import base64
import gzip
import html
import re
import uuid
from collections.abc import Callable
from functools import cache

import plotly.graph_objects as go
import plotly.io
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from mechinterp.figures import known
from mechinterp.figures.table import tabulate
from mechinterp.result import Result

# All outputs of a page share a promise, so that the code is unpacked once. Loaders of modules are hidden from
# it meanwhile, since beside them it would not set its global name.
_DRAWN = """<div id="%(place)s" style="width: 100%%; min-height: %(height)spx"></div>
<script>
(() => {
  const unpack = async (packed) => {
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    const hidden = [window.define, window.module];
    window.define = window.module = undefined;
    document.head.appendChild(script);
    script.remove();
    [window.define, window.module] = hidden;
    return window.Plotly;
  };
  const place = document.getElementById("%(place)s");
  const loaded = typeof Plotly !== "undefined" ? Promise.resolve(Plotly) : unpack("%(packed)s");
  window.mechinterpPlotly = window.mechinterpPlotly || loaded;
  window.mechinterpPlotly
    .then((Plotly) => Plotly.newPlot(place, %(data)s, %(layout)s, {"responsive": true}))
    .catch((error) => { place.textContent = "not drawn: " + error; });
})();
</script>"""
_MARKUP = re.compile(r"</?(?:b|i|em|strong|s|u|sub|sup|span|a)(?:\s[^<>]*)?>", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def embed(figure: go.Figure) -> str:
    """A figure for a cell: interactive, or a picture if plotly's default renderer is ``"png"``.

    Each brings plotly's code, 2 MB when packed: a cell may be shown in a frame of its own, or after others
    were removed. A page unpacks it once. Nothing is fetched.
    """
    if "png" in plotly.io.renderers.default:
        picture = base64.b64encode(figure.to_image("png", width=960, scale=1)).decode()
        alt = html.escape(". ".join(title_lines(figure)) or "figure")
        return f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
    parts = figure.to_plotly_json()
    return _DRAWN % {
        "place": f"figure-{uuid.uuid4()}",
        "height": figure.layout.height or 450,
        "packed": _packed(),
        "data": to_json_plotly(parts["data"]),
        "layout": to_json_plotly(parts["layout"]),
    }


@cache
def _packed() -> str:
    """Plotly's code, compressed, in letters."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def title_lines(figure: go.Figure) -> list[str]:
    """A figure's title as lines of plain text, without plotly's markup."""
    lines = _BREAK.split(figure.layout.title.text or "")
    return [plain for line in lines if (plain := html.unescape(_MARKUP.sub("", line)).strip())]


def _caption(lines: list[str]) -> str:
    """A figure's caption: the first line, and the others small below it."""
    first, *others = map(html.escape, lines)
    return f"<figcaption>{first}{''.join(f'<br><small>{line}</small>' for line in others)}</figcaption>"


def table(result: Result) -> str:
    """A result's values, with its control, as a table."""
    made = tabulate(result)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in made.columns)
    rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in made.rows)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div style="max-height: 30em; overflow: auto"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def in_cell(result: Result) -> str:
    """A result for a cell: its figure, or a table where none is known or it cannot be drawn."""
    return _drawn(result, embed)


def in_report(result: Result) -> str:
    """A result for a page that has plotly's code: a caption, which wraps on a narrow screen, and the figure.

    Where no figure is known, or it cannot be drawn, a table.
    """

    def below(figure: go.Figure) -> str:
        lines = title_lines(figure) or tabulate(result).title
        top = 100 if figure.layout.margin.t is None else figure.layout.margin.t
        figure.update_layout(title=None, margin={"t": max(28, top - 28), "l": 56, "r": 12})
        settings = {"responsive": True, "displayModeBar": False}
        drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=settings)
        return f"<figure>{_caption(lines)}{drawn}</figure>"

    return _drawn(result, below)


def _drawn(result: Result, show: Callable[[go.Figure], str]) -> str:
    lines = tabulate(result).title
    if result.name in known():
        try:
            return show(result.figure())
        except Exception as error:  # what was computed is shown, whatever its figure expects
            lines = [*lines, f"no figure: {type(error).__name__}: {str(error)[:200]}"]
    return f"<figure>{_caption(lines)}{table(result)}</figure>"
