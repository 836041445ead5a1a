"""The hand-built network adds numbers in text, and analyses find its head, its line and its circles."""

from functools import cache

import pytest
import torch

from mechinterp import constructions
from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.erasure import erasure_effect
from mechinterp.analysis.probes import Fourier, probe
from mechinterp.hooks import Site, run_with_cache
from mechinterp.tasks import TextModular, TextSum

PLANTED = (1, 5, 23)
TASKS = {
    "sum": TextSum(zero_padded=True, n_test=2000),
    "short": TextSum(zero_padded=True, template="{y}+{x}=", max_operand=42, n_test=500),
    "residue": TextModular(zero_padded=True, n_test=2000, frequencies=PLANTED),
    "circle": TextModular(zero_padded=True, n_test=2000, frequencies=PLANTED, readout="circle"),
}
LAST = "blocks.0.hook_resid_post"


@cache
def built(name):
    task = TASKS[name]
    return task, constructions.text_arithmetic(task).eval(), task.dataset("test")


@pytest.mark.parametrize("name", TASKS)
def test_it_is_right_on_every_held_out_problem(name):
    task, model, batch = built(name)
    with torch.no_grad():
        outputs = task.outputs(model, batch)
    assert task.score(outputs, batch) == pytest.approx(1.0, abs=1e-9)
    assert task.measures(outputs, batch).get("exact", 1.0) == 1.0


@pytest.mark.parametrize(("most", "changes"), [(1999, {}), (9999, {"dtype": torch.float64})])
def test_residues_of_the_largest_numbers_are_exact(most, changes):
    task = TextModular(zero_padded=True, max_operand=most, n_test=500, frequencies=PLANTED, readout="circle")
    model = constructions.text_arithmetic(task, **changes).eval()
    batch = task.dataset("test")
    with torch.no_grad():
        assert task.score(task.answers(model, batch), batch) == pytest.approx(1.0, abs=1e-3)


def stream(name, hook=LAST):
    _, model, batch = built(name)
    return batch, run_with_cache(model, batch.inputs, names=hook)[1]


def test_the_sum_is_read_where_the_head_has_written_it_and_nowhere_else():
    batch, cache = stream("sum")
    found = probe(cache, batch.variables["sum"].double(), positions=[-1, 0], permutations=0, shuffles=2)
    assert found.values.sel(position=12).item() > 0.9999
    assert found.values.sel(position=0).item() < 0.7


def test_one_head_adds():
    task, model, batch = built("sum")
    metric = lambda outputs: (outputs[:, 0] - batch.targets[:, 0]).square().mean(-1)  # noqa: E731
    found = ablation(model, batch.inputs, metric, "heads", read=(-1,), held_out=task.dataset("val").inputs)
    lost = found.values.squeeze()
    assert abs(lost[0]) > 0.01
    assert abs(lost[1]) < 1e-12


def test_planted_circles_come_back_and_no_other():
    batch, cache = stream("residue")
    kind = Fourier(p=97, frequencies=range(1, 49))
    found = probe(
        cache, batch.variables["residue"], kind, positions=[-1], permutations=0, shuffles=2,
        together=batch.variables["residue"],
    )  # fmt: skip
    clear = found.values.frequency[found.values.squeeze() > 0.99]
    assert tuple(clear.values) == PLANTED


def test_erasing_the_residue_erases_the_answer_and_random_directions_do_not():
    task, model, batch = built("residue")
    angles = task.circles[batch.variables["residue"]]
    found = erasure_effect(
        model, batch.inputs, Site.at(LAST, position=-1), angles,
        lambda outputs: (outputs[:, 0].argmax(-1) == batch.targets[:, 0]).double(), draws=4, read=(-1,),
    )  # fmt: skip
    assert found.values.sel(eraser="leace") < -0.9
    assert found.extra["readable"].sel(eraser="leace") < 0.05


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TextSum(), "zero_padded"),
        (TextModular(zero_padded=True, readout="value"), "another readout"),
        (
            TextModular(zero_padded=True, max_operand=9999, n_test=100),
            "numbers below 2,000.*dtype=torch.float64",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(task, message):
    with pytest.raises(ValueError, match=message):
        constructions.text_arithmetic(task)
