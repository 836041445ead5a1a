"""What was planted in a network that learns in context is found: its method, its weights, its kernel, its "
"steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mechinterp import constructions, models
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.in_context import (
    attention_similarity,
    effective_step,
    error_by_context,
    flops,
    kernel_smoother,
    layer_steps,
    method_agreement,
    sensitivities,
)
from mechinterp.analysis.in_context.effective import EffectiveHead
from mechinterp.figures import draw
from mechinterp.result import NotLearned
from mechinterp.tasks import LinearRegression

TASK = LinearRegression(d=4, n_context=5, max_context=12, noise=0.3, n_test=300)
BATCH = TASK.dataset("test")
METHODS = {name: BATCH.variables[f"w_{name}"] for name in ("gd", "ols", "ridge")}


def step(**changes):
    return constructions.linear_regression(replace(TASK, **changes), [TASK.best_rate])


def smoother(u, w):
    """A softmax layer that is a kernel smoother."""
    model = models.linear_regression(TASK, attention="softmax")
    attn, d = model.blocks[0].attn, TASK.d
    with torch.no_grad():
        for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
            weight.zero_()
        attn.W_Q[0, :d, :d], attn.W_K[0, :d, :d] = w * torch.eye(d), torch.eye(d)
        attn.W_V[0, d, d], attn.W_O[0, d, d] = 1.0, -u
    return model


def test_a_step_turns_with_the_query_as_its_weights_say():
    answers, turned = sensitivities(step(), BATCH)
    torch.testing.assert_close(answers.float(), BATCH.variables["gd"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(turned[:, 0].float(), BATCH.variables["w_gd"], rtol=1e-3, atol=1e-4)


def test_several_queries_turn_by_themselves():
    task = replace(TASK, n_queries=3)
    batch = task.dataset("test")
    _, turned = sensitivities(constructions.linear_regression(task, [task.best_rate]), batch)
    every = batch.variables["w_gd"][:, None].expand(-1, 3, -1)
    torch.testing.assert_close(turned.float(), every, rtol=1e-3, atol=1e-4)


def test_the_planted_method_is_the_one_that_is_found():
    found = method_agreement(step(), BATCH, METHODS, untrained=models.linear_regression(TASK))
    own = found.values.sel(predictor="gd")
    assert float(own.sel(measure="model cos")) == pytest.approx(1, abs=1e-5)
    assert float(own.sel(measure="explained")) == pytest.approx(1, abs=1e-5)
    assert float(own.sel(measure="slope")) == pytest.approx(1, abs=1e-4)
    assert float(own.sel(measure="preds diff")) < 1e-4
    assert float(found.values.sel(predictor="ridge", measure="model cos")) < 0.99
    assert abs(float(found.control.sel(predictor="gd", measure="model cos"))) < 0.2
    assert abs(float(found.extra["untrained"].sel(predictor="gd", measure="model cos"))) < 0.7


@pytest.mark.parametrize("changes", [{}, {"d_model": 12}], ids=["raw tokens", "in another basis"])
def test_the_step_is_read_off_in_any_basis(changes):
    task = LinearRegression(d=3, n_context=9, covariance=((2.0, 0.5, 0), (0.5, 1.0, 0), (0, 0, 0.5)))
    raw = constructions.linear_regression(task)
    model = raw
    if changes:
        model = models.linear_regression(task, d_head=12, **changes)
        turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
        into = turn[:4]
        with torch.no_grad():
            model.embed.W_E.copy_(into)
            model.unembed.W_U.copy_(into.mT @ raw.W_U)
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                padded = torch.zeros(12, 12)
                padded[:4, :4] = getattr(raw.blocks[0].attn, name)[0]
                whole = torch.cat((into, turn[4:]))
                by = {"W_O": padded @ whole}.get(name, whole.mT @ padded)
                getattr(model.blocks[0].attn, name)[0] = by
    found = effective_step(model, task.preconditioner, untrained=models.linear_regression(task, **changes))
    assert float(found.values.sel(measure="cosine")) == pytest.approx(1, abs=1e-5)
    assert float(found.values.sel(measure="relative error")) < 1e-5
    assert float(found.values.sel(measure="share of the step")) == pytest.approx(1, abs=1e-5)
    assert float(found.extra["p"]) < 0.01
    assert float(found.control.sel(measure="share of the step")) < 0.9


def test_a_step_may_come_from_the_query_s_part_with_y():
    between, writes = torch.zeros(1, 2, 2), torch.zeros(1, 2)
    between[0, 0, 1] = writes[0, 0] = 1.0  # (x y_j) times x_j
    head = EffectiveHead(between=between, writes=writes, direct=torch.zeros(2))
    assert head.preconditioner(1).item() == head.share(1) == 1.0


def test_random_layers_have_cosines_within_the_null():
    inside = []
    for seed in range(40):
        found = effective_step(models.linear_regression(TASK, seed=seed), TASK.preconditioner, draws=300)
        low, high = found.extra["null"].values
        inside.append(low <= float(found.values.sel(measure="cosine")) <= high)
    assert np.mean(inside) > 0.8


@pytest.mark.parametrize(("u", "w"), [(1.5, 0.4), (-2.0, 1.5), (-1.5, -0.5)])
def test_a_planted_kernel_is_recovered(u, w):
    found = kernel_smoother(smoother(u, w), BATCH)
    parameters = found.extra["parameters"]
    assert float(parameters.sel(parameter="u")) == pytest.approx(u, rel=1e-3)
    assert float(parameters.sel(parameter="w")) == pytest.approx(w, rel=1e-3)
    assert float(found.values.sel(predictor="kernel smoother")) == pytest.approx(1, abs=1e-5)
    assert float(found.control.sel(predictor="kernel smoother")) < 0.5


def test_a_gradient_step_is_no_kernel_smoother():
    found = kernel_smoother(step(), BATCH)
    assert float(found.values.sel(predictor="gradient step")) == pytest.approx(1, abs=1e-4)
    assert float(found.values.sel(predictor="kernel smoother")) < 0.95


@pytest.mark.parametrize("model", [step(), smoother(2.0, 0.5)], ids=["linear", "softmax"])
def test_attention_by_similarity_is_found(model):
    found = attention_similarity(model, BATCH, draws=50)
    assert abs(float(found.values[0, 0])) == pytest.approx(1, abs=1e-5)
    assert abs(float(found.control[0, 0])) < 0.1
    assert float(found.extra["p_adjusted"][0, 0]) < 0.05


def test_attention_by_other_things_is_not():
    model = models.linear_regression(TASK)
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0, :, :] = 0.0
        model.blocks[0].attn.b_Q[0, 0] = 1.0  # asks for the first entry of each x, whatever the query
    found = attention_similarity(model, BATCH, draws=100)
    assert abs(float(found.values[0, 0])) < 0.1
    assert float(found.extra["p_adjusted"][0, 0]) > 0.01


def test_steps_are_read_off_layers():
    rates, curvatures = [0.4, 1.3, 0.2], [0.2, 0.1, 0.0]
    found = layer_steps(constructions.linear_regression(TASK, rates, curvatures), TASK.d)
    assert found.values.sel(measure="rate").values == pytest.approx(rates, abs=1e-6)
    assert found.values.sel(measure="curvature").values == pytest.approx(curvatures, abs=1e-6)
    assert found.values.sel(measure="share of GD++").values == pytest.approx(1, abs=1e-6)
    other = layer_steps(models.linear_regression(TASK, n_layers=3), TASK.d)
    assert float(other.values.sel(measure="share of GD++").max()) < 0.5


def test_errors_by_context_are_means_over_their_prompts():
    answers = {name: BATCH.variables[name] for name in ("gd", "ridge")}
    found = error_by_context(answers, BATCH.targets, BATCH.variables["k"], trivial=TASK.variance)
    rows = BATCH.variables["k"] == 7
    by_hand = (BATCH.variables["gd"].double() - BATCH.targets.double())[rows].square().mean().item()
    assert float(found.values.sel(predictor="gd", examples=7)) == pytest.approx(by_hand, rel=1e-9)
    assert list(found.values.examples.values) == list(TASK.lengths)


def test_flops_are_those_of_the_products_that_are_carried_out():
    task = LinearRegression(d=3, n_context=6)
    batch = task.sample(5, torch.Generator().manual_seed(0))
    by_hand = 2 * (7 * 4 * 4 + 4 * 4 + 2 * 7 * 4 * 4 + 7 * 4 + 7 * 4 + 4 * 4 + 4)
    assert flops(models.linear_regression(task), batch) == by_hand


def test_every_result_is_drawn_and_gated():
    model, before = step(), models.linear_regression(TASK)
    gate = Gate.of(model, TASK)
    found = [
        method_agreement(model, BATCH, METHODS, untrained=before, gate=gate),
        effective_step(model, TASK.preconditioner, untrained=before, gate=gate),
        kernel_smoother(model, BATCH, untrained=before, gate=gate),
        attention_similarity(model, BATCH, untrained=before, draws=5, gate=gate),
        layer_steps(model, TASK.d, untrained=before, gate=gate),
        error_by_context(
            {"gd": BATCH.variables["gd"]}, BATCH.targets, BATCH.variables["k"], trivial=4.0, gate=gate
        ),
    ]
    for result in found:
        assert result.learned
        assert draw(result).data
    with pytest.warns(NotLearned):
        bad = kernel_smoother(before, BATCH, gate=Gate.of(before, TASK))
    assert bad.learned is False


def nan_batch():
    inputs = BATCH.inputs.clone()
    inputs[0, 0, 0] = torch.nan
    return replace(BATCH, inputs=inputs)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: sensitivities(step(), nan_batch()), "finite vectors"),
        (lambda: kernel_smoother(step(), nan_batch()), "finite vectors"),
        (lambda: kernel_smoother(step(), BATCH[:2]), "at least 4 prompts"),
        (lambda: attention_similarity(step(), BATCH, draws=0), "at least 1 draw"),
        (lambda: method_agreement(step(), BATCH, {}), "for each method"),
        (lambda: method_agreement(step(), BATCH, {"gd": BATCH.variables["w_gd"][:5]}), "for each method"),
        (lambda: method_agreement(step(), BATCH, {"gd": BATCH.variables["w_gd"] / 0}), "finite weights"),
        (
            lambda: effective_step(models.linear_regression(TASK, n_layers=2), torch.eye(4)),
            "one layer of linear",
        ),
        (lambda: effective_step(step(), torch.eye(9)), "at most 4 rows"),
        (lambda: effective_step(step(), torch.ones(2, 3)), "square target"),
        (lambda: layer_steps(models.deep_linear_regression(TASK), 4), "expected layers with"),
        (lambda: error_by_context({}, BATCH.targets, BATCH.variables["k"], trivial=1.0), "as the targets"),
    ],
)
def test_wrong_input_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_queries_that_see_each_other_are_refused():
    batch = replace(TASK, n_queries=2).dataset("test")
    seen = replace(batch, mask=torch.ones_like(batch.mask))
    with pytest.raises(ValueError, match="masked as keys"):
        sensitivities(step(n_queries=2), seen)


def test_sums_over_keys_are_not_read_as_means():
    task = LinearRegression(d=3, n_context=8)
    model = constructions.linear_regression(task, [task.best_rate / 8], average_keys=False)
    with pytest.raises(ValueError, match="average_keys"):
        effective_step(model, task.preconditioner)
    with pytest.raises(ValueError, match="average_keys"):
        layer_steps(model, 3)


def test_what_reaches_no_answer_is_no_part_of_a_layers_step():
    task = LinearRegression(d=3, n_context=8)
    model = constructions.linear_regression(task)
    attn = model.blocks[0].attn
    with torch.no_grad():
        attn.W_O[0, :, :3] += torch.randn(4, 3)
        attn.W_Q[0, 3] += torch.randn(4)
    batch = task.dataset("test")
    before = constructions.linear_regression(task)
    torch.testing.assert_close(task.outputs(model, batch), task.outputs(before, batch))
    found = layer_steps(model, 3).values
    assert float(found.sel(layer=0, measure="share of GD++")) == pytest.approx(1, abs=1e-5)
    assert float(found.sel(layer=0, measure="curvature")) == 0


def test_separate_tokens_are_refused():
    batch = LinearRegression(d=3, n_context=8, tokens="separate", n_test=40).dataset("test")
    model = models.deep_linear_regression(LinearRegression(d=3, n_context=16), n_layers=1).eval()
    with pytest.raises(ValueError, match="joint tokens"):
        kernel_smoother(model, batch)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_planted_smoother_is_found_at_every_scale_of_x(scale):
    task = LinearRegression(d=3, n_context=4, max_context=12, x_scale=scale, n_test=800)
    model = models.linear_regression(task, attention="softmax").eval()
    attn = model.blocks[0].attn
    with torch.no_grad():
        for weight in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
            weight.zero_()
        attn.W_Q[0, :3, :3] = torch.eye(3) * 0.5 / scale**2
        attn.W_K[0, :3, :3] = torch.eye(3)
        attn.W_V[0, 3, 3], attn.W_O[0, 3, 3] = 1.0, -1.4
    found = kernel_smoother(model, task.dataset("test"))
    assert float(found.values.sel(predictor="kernel smoother")) > 0.999
    assert found.provenance["u"] == pytest.approx(1.4, rel=0.02)
