"""Concept erasure: what is planted goes, what is not stays, and the network's answers tell."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from mechinterp import constructions, tasks
from mechinterp.analysis.erasure import (
    decodability,
    erasure_curve,
    erasure_effect,
    leace,
    mean_projection,
    probe_projection,
    random_erasers,
)
from mechinterp.analysis.gates import Gate
from mechinterp.hooks import Site, project_out, run, run_with_cache
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.result import NotLearned, Result

LAST = Site.at("blocks.0.hook_resid_post", position=-1)


def cloud(n=600, d=12, seed=0, strength=3.0):
    """Correlated activations, and a number that one direction of them carries."""
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    z = normal(n)
    return normal(n, d) @ normal(d, d) + strength * z[:, None] * normal(d) + 5, z


def classes(n=600, d=12, k=3, seed=0):
    x, _ = cloud(n, d, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    z = torch.randint(k, (n,), generator=generator)
    return x + 8 * torch.randn(k, d, generator=generator).double()[z], z


def covariance(x, z):
    z = z.double() if z.is_floating_point() else torch.nn.functional.one_hot(z).double()
    z = z.reshape(len(z), -1)
    return (x - x.mean(0)).mT @ (z - z.mean(0)) / len(x)


def change(eraser, x):
    return ((eraser(x) - x) ** 2).sum(1).mean().item()


ERASERS = {
    "leace": leace,
    "shrunk": lambda x, z: leace(x, z, shrinkage=0.3),
    "ledoit-wolf": lambda x, z: leace(x, z, shrinkage="ledoit-wolf"),
    "mean projection": mean_projection,
}


@pytest.mark.parametrize("kind", ERASERS)
@pytest.mark.parametrize("make", [cloud, classes])
def test_after_erasure_nothing_covaries_with_the_concept_and_no_reader_finds_it(kind, make):
    x, z = make()
    eraser = ERASERS[kind](x, z)
    assert covariance(x, z).abs().max() > 0.5
    assert covariance(eraser(x), z).abs().max() < 1e-11
    assert eraser.rank == (1 if z.is_floating_point() else 2)
    before, after = decodability(x, z), decodability(eraser(x), z)
    assert before > 0.95
    assert after < (0.02 if z.is_floating_point() else 0.45)


def test_a_planted_concept_is_gone_for_fresh_examples_too():
    x, z = cloud(4000)
    eraser = leace(x[:2000], z[:2000])
    assert decodability(x[2000:], z[2000:]) > 0.98
    assert abs(decodability(eraser(x[2000:]), z[2000:])) < 0.02


@pytest.mark.parametrize("kind", ERASERS)
def test_erasing_twice_is_erasing_once(kind):
    x, z = classes()
    eraser = ERASERS[kind](x, z)
    assert torch.allclose(eraser(eraser(x)), eraser(x), atol=1e-10)
    assert torch.allclose(eraser.matrix @ eraser.matrix, eraser.matrix, atol=1e-10)
    assert torch.linalg.matrix_rank(eraser.matrix) == x.shape[1] - eraser.rank


def test_leace_changes_activations_less_than_any_other_map_without_the_concept():
    x, z = cloud()
    least = change(leace(x, z), x)
    others = [mean_projection(x, z)] + [leace(x, z, shrinkage=s) for s in (0.05, 0.3, 0.8)]
    assert all(change(other, x) > least * 1.0001 for other in others)
    # Any other oblique projection that takes the direction of covariance to zero.
    direction = covariance(x, z)[:, 0]
    for seed in range(20):
        v = torch.randn(len(direction), generator=torch.Generator().manual_seed(seed)).double()
        matrix = torch.eye(len(v)) - torch.outer(direction, v) / (v @ direction)
        moved = (x - x.mean(0)) @ (matrix - torch.eye(len(v))).mT.double()
        assert (moved**2).sum(1).mean() > least


def test_features_that_do_not_covary_with_the_concept_stay_as_they_are():
    x, z = cloud()
    eraser, with_concept = leace(x, z), covariance(x, z)[:, 0]
    basis = torch.linalg.svd(with_concept[None]).Vh[1:]  # weights of features without covariance
    assert torch.allclose(eraser(x) @ basis.mT, x @ basis.mT, atol=1e-9)
    moved = mean_projection(x, z)
    correlated = torch.linalg.solve(torch.cov(x.mT), with_concept)  # the least-squares reader of z
    assert (moved(x) @ correlated - x @ correlated).std() > 0.1


def test_full_shrinkage_is_mean_projection():
    x, z = classes()
    assert torch.allclose(leace(x, z, shrinkage=1.0).matrix, mean_projection(x, z).matrix, atol=1e-10)


def test_mean_projection_takes_the_span_of_the_differences_of_class_means():
    x, z = classes()
    means = torch.stack([x[z == k].mean(0) for k in range(3)])
    gone = (means[1:] - means[0]) @ mean_projection(x, z).matrix.mT
    assert gone.abs().max() < 1e-10


def test_projecting_out_one_direction_of_ridge_is_no_removal():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, generator=generator).double()
    blur = torch.linspace(0.1, 1.0, 20).double()  # 20 copies of z, from sharp to blurred
    x = z[:, None] + torch.randn(2000, 20, generator=generator).double() * blur
    direction = torch.tensor(Ridge(alpha=1.0).fit(x.numpy(), z.numpy()).coef_)
    left = project_out(Site("any"), direction).change(x, "any")
    assert decodability(x, z) > 0.99
    assert decodability(left, z) > 0.98
    assert abs(decodability(leace(x, z)(x), z)) < 0.01


def test_random_erasers_of_the_same_rank_leave_the_concept_nearly_intact():
    x, z = cloud(3000, 60, strength=10.0)
    fitted = leace(x, z)
    found = [decodability(eraser(x), z) for eraser in random_erasers(x, fitted.rank, draws=10)]
    assert np.mean(found) > 0.95
    assert all(eraser.rank == 1 for eraser in random_erasers(x, 1, draws=3))
    first, again = (random_erasers(x, 2, seed=4)[0].matrix for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dimensions_that_hold_nothing_are_left_alone(dtype):
    x, z = cloud(200, 5)
    wide = (x @ torch.randn(5, 30, generator=torch.Generator().manual_seed(1)).double()).to(dtype)
    eraser = leace(wide, z)
    assert eraser.rank == 1
    assert covariance(eraser(wide.double()), z).abs().max() < (1e-5 if dtype == torch.float32 else 1e-10)
    nowhere = torch.linalg.svd(wide.double() - wide.double().mean(0)).Vh[10:]
    assert torch.allclose(nowhere @ eraser.matrix.mT, nowhere, atol=1e-3)


def test_activations_that_never_vary_have_nothing_to_erase():
    eraser = leace(torch.ones(10, 4), torch.arange(10.0))
    assert eraser.rank == 0
    assert torch.equal(eraser(torch.full((2, 4), 3.0)), torch.full((2, 4), 3.0))


def test_booleans_and_two_classes_are_the_same_concept():
    x, z = classes(k=2)
    assert torch.equal(leace(x, z).matrix, leace(x, z == 1).matrix)
    assert torch.allclose(leace(x, z).matrix, leace(x, z.double()).matrix, atol=1e-10)


@pytest.mark.parametrize(
    ("x", "z", "message"),
    [
        (torch.randn(10, 2), torch.ones(10), "expected a concept that varies"),
        (torch.randn(10, 2), torch.zeros(10, dtype=torch.long), "expected a concept that varies"),
        (torch.randn(10, 2), torch.randn(9), "as many rows of x as of z, at least 2, got 10 and 9"),
        (torch.randn(1, 2), torch.randn(1), "at least 2"),
        (torch.randn(10, 2), torch.tensor([float("nan")] * 10), "expected finite values of the concept"),
        (torch.full((10, 2), float("inf")), torch.randn(10), "expected finite activations"),
        (torch.randn(10, 2), torch.zeros(10, 2, dtype=torch.long), "classes as one integer a row"),
        (torch.randn(10, 20), torch.randn(10), "10 examples that span 9 dimensions.*ledoit-wolf"),
    ],
)  # fmt: skip
def test_what_cannot_be_erased_is_refused(x, z, message):
    with pytest.raises(ValueError, match=message):
        leace(x, z)


def test_few_examples_are_taken_with_shrinkage_and_bad_coefficients_and_ranks_refused():
    x, z = torch.randn(10, 20, generator=torch.Generator().manual_seed(0)), torch.arange(10.0)
    assert covariance(leace(x, z, shrinkage="ledoit-wolf")(x.double()), z).abs().max() < 1e-6
    for shrinkage in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="shrinkage from 0 to 1"):
            leace(x, z, shrinkage=shrinkage)
    with pytest.raises(ValueError, match=r"rank in 0\.\.9"):
        random_erasers(x, 10)
    with pytest.raises(ValueError, match=r"vectors of length 20, which leace.* got 3"):
        leace(x, z, shrinkage=0.5)(torch.zeros(3))


def test_a_reader_needs_two_halves_that_vary():
    with pytest.raises(ValueError, match="at least 4 examples"):
        decodability(torch.randn(3, 2), torch.randn(3))
    with pytest.raises(ValueError, match="vary in both halves"):
        decodability(torch.randn(8, 2), torch.tensor([1] + [0] * 7))
    with pytest.raises(ValueError, match="as many rows"):
        decodability(torch.randn(8, 2), torch.randn(7))


def test_rows_of_one_group_stay_in_one_half():
    x = torch.eye(20).repeat_interleave(10, 0)  # a reader that has seen a group knows its z
    z = torch.randn(20, generator=torch.Generator().manual_seed(0)).repeat_interleave(10)
    assert decodability(x, z, torch.arange(200)) > 0.9
    assert decodability(x, z, torch.arange(20).repeat_interleave(10)) < 0.1
    assert decodability(x, z) < 0.1  # the same, found


def addition(p=13, frequencies=None):
    task = tasks.ModularAddition(p=p)
    model, batch = constructions.modular_addition(task, frequencies), task.everything
    targets = batch.targets[:, 0]

    def margin(outputs):
        logits = outputs[:, -1].double()
        right = logits.gather(1, targets[:, None])[:, 0]
        return right - logits.scatter(1, targets[:, None], -torch.inf).max(1).values

    z = torch.stack([batch.variables["cos_c"][:, 0], batch.variables["sin_c"][:, 0]], 1)
    return task, model, batch, z, margin


def test_the_sum_is_read_where_it_was_planted_and_only_there():
    task, model, batch, z, margin = addition(p=29)
    gate = Gate.of(model, task)
    after = erasure_effect(model, batch.inputs, LAST, z, margin, gate=gate)
    found = after.extra["readable"]
    assert found.sel(eraser="intact") > 0.7
    assert abs(found.sel(eraser="leace")) < 0.05
    assert found.sel(eraser="random") > 0.6
    assert after.provenance["p"] < 0.05
    assert after.interval[1] < after.extra["change"].sel(eraser="random", quantity="low")
    assert after.provenance["rank"] == 2
    # Before the neurons the sum is not linearly there: what erasing it does, random erasers do too.
    before = erasure_effect(
        model, batch.inputs, Site.at("blocks.0.hook_resid_mid", position=-1), z, margin, gate=gate
    )
    assert abs(before.extra["readable"].sel(eraser="intact")) < 0.1
    assert before.provenance["p"] > 0.1
    low, high = after.interval
    assert low < float(after.values.sel(eraser="leace")) < high < float(after.control) < after.trivial
    assert float(after.control) == pytest.approx(float(after.extra["random"].sel(measure="change").mean()))


def test_an_eraser_acts_inside_a_network_as_outside():
    _, model, batch, z, _ = addition()
    _, cache = run_with_cache(model, batch.inputs, names=LAST.name)
    x = cache[LAST.name][:, -1]
    eraser = leace(x, z)
    _, edited = run_with_cache(model, batch.inputs, names=LAST.name, edits=[eraser.edit(LAST)])
    assert torch.equal(edited[LAST.name][:, -1], eraser(x))
    assert torch.equal(edited[LAST.name][:, 0], cache[LAST.name][:, 0])
    assert str(eraser.edit(LAST)).startswith("leace of rank 2 at blocks.0.hook_resid_post")


def test_positions_and_heads_are_pooled_and_may_have_concepts_of_their_own():
    _, model, batch, _, margin = addition()
    both = Site.at("blocks.0.hook_resid_pre", position=[0, 1])
    own = batch.inputs[:, :2] % 2  # the parity of each number
    parity = erasure_effect(model, batch.inputs, both, own, margin, draws=3)
    assert parity.provenance["reader"] == "accuracy"
    assert 0.5 <= parity.provenance["constant reader"] < 0.6
    angle = 2 * torch.pi * batch.inputs[:, :2, None] / 13
    numbers = torch.cat([angle.cos(), angle.sin()], 2)
    result = erasure_effect(model, batch.inputs, both, numbers, margin, draws=3)
    assert result.extra["readable"].sel(eraser="intact") > 0.999
    assert abs(result.extra["readable"].sel(eraser="leace")) < 0.1
    heads = Site.at("blocks.0.attn.hook_z", position=-1)
    assert erasure_effect(model, batch.inputs, heads, own[:, 0], margin, draws=3).provenance["rank"] == 1


def test_readers_of_the_model_are_passed_on_and_the_result_is_whole(tmp_path):
    _, model, batch, z, margin = addition()
    result = erasure_effect(
        model, batch.inputs, LAST, z, margin, draws=2, read=(-1,), provenance={"network": "by hand"}
    )
    assert result.provenance["network"] == "by hand"
    result.save(tmp_path / "effect.json")
    assert Result.load(tmp_path / "effect.json") == result
    again = erasure_effect(model, batch.inputs, LAST, z, margin, draws=2, provenance={"network": "by hand"})
    assert again == result


def test_a_network_that_learned_nothing_is_named():
    task, model, batch, z, margin = addition()
    with torch.no_grad():
        model.unembed.W_U.normal_(generator=torch.Generator().manual_seed(0))
    with pytest.warns(NotLearned):
        result = erasure_effect(model, batch.inputs, LAST, z, margin, draws=2, gate=Gate.of(model, task))
    assert result.learned is False


def test_the_direction_of_a_probe_is_no_erasure():
    """The weights point across noise that hides z; they are not all that tells it."""
    generator = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(800, generator=generator).double() for _ in range(2))
    x = torch.stack((z + 3 * noise, noise, torch.zeros(800)), 1)
    eraser = probe_projection(x, z)
    weights = torch.tensor([1.0, -3.0, 0.0]).double() / 10**0.5
    assert torch.allclose(eraser.matrix, torch.eye(3).double() - torch.outer(weights, weights), atol=1e-6)
    assert decodability(x, z) > 0.999
    assert decodability(leace(x, z)(x), z) < 0.01
    x, z = cloud()  # z along one direction of many that are correlated
    assert decodability(probe_projection(x, z)(x), z) > 0.9
    assert decodability(leace(x, z)(x), z) < 0.01


def residues():
    """A hand-built network whose answer is the sum of three planted circles, among noise that it ignores."""
    task = tasks.TextModular(zero_padded=True, n_test=600, frequencies=(1, 5, 23))
    batch, model = task.dataset("test"), constructions.text_arithmetic(task).eval()
    angles = 2 * torch.pi * batch.variables["residue"].double()[:, None] / 97 * torch.tensor([1, 5, 23])
    circles = torch.stack((angles.cos(), angles.sin()), -1)
    right = lambda outputs: (outputs[:, 0].argmax(-1) == batch.targets[:, 0]).double()  # noqa: E731
    return model, batch, {name: circles[:, i] for i, name in enumerate((1, 5, 23))}, right


def test_a_curve_loses_one_circle_after_another():
    model, batch, circles, right = residues()
    found = erasure_curve(model, batch.inputs, LAST, circles, right, draws=2, read=(-1,))
    assert found.extra["dimensions"].values.tolist() == [0, 2, 4, 6]
    assert found.values[0] == 0.0
    assert (np.diff(found.values.values) < 0).all()
    assert found.values[-1] < -0.95
    left = found.extra["readable"].sel(of="leace").values
    assert left == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=0.06)
    assert found.name == "erasure_curve"
    assert found.figure().layout.title.text.startswith("Erasing 1, 5, 23")


def test_a_curve_of_no_concepts_is_refused():
    model, batch, _, right = residues()
    with pytest.raises(ValueError, match="at least one concept"):
        erasure_curve(model, batch.inputs, LAST, {}, right)
    with pytest.raises(ValueError, match="600 examples and 5 z"):
        erasure_curve(model, batch.inputs, LAST, {"z": torch.randn(5)}, right)


BAD = {
    "a site that is not there": ({"site": Site.at("blocks.7.hook_resid_post")}, "matches no hook point"),
    "two hook points": ({"site": Site.at("blocks.0.hook_resid_*")}, "one hook point"),
    "single examples": ({"site": Site.at(LAST.name, batch=0)}, "of all examples"),
    "a batch of one": ({"inputs": torch.zeros(1, 3, dtype=torch.long), "z": torch.zeros(1)}, "8 examples"),
    "another length": ({"z": torch.randn(5)}, "169 examples and 5 z"),
    "a constant": ({"z": torch.ones(169)}, "concept that varies"),
    "NaN": ({"z": torch.full((169,), float("nan"))}, "finite values of the concept"),
    "too many axes": ({"z": torch.randn(169, 2, 2)}, r"n = 169 examples and v = 1 vectors"),
    "no draws": ({"draws": 0}, "at least 1 random eraser"),
    "a metric that is NaN": ({"metric": lambda outputs: outputs[:, -1, 0] * float("nan")}, "got NaN"),
    "one number for all": ({"metric": lambda outputs: outputs.mean()}, r"got shape \(\)"),
    "a concept that spans all": ({"z": torch.arange(169)}, "expected more examples|spans them all"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    _, model, batch, z, margin = addition()
    given, message = BAD[case]
    arguments = {"inputs": batch.inputs, "site": LAST, "z": z, "metric": margin} | given
    with pytest.raises(ValueError, match=message):
        erasure_effect(model, **arguments)


def test_a_concept_that_fills_the_site_is_refused():
    _, model, batch, _, margin = addition(frequencies=(1,))
    middle = Site.at("blocks.0.hook_resid_mid", position=-1)
    with pytest.raises(ValueError, match="got one that spans them all"):
        erasure_effect(model, batch.inputs, middle, batch.variables["cos_c"], margin)


def test_random_dropout_is_refused_before_the_model_runs():
    model = HookedTransformer(
        TransformerConfig(
            d_model=8, d_head=4, n_layers=1, n_ctx=3, d_vocab=5, d_mlp=8, act_fn="relu", dropout=0.1
        )
    )
    inputs, z = torch.randint(5, (60, 3)), torch.randn(60)
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        erasure_effect(model, inputs, LAST, z, lambda outputs: outputs[:, -1, 0])
    found = erasure_effect(model.eval(), inputs, LAST, z, lambda outputs: outputs[:, -1, 0], draws=2)
    assert found.values.size == 3


def test_the_figure_shows_control_beside_value():
    _, model, batch, z, margin = addition()
    found = erasure_effect(model, batch.inputs, LAST, z, margin, draws=4)
    figure = found.figure()
    assert found.name == "erasure_effect"
    dots = [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [len(trace.y) for trace in dots] == [4, 4]
    assert all(np.mean(each.y) == pytest.approx(bar.y[-1]) for each, bar in zip(dots, bars))
    assert all(axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()])
    assert "blocks.0.hook_resid_post" in figure.layout.title.text


def test_the_example_runs(capsys):
    example = Path(__file__).parents[2] / "examples" / "erasure.py"
    runpy.run_path(str(example))["main"](p=13, draws=4)
    assert "random erasers" in capsys.readouterr().out
    assert len(example.read_text().splitlines()) <= 30


def test_the_edit_composes_with_others():
    _, model, batch, z, _ = addition()
    _, cache = run_with_cache(model, batch.inputs, names=LAST.name)
    eraser = leace(cache[LAST.name][:, -1], z)
    once = run(model, batch.inputs, edits=[eraser.edit(LAST)])
    twice = run(model, batch.inputs, edits=[eraser.edit(LAST), eraser.edit(LAST)])
    assert torch.allclose(once, twice, atol=1e-3)


def test_an_effect_that_no_example_of_the_fit_changes_is_certain():
    from mechinterp.analysis.erasure.effect import _p_of_fit

    assert _p_of_fit(lambda rows: -1.0, 30, seed=0) == 0
    assert _p_of_fit(lambda rows: 0.0, 30, seed=0) == 1
    assert _p_of_fit(lambda rows: float("nan") if len(rows) < 30 else 1.0, 30, seed=0) == 1
    assert _p_of_fit(lambda rows: float(rows.double().mean()), 30, seed=0) < 1e-6
