"""A result is not separated from its baseline, control and provenance; a claim is one judged sentence."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mechinterp.formatting import format_interval, format_number
from mechinterp.records import array_from_json, array_to_json
from mechinterp.result import Claim, Result, claims_table, verdict


def strict(record):
    """To JSON text and back as a browser reads it, where NaN and Infinity are errors."""
    return json.loads(json.dumps(record, allow_nan=False))


def spectrum(**changes):
    frequency = {"frequency": [1, 2, 3]}
    made = Result(
        name="embedding_spectrum",
        values=xr.DataArray([0.1, 0.2, 0.7], dims="frequency", coords=frequency, attrs={"units": "share"}),
        trivial=1 / 3,
        control=xr.DataArray(np.float32([0.3, 0.3, 0.4]), dims="frequency", coords=frequency),
        control_kind="untrained network",
        interval=(0.6, 0.8),
        provenance={"seed": 4, "split": "all pairs"},
        extra={"gap": xr.DataArray([np.nan, 25.0], dims="end")},
    )
    return replace(made, **changes)


def claim(**changes):
    made = Claim(
        id="few_key_frequencies", statement="At most 10", value=5, trivial=56, control=30,
        control_kind="untrained network", interval=(4.0, 6.5), interval_over="seeds", verdict="holds",
        source="Nanda et al. (2023)",
    )  # fmt: skip
    return replace(made, **changes)


ODD_ARRAYS = {
    "not finite": xr.DataArray([[np.nan, np.inf], [-np.inf, 1e-300]], dims=("a", "b")),
    "nothing": xr.DataArray(np.zeros((0, 3)), dims=("a", "b")),
    "one": xr.DataArray(2.5),
    "whole": xr.DataArray([1, 2], dims="a", coords={"a": ["x", "yes"]}),
    "float32": xr.DataArray(np.float32([0.1, np.inf]), dims="a", coords={"a": [np.inf, 0.5]}),
    "truth": xr.DataArray([True, False], dims="a", attrs={"units": "yes or no", "n": np.int64(3)}),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_results_survive_json_and_files(tmp_path, name):
    result = spectrum(values=ODD_ARRAYS[name], extra={"more": ODD_ARRAYS[name]}, control=None)
    again = Result.from_json(strict(result.to_json()))
    assert again == result
    xr.testing.assert_identical(again.values, result.values)
    xr.testing.assert_identical(again.extra["more"], result.extra["more"])
    assert again.values.dtype == result.values.dtype
    result.save(tmp_path / "a.json")
    assert Result.load(tmp_path / "a.json") == result


@given(npst.arrays(np.float64, npst.array_shapes(max_dims=3, min_side=0), elements=st.floats()))
@settings(deadline=None, max_examples=50)
def test_any_array_survives_json(values):
    array = xr.DataArray(values, dims=[f"d{i}" for i in range(values.ndim)])
    xr.testing.assert_identical(array_from_json(strict(array_to_json(array))), array)


def test_an_array_that_could_not_be_read_back_is_not_written(tmp_path):
    values = xr.DataArray(np.array(["a", 1], dtype=object), dims="x")
    with pytest.raises(ValueError, match="numbers or text, got object"):
        spectrum(values=values).save(tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_equal_results_are_equal_in_every_part():
    assert spectrum() == spectrum()
    for change in ({"trivial": 0.0}, {"interval": None}, {"provenance": {}}, {"control_kind": "other"}):
        assert spectrum() != spectrum(**change)
    assert spectrum() != spectrum(values=spectrum().values + 1e-9)


def test_a_result_prints_all_it_is_to_be_compared_with():
    text = str(spectrum())
    for part in ("embedding_spectrum", "share", "mean 0.3333", "max 0.7", "0.3333", "untrained network",
                 "[0.6, 0.8]", "seed 4", "split all pairs"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0, np.nan, 3.0], "mean 2, min 1, max 3, undefined 1 of 3"),
        ([np.nan, np.nan], "nothing, undefined 2 of 2"),
        ([], "nothing"),
        ([0.25], "0.25"),
    ],
)
def test_values_that_are_undefined_are_counted(values, text):
    assert f"value    {text}\n" in str(spectrum(values=xr.DataArray(values, dims="x")))


def test_unlike_measures_are_not_averaged():
    coords = {"measure": ["accuracy", "steps"]}
    values = xr.DataArray([[0.5, 1.0], [100, 300]], dims=("measure", "network"), coords=coords)
    text = str(spectrum(values=values, control=values[:, 0]))
    assert "value    accuracy: mean 0.75, min 0.5, max 1\n           steps: mean 200, min 100" in text
    assert "control  accuracy: 0.5\n           steps: 100  (" in text


@pytest.mark.parametrize("make", [spectrum, claim])
def test_a_control_says_which_null_it_is(make):
    with pytest.raises(ValueError, match="which null"):
        make(control_kind="")
    assert make(control_kind="", control=None).control is None


@pytest.mark.parametrize("thing", [spectrum(), claim()])
def test_results_and_claims_are_frozen(thing):
    with pytest.raises(FrozenInstanceError):
        thing.trivial = 0.0


def test_a_notebook_shows_the_figure_and_the_numbers():
    html = spectrum(control_kind="shuffled <b>labels</b>")._repr_html_()
    assert "Plotly.newPlot" in html
    assert "mean 0.3333" in html
    assert "&lt;b&gt;" in html.split("<pre>")[-1]
    assert "http-equiv" not in html


def test_a_result_without_a_figure_of_its_own_still_shows_its_numbers():
    html = spectrum(name="of_my_own")._repr_html_()
    assert "of_my_own" in html
    assert "Plotly" not in html
    assert html.count("<tr>") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": None}, "values of a Result"),
        ({"values": {"dims": ["a"]}}, "values of a Result"),
        ({"values": {**array_to_json(xr.DataArray([1.0])), "dtype": "O"}}, "dtype"),
        ({"values": {**array_to_json(xr.DataArray([1.0])), "shape": [7]}}, "values of a Result"),
        ({"extra": []}, "extra of a Result"),
        ({"interval": [1, 2, 3]}, "interval of a Result"),
        ({"trivial": "low"}, "trivial of a Result"),
        ({"name": 3}, "name of a Result"),
        ({"colour": "red"}, "expected a Result with the fields"),
    ],
)
def test_a_record_that_is_not_a_result_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Result.from_json({**spectrum().to_json(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "many"}, "value of a Claim"),
        ({"verdict": "proven"}, "verdict of a Claim.*got 'proven'"),
        ({"interval": 3}, "interval of a Claim"),
        ({"statement": None}, "statement of a Claim"),
        ({"holds_by_seed": [1]}, "holds_by_seed of a Claim"),
        ({"values_by_seed": ["many"]}, "values_by_seed of a Claim"),
        ({"colour": "red"}, "expected a Claim with the fields"),
    ],
)
def test_a_record_that_is_not_a_claim_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Claim.from_json({**claim().to_json(), **change})


@pytest.mark.parametrize("record", [None, [], "text", {}, {"id": "x"}])
@pytest.mark.parametrize("kind", [Result, Claim])
def test_a_record_of_another_shape_is_refused(kind, record):
    with pytest.raises(ValueError, match=f"expected a {kind.__name__} with the fields"):
        kind.from_json(record)


def test_a_claim_says_what_each_seed_says():
    made = claim(values_by_seed=(0.25, None, 4.0), holds_by_seed=(False, None, True))
    assert (made.seeds, made.by_seed) == ("1 of 2 seeds, 1 not asked", "0.25, –, 4")
    assert "by seed 0.25, –, 4 (holds in 1 of 2 seeds, 1 not asked)" in str(made)
    for part in ("(1 of 2 seeds, 1 not asked)", "by seed 0.25, –, 4"):
        assert part in claims_table([made])
    assert (claim().seeds, claim().by_seed) == ("", "")


def test_claims_survive_json():
    seeds = {"values_by_seed": (0.25, None), "holds_by_seed": (True, None)}
    for made in (claim(), claim(interval=None, control=None, trivial=None, value=None), claim(**seeds)):
        assert Claim.from_json(strict(made.to_json())) == made


def test_a_claims_numbers_that_are_not_finite_become_null():
    record = strict(claim(value=float("nan"), control=float("inf"), interval=(-float("inf"), 2.0)).to_json())
    assert (record["value"], record["control"], record["interval"]) == (None, None, [None, 2.0])
    assert Claim.from_json(record).interval == (None, 2.0)
    assert "value –" in str(Claim.from_json(record))


@pytest.mark.parametrize(
    ("holds", "learned", "said"),
    [(True, True, "holds"), (False, True, "fails"), (True, False, "untested"), (False, False, "untested")],
)
def test_only_a_network_that_learned_is_judged(holds, learned, said):
    assert verdict(holds, learned) == said


def test_the_table_of_claims_has_a_row_a_claim_and_breaks_at_no_sign():
    table = claims_table([claim(), claim(id="other", statement="P(a|b)\nis high", interval=None)])
    lines = table.splitlines()
    assert len(lines) == 4
    assert all(line.replace(r"\|", "").count("|") == 7 for line in lines)
    for part in ("`few_key_frequencies`: At most 10", "**holds**", "56", "30 (untrained network)",
                 "[4, 6.5] (seeds)"):  # fmt: skip
        assert part in lines[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (3, "3"),
        (3.0, "3"),
        (0.123456, "0.1235"),
        (1e9, "1e+09"),
        (float("nan"), "nan"),
        (-float("inf"), "-inf"),
    ],
)
def test_numbers_are_printed_to_four_digits(value, text):
    assert format_number(value) == text
    assert format_interval((value, 1)) == f"[{text}, 1]"
