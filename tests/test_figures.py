"""Every known result is drawn, with named axes and honest scales."""

import base64
import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
import xarray as xr
from figure_axes import outer_axes
from plotly.offline import get_plotlyjs

from mechinterp import figures
from mechinterp.analysis.transitions import compare_transitions
from mechinterp.figures.html import title_lines
from mechinterp.formatting import format_number
from mechinterp.result import Result

DIVERGING = "rgb(5,48,97)"  # where plotly's RdBu_r begins
RNG = np.random.default_rng(0)


def array(shape, dims, **coords):
    return xr.DataArray(RNG.random(shape), dims=dims, coords=coords, attrs={"units": "share"})


def over_frequencies(name):
    values = array(4, "frequency", frequency=[1, 2, 3, 4])
    return Result(
        name=name, values=values, trivial=0.25, control=values / 2, control_kind="untrained network"
    )


def over_steps(name, measures, **extra):
    values = array((len(measures), 3), ("measure", "step"), measure=measures, step=[0, 10, 20])
    return Result(name=name, values=values, trivial=1.0, control=values, control_kind="null", extra=extra)


def circles(n=3, p=13):
    keys = list(range(1, n + 1))
    return Result(
        name="circles",
        values=array(n, "frequency", frequency=keys),
        extra={
            "planes": array((n, p, 2), ("frequency", "number", "axis"), frequency=keys),
            "roundness": array(
                (2, n), ("network", "frequency"), network=["trained", "untrained"], frequency=keys
            ),
        },
    )


def neurons(scale=1.0):
    shares = array((4, 20), ("frequency", "neuron"), frequency=[1, 2, 3, 4])
    return Result(
        name="neuron_frequencies", values=scale * shares / shares.sum("frequency"),
        control=array(20, "neuron"), control_kind="untrained network",
    )  # fmt: skip


def clusters():
    names = [2, 5]
    values = array(
        (2, 2, 2), ("operation", "cluster", "frequency"),
        operation=["ablate", "patch"], cluster=names, frequency=names,
    )  # fmt: skip
    return Result(name="neuron_clusters", values=values, control=-values, control_kind="random neurons")


def sufficiency():
    measures = ["full_test", "restricted_test", "full_train", "excluded_train"]
    values = array(4, "measure", measure=measures)
    return Result(name="sufficiency", values=values, trivial=2.0, control=values, control_kind="random")


def phase():
    values = array(
        (3, 2, 2), ("measure", "weight_decay", "train_fraction"),
        measure=["steps", "key_frequencies", "test_score"], weight_decay=[0.0, 1.0],
        train_fraction=[0.3, 0.5],
    )  # fmt: skip
    values[0, 0] = np.nan
    return Result(name="decay_and_fraction_phase", values=values, trivial=0.1)


def transitions(heads=3, symbols=2, **provenance):
    matrices = torch.randn(heads, 3, 3, generator=torch.Generator().manual_seed(0))
    machine = torch.eye(3)[torch.tensor([[0, 1, 2], [1, 2, 0]])[:symbols]]
    return compare_transitions(
        matrices, machine, untrained=matrices / 2, draws=20, provenance={"basis": "states", **provenance}
    )


def agreement_by(axis):
    x = array((2, 3), ("answer", axis), answer=["class", "best token"], **{axis: [1, 2, 3]})
    extra = {"low": x - 0.1, "high": x + 0.1}
    told = {"trained up to": 2} if axis == "length" else {}
    return Result(
        name=f"agreement_by_{axis}", values=x, trivial=0.3, control=x / 2, control_kind="untrained network",
        extra=extra, provenance=told,
    )  # fmt: skip


def swap():
    x = array(3, "later", later=[0, 1, 2])
    extra = {"random": x / 3, "low": x - 0.1, "high": x + 0.1}
    return Result(name="state_swap", values=x, control=x / 2, control_kind="a third state", extra=extra)


