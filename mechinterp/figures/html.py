"""A figure as HTML for a notebook's cell."""

from __future__ import annotations

import base64
import html

import plotly.graph_objects as go
import plotly.io

_loaded: list[bool] = []


def embed(figure: go.Figure) -> str:
    """A figure for a cell: interactive, or a picture if plotly's default renderer is ``"png"``.

    The first interactive figure of a session brings plotly's code, 5 MB of it; later ones use what the
    first one loaded. Nothing is fetched.
    """
    if "png" in plotly.io.renderers.default:
        picture = base64.b64encode(figure.to_image("png", width=960, scale=1)).decode()
        alt = html.escape(figure.layout.title.text or "figure")
        return f'<img alt="{alt}" src="data:image/png;base64,{picture}">'
    page = figure.to_html(full_html=False, include_plotlyjs=not _loaded)
    _loaded.append(True)
    return page
