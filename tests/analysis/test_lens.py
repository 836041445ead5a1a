"""Lens and attributions are TransformerLens's numbers and sum to what they must; errors are known."""

import runpy

import numpy as np
import pytest
import torch
from attention_networks import LENGTH, WORDS, bridge, random_network, tokens

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens.tools import analysis

from mechinterp import constructions
from mechinterp.analysis.attribution_patching import attribution_patching, first_order_error
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.lens import logit_lens
from mechinterp.analysis.logit_attribution import direct_logit_attribution
from mechinterp.hooks import Site, patch, run
from mechinterp.models.folding import fold_ln
from mechinterp.result import NotLearned
from mechinterp.tasks import ModularAddition

TASK = ModularAddition(p=13, train_fraction=0.5)
ROWS = 8
INPUTS, OTHERS = tokens(0, rows=ROWS), tokens(1, rows=ROWS)
RIGHT, WRONG = tokens(2, rows=ROWS, length=1)[:, 0], tokens(3, rows=ROWS, length=1)[:, 0]
NORMS = [None, "LNPre", "RMSPre"]


def preference(outputs):
    """How much each example's right answer is preferred, at the one position read."""
    rows = torch.arange(len(outputs))
    return outputs[rows, 0, RIGHT] - outputs[rows, 0, WRONG]


# Logit lens.
@pytest.mark.parametrize("norm", [*NORMS, "LN", "RMS"])
def test_the_last_stream_is_the_networks_own_answer(norm):
    model, targets = random_network(normalization_type=norm, n_layers=2), tokens(4, rows=ROWS, length=2)
    found = logit_lens(model, INPUTS, targets, read=(-1, 3))
    log_probs = model(INPUTS)[:, [-1, 3]].detach().log_softmax(-1)
    own = log_probs.gather(-1, targets[..., None]).squeeze(-1)
    assert found.values[-1].item() == pytest.approx(own.mean().item())
    np.testing.assert_allclose(found.extra["by_position"][-1], own.mean(0))
    accuracy = (log_probs.argmax(-1) == targets).double().mean().item()
    assert found.extra["accuracy"][-1].item() == pytest.approx(accuracy)
    assert found.values.coords["stream"].values.tolist() == ["0_pre", "0_mid", "1_pre", "1_mid", "final_post"]


def test_the_hand_built_network_has_its_answer_after_the_neurons_only():
    batch, model = TASK.dataset("test"), constructions.modular_addition(TASK).eval()
    found = logit_lens(model, batch.inputs, batch.targets, read=batch.read, gate=Gate.of(model, TASK))
    # Nothing is written yet where answers are read: all logits are equal, and share the first place.
    assert found.values.values == pytest.approx([-np.log(13), -np.log(13), 0], abs=1e-6)
    assert found.extra["accuracy"].values == pytest.approx([1 / 13, 1 / 13, 1])
    assert found.extra["rank"].values == pytest.approx([6, 6, 0])
    assert found.control[-1] < -10
    assert found.learned
    frequency = batch.targets.flatten().bincount() / len(batch)
    assert found.trivial == pytest.approx(float((frequency * frequency.log()).sum()))


def test_positions_may_differ_by_example():
    at = torch.randint(LENGTH, (ROWS, 1), generator=torch.Generator().manual_seed(0))
    model = random_network()
    found = logit_lens(model, INPUTS, RIGHT[:, None], read=at)
    each = [logit_lens(model, INPUTS, RIGHT[:, None], read=(int(k),)).extra["by_position"] for k in at]
    assert len({float(x[-1, 0]) for x in each}) > 1
    log_probs = model(INPUTS).detach().log_softmax(-1)[torch.arange(ROWS), at[:, 0], RIGHT]
    assert found.values[-1].item() == pytest.approx(log_probs.mean().item())


def test_padding_is_honoured():
    mask = torch.ones_like(INPUTS, dtype=torch.bool)
    mask[:, 7:] = False
    other = torch.where(mask, INPUTS, 0)
    model, targets = random_network(attention_dir="bidirectional"), RIGHT[:, None]
    lens = [logit_lens(model, ids, targets, read=(3,), mask=mask) for ids in (INPUTS, other)]
    assert lens[0] == lens[1]
    assert lens[0] != logit_lens(model, INPUTS, targets, read=(3,))
    sums = [direct_logit_attribution(model, ids, RIGHT, WRONG, read=3, mask=mask) for ids in (INPUTS, other)]
    np.testing.assert_allclose(sums[0].values, sums[1].values)