def along_training():
    coords = {"basis": ["raw", "state_basis"], "step": [0, 10, 90]}
    gradient = array((2, 3), ("component", "step"), component=["W_E", "W_V"], step=[0, 10, 90])
    return Result(
        name="comparison_along_training", values=array((2, 3), ("basis", "step"), **coords),
        control=array(2, "basis", basis=coords["basis"]), control_kind="random automata",
        extra={"gradient": gradient},
    )  # fmt: skip


def language_sweep():
    settings, measures = ["d_model=8", "d_model=16", "n_heads=1"], ["class_acc", "string_acc"]
    return Result(
        name="language_sweep",
        values=array((3, 2), ("setting", "measure"), setting=settings, measure=measures),
        control=array(3, "setting", setting=settings), control_kind="best constant class",
        extra={"axis": xr.DataArray(["d_model", "d_model", "n_heads"], dims="setting")},
    )  # fmt: skip


PROGRESS = ["train_loss", "test_loss", "restricted_loss", "excluded_loss", "gini", "weight_norm"]
CURVES = ["train_loss", "test_loss", "train_score", "test_score"]
SPECTRA = ("embedding_spectrum", "readout_spectrum", "logit_frequencies")
RESULTS = {
    "training_curves": over_steps("training_curves", CURVES, gap=xr.DataArray([3.0, 12.0], dims="end")),
    "progress": over_steps("progress", PROGRESS),
    **{name: over_frequencies(name) for name in SPECTRA},
    "circles": circles(),
    "neuron_frequencies": neurons(),
    "neuron_clusters": clusters(),
    "sufficiency": sufficiency(),
    "decay_and_fraction_phase": phase(),
    "transitions": transitions(),
    "raw_transitions": replace(transitions(), name="raw_transitions"),
    "state_transitions": replace(transitions(), name="state_transitions"),
    **{f"agreement_by_{axis}": agreement_by(axis) for axis in ("length", "position", "state")},
    "state_swap": swap(),
    "comparison_along_training": along_training(),
    "language_sweep": language_sweep(),
}  # fmt: skip
EDGES = {
    "a network that never generalised": replace(
        RESULTS["training_curves"], extra={"gap": xr.DataArray([3.0, np.nan], dims="end")}
    ),
    "no control": replace(RESULTS["sufficiency"], control=None),
    "a spectrum without control": replace(RESULTS["embedding_spectrum"], control=None),
    "progress without control": replace(RESULTS["progress"], control=None),
    "one ring": circles(n=1),
    "more heads than fit": transitions(heads=12),
    "chosen heads": transitions(heads=12, visualized=[11, 2]),
    "one head": transitions(heads=1),
    "more rings than a page holds": circles(n=40, p=83),
    "no neuron of one frequency": neurons(scale=0.1),
    "a grid in which nothing groks": replace(phase(), values=phase().values * np.nan),
}  # fmt: skip


def test_every_result_that_has_a_figure_is_tried_here_or_with_its_analysis():
    others = set(figures.known()) - set(RESULTS)
    here = Path(__file__).parent  # a study's miniature draws its results into a report
    rooms = ("analysis", "constructions", "studies")
    written = "".join(path.read_text() for room in rooms for path in here.glob(f"{room}/*.py"))
    assert {name for name in others if f'"{name}"' not in written} == set()


@pytest.mark.parametrize("result", [*RESULTS.values(), *EDGES.values()], ids=[*RESULTS, *EDGES])
def test_results_are_drawn_with_a_title_and_survive_html(result):
    figure = result.figure()
    assert figure.layout.title.text
    assert len(figure.data) > 0
    assert "Plotly.newPlot" in figure.to_html(include_plotlyjs=False)


@pytest.mark.parametrize("name", RESULTS)
def test_outer_axes_are_named(name):
    axes = outer_axes(RESULTS[name].figure())
    assert len(axes) >= 2
    assert all(axis.title.text for axis in axes)


