"""The study of in-context regression in miniature, from the command line on; verdicts on planted findings."""

import json
from dataclasses import replace

import pytest
import torch
from figure_axes import unnamed
from withdrawn_claims import standing

from mechinterp import cli, constructions
from mechinterp.analysis.gates import Gate
from mechinterp.runs import Run
from mechinterp.studies import linear_regression as room
from mechinterp.studies.linear_regression import networks, theory
from mechinterp.studies.linear_regression.anatomy import Anatomy, explained, read_off
from mechinterp.studies.linear_regression.claims import judge
from mechinterp.studies.linear_regression.losses import over_optimum
from mechinterp.studies.networks import Trained
from mechinterp.tasks import LinearRegression
from mechinterp.training import Fit, History, Recipe
from mechinterp.training.checkpoint import CheckpointSeries

CLAIMS = {
    "reaches_one_step_optimum",
    "weights_are_gradient_step",
    "sensitivities_match_gd",
    "softmax_is_kernel_smoother",
    "depth_is_more_steps",
    "approaches_ols_with_depth",
    "not_ols_at_depth_one",
    "extrapolates_in_context_length",
    "breaks_under_covariate_shift",
    "rank_collapse_without_skips",
    "attention_is_similarity",
}
RESULTS = {
    "training_losses", "effective_step", "method_agreement", "attention_similarity", "kernel_smoother",
    "softmax_similarity", "layer_steps", "deep_agreement", "deep_similarity", "collapse_without_parts",
    "error_by_context", "course_table", "shifts", "higher_d", "optimum_by_setting", "deep_by_dimension",
}  # fmt: skip
TASK = LinearRegression(d=2, n_context=3, max_context=8, noise=0.5, n_test=400)


@pytest.fixture
def quick(monkeypatch):
    """Every kind of network trained for two steps, on one other setting and one other dimension."""
    recipe = Recipe(steps=2, batch_size=8, eval_every=2, schedule="cosine")
    for name, kind in networks.KINDS.items():
        small = {"n_layers": 2, "d_model": 8, "n_heads": 2} | ({} if kind.changes else {"d_mlp": 8})
        changes = {**kind.changes, **(small if kind.deep else {})}
        monkeypatch.setitem(networks.KINDS, name, replace(kind, recipe=recipe, queries=2, changes=changes))
    monkeypatch.setattr(theory, "SETTINGS", {"d=2, k=4": {"d": 2, "n_context": 4}})
    monkeypatch.setattr(theory, "DIMENSIONS", (3,))
    monkeypatch.setattr(Anatomy.of.__func__, "__defaults__", (200,))