def test_shuffled_targets_are_the_lens_of_any_order():
    found = logit_lens(random_network(), INPUTS, RIGHT[:, None])
    log_probs = random_network()(INPUTS)[:, -1].detach().log_softmax(-1)
    assert found.control[-1].item() == pytest.approx(log_probs[:, RIGHT].mean().item())
    before = logit_lens(random_network(), INPUTS, RIGHT[:, None], untrained=random_network(7))
    np.testing.assert_array_equal(
        before.control, logit_lens(random_network(7), INPUTS, RIGHT[:, None]).values
    )
    assert before.control_kind == "untrained network"


# Direct logit attribution.
@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("norm", NORMS)
def test_attributions_sum_to_the_difference_of_logits(norm, unit):
    model = random_network(normalization_type=norm, n_layers=2)
    found = direct_logit_attribution(model, INPUTS, RIGHT, WRONG, unit=unit)
    difference = preference(model(INPUTS)[:, -1:].detach()).mean().item()
    assert found.values.sum().item() == pytest.approx(difference)
    assert found.extra["difference"].item() == pytest.approx(difference)
    assert found.extra["sum_error"].item() < 1e-9
    theirs = analysis.direct_logit_attribution(model, INPUTS, RIGHT, WRONG, unit=unit)
    np.testing.assert_allclose(found.values[:-1], theirs.attribution.mean(1).detach())
    assert found.values.coords["component"].values.tolist() == [*theirs.labels, "b_U"]


@pytest.mark.parametrize("norm", ["LN", "RMS"])
def test_a_norm_that_scales_is_refused_and_folding_it_helps(norm):
    model = random_network(normalization_type=norm)
    with pytest.raises(ValueError, match=f"expected folded normalisation.*got {norm}.*fold_ln"):
        direct_logit_attribution(model, INPUTS, RIGHT, WRONG)
    found = direct_logit_attribution(fold_ln(model), INPUTS, RIGHT, WRONG)
    assert found.values.sum().item() == pytest.approx(preference(model(INPUTS)[:, -1:]).mean().item())


def test_the_component_that_writes_the_answer_stands_out_from_random_directions():
    batch, model = TASK.dataset("test"), constructions.modular_addition(TASK).eval()
    right = batch.targets[:, 0]
    found = direct_logit_attribution(model, batch.inputs, right, (right + 1) % 13)
    assert found.provenance["largest"] == "0_mlp_out"
    assert found.extra["p_adjusted"].sel(component="0_mlp_out") < 0.05
    assert found.extra["p_adjusted"].sel(component="0_attn_out") == 1
    assert found.interval[0] > 5 * float(found.control.sel(component="0_mlp_out"))
    assert np.isnan(found.control.sel(component="b_U"))


def test_components_of_random_networks_stand_out_by_chance_only():
    p = [
        direct_logit_attribution(random_network(seed), INPUTS, RIGHT, WRONG, draws=99).extra["p"].values[:-1]
        for seed in range(40)
    ]
    assert 0.01 < (np.concatenate(p) <= 0.05).mean() < 0.12


def test_the_position_read_may_differ_by_example():
    model, at = random_network(), torch.arange(ROWS)
    found = direct_logit_attribution(model, INPUTS, RIGHT, WRONG, read=at)
    logits = model(INPUTS).detach()[torch.arange(ROWS), at]
    difference = logits[torch.arange(ROWS), RIGHT] - logits[torch.arange(ROWS), WRONG]
    assert found.values.sum().item() == pytest.approx(difference.mean().item())


def test_parts_that_do_not_sum_are_an_error():
    model = random_network()
    model.unembed.register_forward_hook(lambda module, given, out: 2 * out)
    with pytest.raises(RuntimeError, match="sum to the difference of logits"):
        direct_logit_attribution(model, INPUTS, RIGHT, WRONG)


# Attribution patching.
def attribute(model, **options):
    return attribution_patching(model, OTHERS, INPUTS, preference, **options)


def test_nodes_have_the_tools_scores_though_the_metric_knows_each_example():
    model = random_network(n_layers=2)
    found = attribute(model, exact=False)
    totals = np.zeros(found.values.shape)
    for row in range(ROWS):
        metric = lambda logits, row=row: logits[0, -1, RIGHT[row]] - logits[0, -1, WRONG[row]]  # noqa: E731
        pair = OTHERS[row : row + 1], INPUTS[row : row + 1]
        scores = analysis.attribution_patch(
            model, *pair, metric, analysis.EdgeAttributionConfig()
        ).node_scores
        heads = [score for node, score in scores.items() if (node.layer, node.head) == (1, 0)]
        totals[found.values.coords["node"].values.tolist().index("L1H0")] += heads
    np.testing.assert_allclose(found.values.sel(node="L1H0"), totals[4] / ROWS)
    nodes = ["embed", "L0H0", "L0H1", "0_mlp_out", "L1H0", "L1H1", "1_mlp_out"]
    assert found.values.coords["node"].values.tolist() == nodes
    assert "exact" not in found.extra


