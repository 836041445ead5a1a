"""The study of digit addition in miniature, from the command line on; verdicts on a planted network."""

import json
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from figure_axes import unnamed
from withdrawn_claims import standing

from mechinterp import cli, constructions
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.sets import Component
from mechinterp.runs import Run
from mechinterp.studies.digit_addition import DigitAdditionStudy, networks
from mechinterp.studies.digit_addition.anatomy import Anatomy
from mechinterp.studies.digit_addition.claims import judge
from mechinterp.studies.digit_addition.heads import generated, prunable
from mechinterp.studies.digit_addition.networks import REVERSED, forced
from mechinterp.studies.networks import Trained
from mechinterp.tasks import DigitAddition
from mechinterp.training import Fit, History, Recipe
from mechinterp.training.checkpoint import CheckpointSeries

CLAIMS = {
    "adds", "teacher_forcing_identity", "few_critical_heads", "heads_prunable_jointly",
    "single_head_redundancy_misleads", "carry_has_its_own_heads", "column_alignment",
    "long_cascades_are_hard",
    "order_of_digits_matters", "generalises_to_more_digits",
}  # fmt: skip
RESULTS = {
    "exact_matches", "score_curves", "cascades", "more_digits", "teacher_forcing", "head_exact_match",
    "head_token_accuracy", "head_loss", "head_columns", "head_sets", "pruning", "carry_heads", "digit_heads",
    "attention_example", "column_alignment",
}  # fmt: skip
TASK = DigitAddition(n_digits=2, n_test=300)