@pytest.mark.parametrize("name", RESULTS)
def test_diverging_colours_have_their_middle_at_zero(name):
    for trace in RESULTS[name].figure().data:
        scale = getattr(trace, "colorscale", None)
        if scale and scale[0][1].replace(" ", "") == DIVERGING:
            assert (trace.zmin + trace.zmax, trace.zmid) == (0, 0)


def test_the_clusters_use_the_diverging_colours():
    assert clusters().figure().data[0].colorscale[0][1].replace(" ", "") == DIVERGING


def test_the_gap_is_shaded_only_where_there_is_one():
    assert len(RESULTS["training_curves"].figure().layout.shapes) > 0
    assert len(EDGES["a network that never generalised"].figure().layout.shapes) == 0


def test_of_many_rings_the_strongest_are_drawn():
    result = EDGES["more rings than a page holds"]
    figure = result.figure()
    strongest = result.values.frequency.values[np.argsort(result.values.values)[-12:]]
    drawn = {int(text.text.split("<br>")[0].removeprefix("k = ")) for text in figure.layout.annotations}
    assert drawn == set(strongest.tolist())
    assert "12 strongest of 40" in figure.layout.title.text


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (30, 20)], ids=str)
@pytest.mark.parametrize("control", ["same", "fewer dims", "other dims", None])
def test_a_result_that_no_figure_knows_is_a_table_of_its_values(shape, control):
    values = array(shape, ("layer", "head")[: len(shape)])
    controls = {"same": values / 2, "fewer dims": values[0] if shape and shape[0] else None,
                "other dims": array(7, "draw"), None: None}  # fmt: skip
    result = Result(
        name="of_my_own", values=values, trivial=0.25, control=controls[control],
        control_kind="random heads", interval=(0.125, 0.5),
    )  # fmt: skip
    figure = result.figure()
    title = figure.layout.title.text
    assert "of_my_own" in title
    assert "trivial 0.25; 95 % interval [0.125, 0.5]" in title
    columns = figure.data[0].cells["values"]
    assert ["<b>share</b>" in figure.data[0].header["values"], len(columns[-1])] == [
        True,
        min(200, values.size),
    ]
    if values.size > 200:
        assert "the first 200 of 600 values" in title
    if controls[control] is None:
        assert "no control" in title
    elif control == "other dims":
        assert "control (random heads) of other dimensions" in title
    elif values.size:
        own = values.values.ravel()[0] / 2 if control == "same" else values.values[0, 0]
        assert columns[-1][0] == format_number(float(own))


def test_texts_truths_and_what_is_not_finite_are_cells():
    for x, cells in (
        (["a<b", "c"], ["a&lt;b", "c"]),
        ([True, False], ["True", "False"]),
        ([np.nan, -np.inf], ["nan", "-inf"]),
    ):
        result = Result(name="odd <i>", values=xr.DataArray(x, dims="<br>"))
        figure = result.figure()
        assert list(figure.data[0].cells["values"][1]) == cells
        assert figure.data[0].header["values"][0] == "<b>&lt;br&gt;</b>"
        assert title_lines(figure)[0] == "odd <i>"
        assert "odd &lt;i&gt;" in result._repr_html_()


def test_a_title_in_words_has_no_markup():
    figure = go.Figure(layout_title_text="One<br><sup>two <b>bold</b> a &lt; b</sup><BR/>x < y > z")
    assert title_lines(figure) == ["One", "two bold a < b", "x < y > z"]
    assert title_lines(go.Figure()) == []


def test_every_output_of_a_notebook_is_drawn_alone_and_fetches_nothing():
    outputs = [RESULTS[name]._repr_html_() for name in ("circles", "progress", "circles")]
    for output in outputs:
        (packed,) = re.findall(r'unpack\("([A-Za-z0-9+/=]+)"\)', output)
        assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
        assert output.count("Plotly.newPlot(") == 1
        assert output.count("<script>") == output.count("</script>") == 1
        assert "http" not in output.replace(packed, "").split("<pre>")[0]
        assert len(output) < 2.1e6
    assert len({re.search('id="([^"]+)"', output).group(1) for output in outputs}) == 3