def test_exact_effects_are_those_of_patching_each_node():
    model = random_network(n_layers=2)
    found = attribute(model)
    with torch.no_grad():
        _, clean = model.run_with_cache(OTHERS)
        intact = preference(model(INPUTS)[:, -1:])
        sites = {
            "L1H1": Site.at("blocks.1.attn.hook_z", head=1, position=LENGTH - 1),
            "0_mlp_out": Site.at("blocks.0.hook_mlp_out", position=LENGTH - 1),
            "embed": Site.at("hook_embed", position=LENGTH - 1),
        }
        for node, site in sites.items():
            changed = preference(run(model, INPUTS, edits=[patch(site, clean)])[:, -1:])
            exact = found.extra["exact"].sel(node=node, position=LENGTH - 1)
            assert float(exact) == pytest.approx((changed - intact).mean().item())


def test_the_last_write_is_exact_to_first_order():
    found = attribute(random_network(n_layers=2))
    last = found.values.sel(node="1_mlp_out")
    np.testing.assert_allclose(last, found.extra["exact"].sel(node="1_mlp_out"), atol=1e-9)
    assert 0.3 < float(found.extra["correlation"]) < 1
    assert float(found.extra["largest_error"]) > 0
    assert 0.5 < float(found.extra["sign_agreement"]) <= 1


def test_nearby_inputs_are_nearly_linear():
    model = random_network()
    with torch.no_grad():
        model.embed.W_E.mul_(1e-3)
    found = attribute(model)
    assert float(found.extra["correlation"]) > 0.999
    assert float(found.extra["sign_agreement"]) == 1


def test_edges_sum_to_nodes():
    model = random_network(n_layers=2)
    nodes, edges = attribute(model), attribute(model, granularity="edge")
    np.testing.assert_allclose(edges.values.sum("reader"), nodes.values, atol=1e-9)
    assert edges.extra["exact"].equals(nodes.extra["exact"])
    assert np.isnan(edges.values.sel(writer="1_mlp_out", reader="L0H0 q")).all()
    assert edges.provenance["largest"].split(" ")[1] == "to"


def test_the_control_has_other_donors_and_no_difference_has_no_effect():
    found = attribute(random_network())
    assert found.control_kind == "clean runs shuffled among examples"
    assert not np.allclose(found.values, found.control)
    nothing = attribution_patching(random_network(), INPUTS, INPUTS, preference)
    assert not nothing.values.any()
    assert nothing.control.any()
    assert np.isnan(nothing.extra["correlation"])


def test_first_order_error_says_how_far():
    exact = np.array([1.0, -2.0, 0.001, 0.0])
    assert first_order_error(exact, exact) == {
        "correlation": pytest.approx(1),
        "largest_error": 0,
        "sign_agreement": 1,
    }
    found = first_order_error([1.0, 1.0, -0.5, 0.0], exact)
    assert (found["largest_error"], found["sign_agreement"]) == (3.0, 0.5)


# Models of others.
def test_a_bridge_is_read_and_attributed_once_its_norms_are_folded():
    model = bridge("LN")
    targets = RIGHT[:, None]
    lens = logit_lens(model, INPUTS, targets)
    log_probs = model(INPUTS)[:, -1].detach().log_softmax(-1)
    assert lens.values[-1].item() == pytest.approx(log_probs.gather(-1, targets).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="got LN"):
        direct_logit_attribution(model, INPUTS, RIGHT, WRONG)
    model.enable_compatibility_mode()
    found = direct_logit_attribution(model, INPUTS, RIGHT, WRONG, unit="head")
    assert found.values.sum().item() == pytest.approx(found.extra["difference"].item(), abs=1e-5)


def test_a_bridge_is_patched_under_its_own_hook_names():
    model = bridge()
    found = attribute(model)
    last = found.values.sel(node="1_mlp_out")
    np.testing.assert_allclose(last, found.extra["exact"].sel(node="1_mlp_out"), atol=1e-9)
    assert float(found.extra["exact"].sel(node="L1H0", position=LENGTH - 1)) != 0
    assert float(found.extra["exact"].sel(node="L1H0", position=0)) == 0