@pytest.fixture
def quick(monkeypatch):
    """Small networks trained for two steps, heads ablated on 40 problems."""
    recipe = Recipe(steps=2, batch_size=8, eval_every=1, checkpoints=3, checkpoint_spacing="linear")
    for name in networks.DIGIT_ADDITION:
        monkeypatch.setitem(networks.DIGIT_ADDITION, name, recipe)
    sizes = {"d_model": 8, "n_heads": 2, "d_mlp": 8}
    build = networks.digit_addition

    def small(task, decoder_only=False, **changes):
        return build(task, decoder_only, n_layers=1, **sizes, **changes)

    monkeypatch.setattr(networks, "digit_addition", small)
    monkeypatch.setattr(Anatomy.of.__func__, "__defaults__", (40,))


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_the_command_gives_every_claim_and_goes_on_from_what_it_has(quick, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["study", "digit-addition", "--n-digits", "2", "--seeds", "1", "--json", "--out", str(out)]
    for _ in range(2):
        assert cli.main(words) == 0
        told = json.loads(capsys.readouterr().out)
        assert {claim["id"] for claim in told["claims"]} == CLAIMS
    verdicts = {claim["id"]: claim["verdict"] for claim in told["claims"]}
    assert set(standing("digit-addition", verdicts).values()) <= {"fails", "untested"}
    run = Run.open(out)
    assert set(run.results) == RESULTS
    assert unnamed(run.results.values()) == set()


def planted(name, model):
    """A network built by hand, as if it had been trained."""
    kind = networks.KINDS[name]
    task = kind.posed(TASK)
    before = kind.network(task).eval() if model is None else type(model)(model.cfg).eval()
    series = CheckpointSeries()
    own = before if model is None else model
    for step in (0, 1):
        series.add(step, before)
    job = Fit(own, task, Recipe(), History(steps=[0, 1], test_loss=[1.0, 0.0], test_score=[0.0, 1.0]), series)
    gate = Gate.of(own, task)
    return Trained(name=name, task=task, model=own.eval(), untrained=before, job=job, gate=gate)


@cache
def anatomy(learned):
    """Of networks of which one was built by hand, or none."""
    model = constructions.digit_addition(TASK).eval() if learned else None
    parts = {name: planted(name, model if name == REVERSED else None) for name in networks.KINDS}
    return Anatomy.of(parts, n=200 if learned else 40)


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_of_a_planted_network_the_claims_say_what_was_planted():
    found = anatomy(learned=True)
    claims = {claim.id: claim for claim in judge.__wrapped__([found])}  # before any is withdrawn
    for name in ("adds", "teacher_forcing_identity", "few_critical_heads", "carry_has_its_own_heads"):
        assert claims[name].verdict == "holds", claims[name]
    assert claims["few_critical_heads"].value == 4
    assert set(found.heads.critical) == {f"decoder.0.cross.{head}" for head in range(4)}
    assert set(found.heads.redundant) == set(found.heads.pruned)  # eight idle heads, and no others
    assert claims["heads_prunable_jointly"].value == 8
    assert claims["single_head_redundancy_misleads"].verdict == "fails"
    assert claims["single_head_redundancy_misleads"].value == 0
    assert claims["long_cascades_are_hard"].verdict == "untested"  # that network learned nothing
    assert claims["generalises_to_more_digits"].verdict == "untested"


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_nothing_is_told_of_networks_that_did_not_learn():
    learned, not_learned = (anatomy(learned=one) for one in (True, False))
    quoting = ("few_critical_heads", "single_head_redundancy_misleads", "carry_has_its_own_heads")
    both, alone, none = (
        {claim.id: claim for claim in judge.__wrapped__(found)}
        for found in ([not_learned, learned], [learned], [not_learned])
    )
    for name in quoting:
        assert both[name].statement == alone[name].statement
        assert both[name].seeds.endswith("of 1 seeds, 1 not asked")
        assert (both[name].values_by_seed[0], alone[name].values_by_seed) == (None, ())
    for name in (*quoting, "long_cascades_are_hard", "generalises_to_more_digits", "order_of_digits_matters"):
        assert "none" in none[name].statement


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_without_a_head_that_is_free_of_digits_no_head_is_the_carrys():
    found = deepcopy(anatomy(learned=True))
    found.results["digit_heads"].extra["chosen by"].values[:] = -0.9
    claim = next(claim for claim in judge.__wrapped__([found]) if claim.id == "carry_has_its_own_heads")
    assert claim.verdict == "fails"
    assert "no such head" in claim.statement


@pytest.mark.parametrize(
    ("options", "message"), [({"base": 2}, "held out|held-out"), ({"seeds": 0}, "1 seed")]
)
def test_a_study_without_problems_to_ask_is_refused_before_it_trains(options, message):
    with pytest.raises(ValueError, match=message):
        assert DigitAdditionStudy(n_digits=2, **options).tasks


def test_written_without_a_head_is_right_where_all_is_right_when_forced():
    one = planted(REVERSED, constructions.digit_addition(TASK).eval())
    batch, others = TASK.dataset("test"), TASK.dataset("val")
    for each in ("decoder.0.cross.2", "decoder.0.cross.0", "encoder.0.self.1"):
        component = Component.named(each)
        wrote = generated(one, batch, others, [component])
        with torch.no_grad():
            cache = one.model.run_with_cache(others.inputs)[1]
        mean = cache[component.hook].mean(0, keepdim=True)[:, :, component.head]

        def to_mean(x, hook, mean=mean, head=component.head):
            x = x.clone()
            x[:, :, head] = mean[:, : x.shape[1]]
            return x

        with one.model.hooks(fwd_hooks=[(component.hook, to_mean)]):
            right = forced(one.model, TASK, batch)
        assert torch.equal(wrote, right.all(1))
        least = 1 - TASK.n_target * (1 - right.double().mean())
        assert wrote.double().mean() >= least - 1e-9


def test_how_many_can_go_is_read_off_the_curve():
    assert prunable(np.array([1.0, 1.0, 0.995, 0.98, 0.0])) == 2
    assert prunable(np.array([1.0, 0.5])) == 0
    assert prunable(np.array([1.0, 1.0])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n-digits", "1"], "at least 2 digits"),
        (["--base", "1"], "a base of 2 to 36"),
        (["--seeds", "0"], "at least 1 seed"),
    ],
)
def test_studies_that_cannot_be_are_refused(options, message, tmp_path, capsys):
    assert cli.main(["study", "digit-addition", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
