"""The report is one page that fetches nothing, says every claim, and lets no text be code."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from plotly.offline import get_plotlyjs

from mechinterp.report import Section, report
from mechinterp.result import Claim, Result

EVIL = '</script></pre><script>alert("x")</script><img src="http://evil.example/x.png">'
FETCHING = {"src", "href", "srcset", "data", "action", "poster", "background"}


class Page(HTMLParser):
    """Tags, and what of them a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.text, self.styles = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in FETCHING]

    def handle_data(self, data):
        inside = self.tags[-1] if self.tags else ""
        (self.styles if inside == "style" else self.text).append(data)


def result(kind="untrained network"):
    values = xr.DataArray(
        [0.1, 0.9], dims="frequency", coords={"frequency": [1, 2]}, attrs={"units": "share"}
    )
    return Result(
        name="embedding_spectrum", values=values, control=values, control_kind=kind, provenance={"seed": kind}
    )


def made(text="plain"):
    claims = [
        Claim(id="one", statement=f"It is {text}", value=1.5, trivial=0, control=3, control_kind=text,
              interval=(1.0, 2.0), interval_over=text, verdict="holds", source=text),
        Claim(id="two", statement="Nothing", value=None, verdict="untested"),
        Claim(id="three", statement="Something", value=float("nan"), verdict="fails"),
    ]  # fmt: skip
    sections = [
        Section(heading=text, text=text, results=[result(text), result()]),
        Section(heading="h", text="t"),
    ]
    return report(text, text, claims, sections, {"python": text, "packages": {"torch": "2"}})


@pytest.fixture(scope="module")
def page():
    return made()


def test_every_claim_is_there_with_its_verdict(page):
    rows = re.findall(r"<tr>\s*<td.*?</tr>", page, re.DOTALL)
    assert len(rows) == 3
    for row, words in zip(
        rows, (("one", "holds", "1.5", "[1, 2]"), ("two", "untested", "–"), ("three", "fails"))
    ):
        assert all(word in row for word in words)


def test_plotlys_code_is_there_once(page):
    code = get_plotlyjs()
    assert page.count(code) == 1
    assert page.count("Plotly.newPlot(") - code.count("Plotly.newPlot(") == 2


@pytest.mark.parametrize("text", ["plain", EVIL])
def test_a_browser_fetches_nothing(text):
    page = Page(made(text))
    assert page.fetched == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(page.tags)
    assert not any("url(" in style or "@import" in style for style in page.styles)


def test_text_is_never_code(page):
    evil = made(EVIL)
    assert "<script>alert" not in evil.replace(get_plotlyjs(), "")
    assert Page(evil).tags == Page(page).tags
    assert 'It is </script></pre><script>alert("x")' in "".join(Page(evil).text)


def test_the_numbers_and_their_origin_are_there(page):
    assert "embedding_spectrum: numbers and provenance" in page
    assert "mean 0.5, min 0.1, max 0.9" in page
    assert "seed untrained network" in page
    assert "python: plain" in page


def test_numbers_that_are_undefined_do_not_break_a_figure():
    values = xr.DataArray([np.nan, np.inf], dims="frequency", coords={"frequency": [1, 2]})
    odd = Result(name="embedding_spectrum", values=values)
    page = report("t", "s", [], [Section(heading="h", text="t", results=[odd])], {})
    figure = page.replace(get_plotlyjs(), "").split("Plotly.newPlot(")[1]
    assert "NaN" not in figure.split("</script>")[0]
    assert "Infinity" not in figure.split("</script>")[0]


def odd_results():
    """Results that no figure knows, that a figure does not expect, and of which there are two of one name."""
    known = result()
    cells = xr.DataArray(np.ones((30, 20)), dims=("layer", "head"))
    text = xr.DataArray(["a", EVIL], dims="x")
    return {
        "a name of its own": replace(known, name="embedding_spectrum_late"),
        "a name that is code": replace(known, name=EVIL),
        "a figure that fails": replace(known, name="circles"),
        "a figure that fails elsewhere": replace(known, name="ablation"),
        "the same name twice": known,
        "nothing": replace(known, values=xr.DataArray(np.zeros((0, 3)), dims=("a", "b")), control=None),
        "one number": replace(known, values=xr.DataArray(2.5), control=None),
        "a control of other dims": replace(known, control=cells),
        "many": replace(known, name="many", values=cells, control=cells[0]),
        "text": replace(known, name="text", values=text, control=None),
        "a text": replace(known, name="text", values=text[0], control=None),
        "text where numbers are drawn": replace(known, values=text, control=None),
        "truth": replace(known, name="truth", values=cells > 0, control=None),
        "axes that are code": replace(known, name="axes", values=cells.rename(head=EVIL), control=None),
        "units that are code": replace(known, values=known.values.assign_attrs(units=EVIL)),
        "not learned": replace(known, name="other", provenance={"learned": False}),
    }


ODD = odd_results()


@pytest.mark.parametrize("name", ODD)
def test_a_report_never_fails_and_shows_what_it_cannot_draw_as_a_table(name):
    odd, known = ODD[name], result()
    page = report("t", "s", [], [Section(heading="h", text="t", results=[known, odd])], {})
    page = page.replace(get_plotlyjs(), "")
    assert page.count("numbers and provenance") == 2
    assert page.count("<figcaption>") == page.count("<figure>") == 2
    drawn = page.count("Plotly.newPlot(") == 2
    for shown in (page.split("</details>")[1], odd._repr_html_()):
        assert ("<th>" in shown) != drawn
        assert "<script>alert" not in shown
        assert not {"img", "i"} & set(Page(shown).tags)


def test_captions_are_words():
    values = xr.DataArray([[0.5]], dims=("layer", "head"))
    effect = Result(
        name="ablation", values=values, trivial=1.0, control=values, control_kind="random",
        provenance={"what": "heads", "reference": "mean"},
    )  # fmt: skip
    page = report("t", "s", [], [Section(heading="h", text="t", results=[effect])], {})
    (caption,) = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert "<br><small>" in caption
    assert "&lt;" not in caption
    assert "sup" not in caption
