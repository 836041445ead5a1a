"""Examples of one input count as one, and controls that cannot tell are said to be so."""

import sys
from pathlib import Path

import pytest
import torch

from mechinterp.analysis import effects
from mechinterp.analysis.ablation import ablation
from mechinterp.analysis.components import component_patching
from mechinterp.analysis.metrics import accuracy, all_right, logit_difference, margin
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.path_patching import path_patching
from mechinterp.analysis.redundancy import pairwise_ablation

sys.path.insert(0, str(Path(__file__).parent.parent / "calibration"))
from planted_networks import concepts, preferring, random_network, relay
from planted_networks import tokens as words

N, TIMES = 12, 3
MODEL, X, Y = random_network(0).double(), words(0, n=N), words(1, n=N)
ORDER = torch.rand(N, 7, generator=torch.Generator().manual_seed(0)).argsort(1)


def metric(times):
    return preferring(ORDER[:, 0].repeat(times), ORDER[:, 1].repeat(times))


SWEEPS = {
    "patching": lambda x, y, m: activation_patching(MODEL, x, y, m, by=("layer", "head"), control=False),
    "paths": lambda x, y, m: path_patching(MODEL, x, y, m, control=False),
    "ablation": lambda x, y, m: ablation(MODEL, x, m, reference="zero"),
    "pairs": lambda x, y, m: pairwise_ablation(MODEL, x, m, reference="zero"),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_copies_of_all_examples_change_no_p_value_and_no_interval(name):
    once = SWEEPS[name](X, Y, metric(1))
    copied = SWEEPS[name](X.repeat(TIMES, 1), Y.repeat(TIMES, 1), metric(TIMES))
    for array in ("effect", "low", "high", "p_against_zero" if name == "ablation" else "p_value"):
        mine, theirs = (each.extra[array].to_numpy() for each in (once, copied))
        assert mine == pytest.approx(theirs, abs=1e-9, nan_ok=True)
    assert "different inputs" not in once.provenance
    assert copied.provenance["different inputs"].startswith("12,")


def test_one_example_copied_is_refused():
    with pytest.raises(ValueError, match="2 different examples, got one input 6 times"):
        ablation(MODEL, X[:1].repeat(6, 1), lambda outputs: outputs[:, 0, 0], reference="zero")


def test_donors_of_the_control_are_other_inputs():
    groups = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    for seed in range(20):
        donors = effects.derangement(8, seed, groups=groups)
        assert (groups[donors] != groups).all()
        masked = effects.derangement(8, seed, torch.ones(8, 2, dtype=torch.bool), groups)
        assert (groups[masked] != groups).all()


def two_classes(n=40):
    clean, corrupted = concepts(0, n)
    clean[:, 0], corrupted[:, 0] = 0, 1
    yes = torch.zeros(n, dtype=torch.long)
    return clean, corrupted, preferring(yes, yes + 1)


def test_with_two_classes_a_patch_that_recovers_the_answer_is_found_and_the_result_says_how():
    model, _ = relay(0, {(0, 1)}, 4.0, noise=0.3)
    found = activation_patching(model, *two_classes(), by=("layer", "head"))
    assert "every donor brings the same answer" in found.provenance["p_value"]
    assert (found.extra["p_value"].to_numpy() <= 0.05).tolist() == [[False, True, False, False], [False] * 4]
    assert float(found.extra["p_against_control"][0, 1]) > 0.05
    assert found.extra["p_value"].equals(found.extra["p_against_zero"])
    paths = path_patching(model, *two_classes())
    assert "every donor brings the same answer" in paths.provenance["p_value"]
    assert float(paths.extra["p_value"][0, 0, 1]) <= 0.05


def test_where_donors_differ_p_is_against_the_control_as_well():
    clean, corrupted = concepts(3, 40)
    model = relay(3, {(0, 1)}, 2.0)[0]
    found = activation_patching(
        model, clean, corrupted, preferring(clean[:, 0], corrupted[:, 0]), by=("layer", "head")
    )
    assert "p_value" not in found.provenance
    both = (found.extra[f"p_against_{name}"].to_numpy() for name in ("zero", "control"))
    assert (found.extra["p_value"].to_numpy() >= next(both) - 1e-12).all()


def test_component_patching_counts_copies_once():
    copied = component_patching(MODEL, X.repeat(2, 1), Y.repeat(2, 1), metric(2))
    assert copied.provenance["different inputs"].startswith("12,")


@pytest.mark.parametrize("measure", [accuracy, all_right])
def test_outputs_that_are_nan_or_infinite_are_no_answer(measure):
    right = torch.zeros(3, dtype=torch.long)
    outputs = torch.zeros(3, 1, 5)
    outputs[1, 0, 2], outputs[2, 0, 0] = torch.nan, torch.inf
    assert measure(right)(outputs).tolist() == [1.0, 0.0, 0.0]
    assert measure(right)(outputs.masked_fill(torch.arange(5) == 4, -torch.inf)).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_accuracy_of_a_network_of_nan_is_0_and_other_metrics_refuse_it(dtype):
    model, right = random_network(0).to(dtype), torch.zeros(N, dtype=torch.long)
    with torch.no_grad():
        model.embed.W_E.fill_(torch.nan)
    found = ablation(model, X, accuracy(right), reference="zero")
    assert found.trivial == 0
    assert not found.values.any()
    for measure in (margin(right), logit_difference(right, right + 1)):
        with pytest.raises(ValueError, match="expected a finite metric, got nan"):
            ablation(model, X, measure, reference="zero")
