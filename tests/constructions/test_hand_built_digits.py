"""The hand-built network adds without a mistake, and every analysis finds the heads that do it."""

from functools import cache

import numpy as np
import pytest
import torch

from mechinterp import constructions, models
from mechinterp.analysis.alignment import column_alignment
from mechinterp.analysis.components import (
    component_ablation,
    component_patching,
    exact_match,
    token_accuracy,
)
from mechinterp.analysis.pruning import prune
from mechinterp.analysis.sets import Component, components_of
from mechinterp.analysis.statistics import bootstrap_defined
from mechinterp.tasks import DigitAddition

TASKS = {
    "three": DigitAddition(n_test=2000),
    "five": DigitAddition(n_digits=5, n_test=2000),
    "binary": DigitAddition(base=2, n_digits=6, n_test=2000),
    "hexadecimal": DigitAddition(base=16, n_digits=3, n_test=2000),
    "largest_base": DigitAddition(base=36, n_digits=2, n_test=2000),
    "room": DigitAddition(n_digits=2, room=4, n_test=2000),
}
READING = [f"decoder.0.cross.{head}" for head in range(4)]


@cache
def built(name="three"):
    task = TASKS[name]
    return task, constructions.digit_addition(task).eval()


@pytest.mark.parametrize("name", TASKS)
def test_it_adds_without_a_mistake_forced_and_written(name):
    task, model = built(name)
    for batch in (task.dataset("test"), task.with_cascade(task.n_digits, n=500)):
        with torch.no_grad():
            assert task.score(task.outputs(model, batch), batch) == 1.0
        ends = task.n_source + 1
        mask = None if batch.mask is None else batch.mask[:, :ends]
        written = models.generate(
            model, batch.inputs[:, :ends], task.n_target, end=task.end, attention_mask=mask
        )
        assert torch.equal(written, batch.targets)


def test_all_sums_of_two_digits_are_right():
    task = DigitAddition(n_digits=2)
    a, b = torch.cartesian_prod(torch.arange(100), torch.arange(100)).unbind(1)
    batch = task.batch(a, b)
    assert task.score(task.outputs(constructions.digit_addition(task), batch), batch) == 1.0


def test_ablation_finds_the_four_heads_and_no_other():
    task, model = built()
    batch, others = task.dataset("test")[slice(0, 300)], task.dataset("val")
    found = component_ablation(model, batch.inputs, batch.targets, held_out=others.inputs, read=batch.read)
    for measure in (exact_match, token_accuracy):
        effect = found.effect(measure, "head_exact_match").extra["effect"]
        for name in map(str, effect.component.values):
            lost = effect.sel(component=name).values
            assert (lost < -0.02).all() if name in READING else (lost == 0).all()
    columns = dict(zip(map(str, found.components), found.accuracy("mean")))
    assert columns["decoder.0.cross.2"][0] == 1.0  # no column lies before the first
    assert columns["decoder.0.cross.0"][0] < 0.3


def test_patching_tells_the_heads_of_the_carry_from_those_of_the_digits():
    task, model = built()
    for kind, bring in (("carry", READING[2:]), ("digit", READING[:2])):
        more, less = task.pairs(kind, 1)
        place = task.columns.index(1)
        right, wrong = (batch.targets[:, place, None] for batch in (more, less))

        def metric(outputs, right=right, wrong=wrong):
            return (outputs[:, 0].gather(1, right) - outputs[:, 0].gather(1, wrong))[:, 0]

        found = component_patching(model, more.inputs, less.inputs, metric, read=(place - task.n_target,))
        brought = found.extra["recovered"]
        for name in map(str, brought.component.values):
            assert (brought.sel(component=name) > 0.4) == (name in bring)
            assert name in bring or abs(float(brought.sel(component=name))) < 1e-4
        assert (found.extra["p_value"].sel(component=bring) < 0.05).all()
        assert found.name == "component_patching"
        assert "Heads patched" in found.figure().layout.title.text
    assert float(found.extra["recovered"].sum()) == pytest.approx(1.0, abs=1e-4)


def test_pruning_keeps_the_four_heads_to_the_last():
    task, model = built()
    batch, others = task.dataset("test")[slice(0, 200)], task.dataset("val")
    found = prune(
        model, batch.inputs, lambda x: task.right(x, batch).all(1).double(), components_of(model),
        held_out=others.inputs, read=batch.read, orders=2,
    )  # fmt: skip
    assert set(found.extra["order"].values[-4:]) == set(READING)
    assert (found.values.values[:9] == 1.0).all()


def test_alignment_finds_which_column_each_head_reads():
    task, model = built()
    place = task.column_of
    columns = {
        "encoder": (place["source"], place["source"]),
        "decoder": (place["answer"], place["written"]),
        "cross": (place["answer"], place["source"]),
    }
    batch = task.dataset("test")[slice(0, 20)]
    found = column_alignment(model, batch.inputs, columns, offsets=(0, 1))
    values = found.values.sel(component=READING).values
    np.testing.assert_allclose(values[:2], [[1, 0], [1, 0]], atol=1e-4)
    np.testing.assert_allclose(values[2:], [[0, 1], [0, 1]], atol=1e-4)
    idle = found.values.sel(component="encoder.0.self.0", offset=0)
    assert float(idle) == pytest.approx(2 / 7)  # even attention: two digits of seven tokens
    assert float(found.extra["even"].sel(component="encoder.0.self.0", offset=0)) == pytest.approx(2 / 7)
    with pytest.raises(ValueError, match="stacks"):
        column_alignment(model, batch.inputs, {"cross": columns["cross"]})


def test_chance_does_not_depend_on_what_heads_do_look_at():
    task = TASKS["room"]
    model = constructions.digit_addition(task).eval()
    with torch.no_grad():
        model.blocks[0].cross_attn.W_Q *= 5  # so sharp that all other attention rounds to 0
    place, batch = task.column_of, task.dataset("test")[slice(0, 20)]
    columns = {"cross": (place["answer"], place["source"])}
    heads = [Component.named(name) for name in READING]
    for mask, tokens in ((batch.mask, 5), (None, 9)):
        found = column_alignment(model, batch.inputs, columns, heads, attention_mask=mask)
        np.testing.assert_allclose(found.values.sel(offset=0).values[:2], 1.0, atol=1e-4)
        np.testing.assert_allclose(found.extra["even"].values, 2 / tokens)


def test_names_of_heads_are_read_as_they_are_written():
    _, model = built()
    for one in components_of(model, mlps=True):
        assert Component.named(str(one)) == one
    for name in ("encoder.0.cross.1", "decoder.0.self", "L0H1", "decoder.x.self.1"):
        with pytest.raises(ValueError, match="expected a name"):
            Component.named(name)


def test_the_other_order_cannot_be_built_so():
    with pytest.raises(ValueError, match="least significant digit first"):
        constructions.digit_addition(DigitAddition(reverse=False))


def test_examples_without_a_column_do_not_widen_its_interval():
    values = torch.full((40, 1, 2), 0.8, dtype=torch.float64) + 0.01 * torch.randn(40, 1, 2).double()
    values[::2, 0, 1] = torch.nan
    low, high = bootstrap_defined(values)
    assert (low > 0.7).all()
    assert (high < 0.9).all()