def planted(name, model, task=TASK):
    """A network built by hand, as if it had been trained."""
    before = networks.KINDS[name].network(task).eval()
    job = Fit(model, task, Recipe(), History(steps=[0], test_loss=[1.0]), CheckpointSeries())
    gate = Gate.of(model, task)
    return Trained(name=name, task=task, model=model.eval(), untrained=before, job=job, gate=gate)


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_the_command_gives_every_claim_and_goes_on_from_what_it_has(quick, tmp_path, capsys):
    words = [
        "study",
        "linear-regression",
        "--d",
        "2",
        "--n-context",
        "3",
        "--max-context",
        "8",
        "--seeds",
        "2",
    ]
    out = tmp_path / "run"
    for _ in range(2):
        assert cli.main([*words, "--json", "--out", str(out)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {claim["id"] for claim in told["claims"]} == CLAIMS
    verdicts = {claim["id"]: claim["verdict"] for claim in told["claims"]}
    assert set(standing("linear-regression", verdicts).values()) <= {"fails", "untested"}
    assert all("theory" in claim for claim in told["claims"])
    run = Run.open(out)
    assert set(run.results) == RESULTS
    assert unnamed(run.results.values()) == set()
    page = (out / "report.html").read_text()
    assert "What it comes to" in page
    assert "nan times" not in page


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_planted_steps_hold_and_their_opposite_fails():
    step = constructions.linear_regression(TASK, n_ctx=40)
    three = constructions.linear_regression(TASK, [0.3, 0.4, 0.2], [0.1, 0.1, 0.0], n_ctx=40)
    smooth = networks.KINDS[networks.SOFTMAX].network(TASK)
    parts = {networks.LINEAR: step, networks.LINEAR_3: three, networks.SOFTMAX: smooth}
    found = Anatomy.of({name: planted(name, model) for name, model in parts.items()}, n=600)
    assert explained(read_off(found), found.given[networks.LINEAR_3]) == pytest.approx(1, abs=1e-5)
    verdicts = {claim.id: claim.verdict for claim in judge.__wrapped__([found], [1.0, 0.5, 0.3])}
    for name in ("reaches_one_step_optimum", "weights_are_gradient_step", "sensitivities_match_gd"):
        assert verdicts[name] == "holds"
    assert verdicts["softmax_is_kernel_smoother"] == "untested"  # it has learned nothing
    assert verdicts["approaches_ols_with_depth"] == "untested"  # there is no deep network
    off = constructions.linear_regression(TASK, [0.9 * TASK.best_rate], n_ctx=40)
    with torch.no_grad():
        off.blocks[0].attn.W_Q[0, 0, 1] = 0.5
    worse = Anatomy.of({**found.networks, networks.LINEAR: planted(networks.LINEAR, off)}, n=600)
    verdicts = {claim.id: claim.verdict for claim in judge([worse], [1.0, 0.5, 0.3])}
    assert verdicts["reaches_one_step_optimum"] == verdicts["weights_are_gradient_step"] == "fails"


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_fewer_steps_than_layers_are_not_more_steps():
    parts = {networks.LINEAR: constructions.linear_regression(TASK, n_ctx=40)}
    parts[networks.SOFTMAX] = networks.KINDS[networks.SOFTMAX].network(TASK)
    for rates, curvatures in (([TASK.best_rate, 0.0, 0.0], [0.0] * 3), ([0.6, 0.5, 0.0], [0.1, 0.0, 0.0])):
        few = constructions.linear_regression(TASK, rates, curvatures, n_ctx=40)
        parts[networks.LINEAR_3] = few
        found = Anatomy.of({name: planted(name, model) for name, model in parts.items()}, n=600)
        claims = {claim.id: claim for claim in judge.__wrapped__([found], [1.0, 0.9, 0.8])}
        assert claims["depth_is_more_steps"].value == pytest.approx(1, abs=1e-5)
        assert claims["depth_is_more_steps"].verdict == "fails"


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_numbers_in_sentences_are_of_networks_that_learned():
    step = constructions.linear_regression(TASK, n_ctx=40)
    smooth = networks.KINDS[networks.SOFTMAX].network(TASK)
    good, bad = (
        Anatomy.of(
            {
                networks.LINEAR: planted(networks.LINEAR, one),
                networks.SOFTMAX: planted(networks.SOFTMAX, smooth),
            },
            n=600,
        )
        for one in (step, networks.KINDS[networks.LINEAR].network(replace(TASK, seed=1)))
    )
    claims = {claim.id: claim for claim in judge([good, bad], [1.0, 0.5, 0.3])}
    said = claims["weights_are_gradient_step"].statement
    assert "measured 0.000" in said
    assert claims["weights_are_gradient_step"].seeds.endswith("of 1 seeds, 1 not asked")


def test_the_loss_of_the_best_step_is_the_optimum_to_the_last_digits():
    ratio, error = over_optimum(constructions.linear_regression(TASK), TASK, n=2000)
    assert ratio == pytest.approx(1, abs=1e-6)
    assert error < 1e-6
    worse, _ = over_optimum(constructions.linear_regression(TASK, [0.5 * TASK.best_rate]), TASK, n=20_000)
    assert worse > 1.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "0"], "noise > 0"),
        (["--n-context", "2"], "prompts of 3 examples and more"),
        (["--max-context", "5"], "up to a larger number"),
        (["--d", "0"], "d >= 2"),
        (["--d", "1"], "d >= 2"),
        (["--seeds", "0"], "at least 1 seed"),
    ],
)
def test_studies_that_cannot_be_are_refused(options, message, tmp_path, capsys):
    assert cli.main(["study", "linear-regression", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_public_names_are_of_the_room():
    assert set(room.KINDS) == set(networks.KINDS)