# What is refused.
def average(outputs):
    return outputs.mean()


SAME = random_network()
DROPPING = random_network(dropout=0.1).train()
REFUSED = {
    "a lens of real values": (
        lambda: logit_lens(random_network(readout="values"), INPUTS, RIGHT[:, None]),
        "real-valued outputs",
    ),
    "targets that are no answers": (lambda: logit_lens(SAME, INPUTS, RIGHT[:, None] + WORDS), r"in \[0, 9\)"),
    "too few targets": (lambda: logit_lens(SAME, INPUTS, RIGHT[:3, None]), "for 8 examples"),
    "a position without a target": (
        lambda: logit_lens(SAME, INPUTS, RIGHT[:, None], read=(0, 1)),
        "a target for each of 2 positions read, got 1",
    ),
    "no such position": (
        lambda: logit_lens(SAME, INPUTS, RIGHT[:, None], read=(LENGTH,)),
        r"positions to read within \[-12, 12\)",
    ),
    "a lens of one example": (lambda: logit_lens(SAME, INPUTS[:1], RIGHT[:1, None]), "at least 2 examples"),
    "a lens in training": (lambda: logit_lens(DROPPING, INPUTS, RIGHT[:, None]), "evaluation"),
    "an attribution of one example": (
        lambda: direct_logit_attribution(SAME, INPUTS[:1], RIGHT[:1], WRONG[:1]),
        "at least 2 examples",
    ),
    "an attribution in training": (
        lambda: direct_logit_attribution(DROPPING, INPUTS, RIGHT, WRONG),
        "evaluation mode",
    ),
    "an answer that there is not": (
        lambda: direct_logit_attribution(SAME, INPUTS, RIGHT, WRONG + WORDS),
        r"wrong in \[0, 9\)",
    ),
    "patching one pair": (
        lambda: attribution_patching(SAME, INPUTS[:1], OTHERS[:1], preference),
        "at least 2 examples",
    ),
    "pairs of two lengths": (
        lambda: attribution_patching(SAME, INPUTS[:, :5], OTHERS, preference),
        "clean and corrupted inputs of one shape",
    ),
    "patching vectors": (
        lambda: attribution_patching(SAME, torch.randn(8, 5, 3), torch.randn(8, 5, 3), preference),
        r"token ids \[batch, pos\].*float32 \(8, 5, 3\)",
    ),
    "patching in training": (
        lambda: attribution_patching(DROPPING, INPUTS, OTHERS, preference),
        "evaluation mode",
    ),
    "patching without MLPs": (
        lambda: attribution_patching(random_network(attn_only=True), INPUTS, OTHERS, preference),
        "attn_only=True",
    ),
    "a metric over all": (
        lambda: attribution_patching(SAME, INPUTS, OTHERS, average),
        r"one number for each of 8 examples",
    ),
}


@pytest.mark.parametrize(("ask", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_gate_is_remembered():
    gate = Gate(task="t", split="test", score=0.1, trivial=0.1, learned_at=0.9, n=4)
    for measure in (
        lambda: logit_lens(SAME, INPUTS, RIGHT[:, None], gate=gate),
        lambda: direct_logit_attribution(SAME, INPUTS, RIGHT, WRONG, gate=gate),
        lambda: attribution_patching(SAME, INPUTS, OTHERS, preference, gate=gate, exact=False),
    ):
        with pytest.warns(NotLearned, match="did NOT learn t"):
            assert measure().learned is False


# Figures and the example.
def test_results_are_drawn_and_read_back():
    results = (
        ("logit_lens", logit_lens(SAME, INPUTS, RIGHT[:, None])),
        ("direct_logit_attribution", direct_logit_attribution(SAME, INPUTS, RIGHT, WRONG, unit="head")),
        ("attribution_nodes", attribute(SAME)),
        ("attribution_nodes", attribute(SAME, exact=False)),
        ("attribution_edges", attribute(SAME, granularity="edge")),
    )
    for name, result in results:
        assert result.name == name
        figure = result.figure()
        assert figure.layout.title.text
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert any(axis.title.text for axis in figure.select_yaxes())
        assert type(result).from_json(result.to_json()) == result


def test_the_example_runs(capsys):
    runpy.run_path("examples/lens.py")["main"](11, hand_built=True)
    printed = capsys.readouterr().out
    assert "correlation" in printed
    assert "learned True" in printed
