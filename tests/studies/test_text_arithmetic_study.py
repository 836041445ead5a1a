"""The study of arithmetic as text in miniature, from the command line on; its grid, here and on a cluster."""

import json
from dataclasses import replace

import numpy as np
import pytest
from figure_axes import unnamed
from withdrawn_claims import standing

from mechinterp import cli
from mechinterp.runs import Run
from mechinterp.studies.text_arithmetic import TextArithmeticStudy, TextGrid, grid, networks, residues, sums
from mechinterp.studies.text_arithmetic import scale as room
from mechinterp.studies.text_arithmetic.anatomy import Anatomy
from mechinterp.training import Recipe

CLAIMS = {
    "sum_learned", "sum_linearly_readable", "sum_direction_causes", "leace_removes_more_than_one_direction",
    "published_modk_unlearned", "residue_learned", "residue_is_circular", "residue_directions_cause",
    "nonlinear_adds_over_linear", "scale_trend",
}  # fmt: skip
RESULTS = {
    "network_scores", "score_curves", "sum_map", "sum_erasure", "sum_erasure_first", "sum_heads",
    "fourier_probe", "period_probe", "residue_readers", "erasure_curve", "residue_heads", "attention_entropy",
    "scale_trends", "sum_periods", "sum_attention", "difference_erasure_first", "sum_curve",
    "probe_of_published",
    "erasure_curve_first",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Small networks trained for two steps, probed on 400 problems by the quicker readers."""
    recipe = Recipe(steps=2, batch_size=8, eval_every=1)
    for name in networks.TEXT_ARITHMETIC:
        monkeypatch.setitem(networks.TEXT_ARITHMETIC, name, recipe)
    build = networks.text_arithmetic
    monkeypatch.setattr(
        networks,
        "text_arithmetic",
        lambda task, **changes: build(task, d_model=16, n_heads=2, d_mlp=16, **changes),
    )
    for name in set(residues.READERS) - {"ridge", "MLP, 256", "logistic"}:
        monkeypatch.delitem(residues.READERS, name)
    monkeypatch.setattr(residues, "WAVES", 2)
    monkeypatch.setattr(sums, "WAVES", 2)
    monkeypatch.setattr(Anatomy.of.__func__, "__defaults__", (400,))
    small = TextGrid(n_layers=(1, 2), d_model=(8,), n_heads=2, seeds=2, steps=2, max_operand=60, n_test=100)
    monkeypatch.setattr(TextArithmeticStudy, "grid", property(lambda self: small))


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_the_command_gives_every_claim_and_goes_on_from_what_it_has(quick, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["study", "text-arithmetic", "--k", "23", "--max-operand", "60", "--seeds", "1"]
    for _ in range(2):
        assert cli.main([*words, "--json", "--out", str(out)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {claim["id"] for claim in told["claims"]} == CLAIMS
    verdicts = standing("text-arithmetic", {claim["id"]: claim["verdict"] for claim in told["claims"]})
    assert verdicts["sum_learned"] == verdicts["residue_learned"] == "fails"
    assert verdicts["residue_directions_cause"] == verdicts["sum_direction_causes"] == "untested"
    assert verdicts["published_modk_unlearned"] == "untested"  # its control has not learned either
    run = Run.open(out)
    assert set(run.results) == RESULTS
    assert unnamed(run.results.values()) == set()


@pytest.mark.parametrize(("options", "message"), [(["--k", "19"], "k >= 20"), (["--seeds", "0"], "1 seed")])
def test_studies_that_cannot_be_are_refused(options, message, tmp_path, capsys):
    assert cli.main(["study", "text-arithmetic", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


SMALL = TextGrid(n_layers=(1, 2), d_model=(8, 16), n_heads=2, seeds=1, steps=3, max_operand=60, n_test=100)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_network_of_a_grid_is_trained_once(workers, tmp_path):
    told = []
    found = grid(SMALL, tmp_path, workers=workers, told=lambda *words: told.append(words))
    assert sorted(name for name, _, _ in told) == sorted(SMALL.settings())
    assert [done for _, done, _ in told] == [1, 2, 3, 4]
    assert dict(found.values.sizes) == {"n_layers": 2, "d_model": 2, "seed": 1, "measure": 6}
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("metrics.json")}
    again = grid(SMALL, tmp_path, told=lambda *words: pytest.fail("nothing was left to do"))
    assert again == found
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("metrics.json")} == times


def test_a_grid_goes_on_with_what_is_left(tmp_path, monkeypatch):
    whole, do = grid(SMALL, tmp_path / "whole"), room.do

    def pressed(cell, folder, **options):
        if cell.d_model == 16:
            raise KeyboardInterrupt
        do(cell, folder, **options)

    with monkeypatch.context() as patched:
        patched.setattr(room, "do", pressed)
        with pytest.raises(KeyboardInterrupt):
            grid(SMALL, tmp_path / "cut")
    left = [name for name in SMALL.settings() if not Run(tmp_path / "cut" / name).finished]
    done: list[str] = []
    again = grid(SMALL, tmp_path / "cut", told=lambda name, *_: done.append(name))
    assert done == left
    assert np.array_equal(again.values, whole.values)


def test_a_folder_with_runs_of_another_recipe_is_refused(tmp_path, monkeypatch):
    one = replace(SMALL, n_layers=(1,), d_model=(8,))
    grid(one, tmp_path)
    monkeypatch.setitem(room.TEXT_ARITHMETIC, "fast", replace(room.TEXT_ARITHMETIC["fast"], lr=0.5))
    with pytest.raises(ValueError, match=r"these settings, got one of \{'recipe'"):
        grid(one, tmp_path)


def test_a_folder_with_runs_of_other_settings_is_refused(tmp_path):
    grid(replace(SMALL, n_layers=(1,), d_model=(8,)), tmp_path)
    with pytest.raises(ValueError, match=r"these settings, got one of {'steps': 3"):
        grid(replace(SMALL, n_layers=(1,), d_model=(8,), steps=4), tmp_path)


def test_trends_are_read_off_planted_errors():
    config = replace(SMALL, n_layers=(1, 2, 4), d_model=(8, 16, 32), seeds=2, max_operand=99, n_test=200)
    planted = {
        name: dict.fromkeys(room.MEASURES, 9.0)
        | {"r2": 1.0, "rmse": 10 ** (1 - 0.5 * np.log2(cell.d_model) - 0.3 * np.log2(cell.n_layers))}
        for name, cell in config.settings().items()
    }
    found = room.scale(config, planted)
    np.testing.assert_allclose(found.extra["slopes"].sel(scale="width"), -0.5, atol=1e-9)
    np.testing.assert_allclose(found.extra["slopes"].sel(scale="layers"), -0.3, atol=1e-9)
    np.testing.assert_allclose(found.extra["untrained slopes"], 0.0, atol=1e-9)
    assert found.provenance["networks that learned"] == "18 of 18"
    alone = room.scale(replace(config, n_layers=(1,)), planted)
    assert np.isnan(alone.extra["slopes"].sel(scale="layers")).all()
    narrow = {name: {**one, "r2": one["r2"] * ("width-8_" not in name)} for name, one in planted.items()}
    wild = {name: {**one, "rmse": 1e9} for name, one in narrow.items() if one["r2"] == 0}
    few = room.scale(config, narrow | wild)
    np.testing.assert_allclose(few.extra["slopes"].sel(scale="width"), -0.5, atol=1e-9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": ()}, "at least one each"),
        ({"steps": 0}, "at least one each"),
        ({"n_heads": 3}, "share evenly"),
        ({"n_layers": (1, 1)}, "name each once"),
        ({"n_test": 20}, "four for each dimension"),
    ],
)
def test_grids_that_cannot_be_are_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        grid(replace(SMALL, **fields), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_the_command_sweeps_and_says_what_it_found(tmp_path, capsys):
    words = [
        "sweep", "text-arithmetic", "--n-layers", "1", "--d-model", "8", "16", "--n-heads", "2",
        "--seeds", "1",
        "--steps", "2", "--max-operand", "60", "--n-test", "100", "--out", str(tmp_path / "sweep"),
    ]  # fmt: skip
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert "2/2" in told.err
    assert "scale_trends" in told.out
    assert Run.open(tmp_path / "sweep").metrics["least_rmse"] > 0
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "scale_trends"
