"""TransformerLens 4's readouts, attributions and circuits on our networks, against what they must be."""

import pytest
import torch
from tool_networks import FOLDED, KINDS, LENGTH, ROWS, logit_difference, network, tokens

from mechinterp.hooks import Site, patch, run

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens.tools import analysis


# Logit lens.
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_entry_of_the_lens_is_the_logits(kind):
    model = network(kind)
    lens = analysis.logit_lens(model, tokens(), positions=None)
    assert lens.labels == ["0_pre", "1_pre", "final_post"]
    torch.testing.assert_close(lens.values[-1], model(tokens()).detach())


@pytest.mark.parametrize("kind", KINDS)
def test_each_entry_of_the_lens_is_its_stream_read_out(kind):
    model = network(kind)
    lens = analysis.logit_lens(model, tokens(), positions=None, incl_mid=True)
    _, cache = model.run_with_cache(tokens())
    for values, stream in zip(lens.values, cache.accumulated_resid(incl_mid=True)):
        torch.testing.assert_close(values, model.unembed(model.ln_final(stream)).detach())


def test_the_lens_ranks_targets():
    model = network()
    targets = tokens(1)
    lens = analysis.logit_lens(model, tokens(), positions=None, targets=targets)
    logits = model(tokens())
    ranks = (logits > logits.gather(-1, targets[..., None])).sum(-1)
    assert torch.equal(lens.rank_trajectory()[-1], ranks)


def test_the_lens_reads_a_cache():
    _, cache = network().run_with_cache(tokens())
    lens = cache.logit_lens(top_k=2)
    assert lens.readout.top_ids.shape == (3, ROWS, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_any_vector_can_be_read_out(kind):
    model = network(kind)
    vectors = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = analysis.logit_readout(model, vectors).values
    torch.testing.assert_close(found, model.unembed(model.ln_final(vectors)).detach())


# Direct logit attribution.
@pytest.mark.parametrize("unit", ["component", "head"])
@pytest.mark.parametrize("kind", FOLDED)
def test_direct_attributions_sum_to_the_difference_of_logits(kind, unit):
    model = network(kind)
    found = analysis.direct_logit_attribution(model, tokens(), 1, 2, unit=unit)
    logits = (model(tokens()) - model.b_U)[:, -1]
    torch.testing.assert_close(found.attribution.sum(0), logits[:, 1] - logits[:, 2])


@pytest.mark.parametrize("kind", FOLDED)
def test_the_last_layers_attribution_is_the_difference_of_logits(kind):
    model = network(kind)
    found = analysis.direct_logit_attribution(model, tokens(), 1, 2, unit="layer")
    logits = (model(tokens()) - model.b_U)[:, -1]
    assert found.labels[-1] == "final_post"
    torch.testing.assert_close(found.attribution[-1], logits[:, 1] - logits[:, 2])


def test_the_one_head_that_writes_the_answer_comes_first():
    model = only_writer(1, 0)
    found = analysis.direct_logit_attribution(model, tokens(), 1, 2, unit="head")
    heads = dict(zip(found.labels, found.attribution))
    assert heads["L1H0"].any()
    assert not any(heads[name].any() for name in ("L0H0", "L0H1", "L1H1"))


# Attribution patching.
def only_writer(layer, head):
    """A network in which one head alone writes to the stream."""
    model = network()
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            for which in range(2):
                if (index, which) != (layer, head):
                    block.attn.W_O[which] = 0.0
            block.mlp.W_out.zero_()
    return model


def attribute(model, granularity="node", metric=logit_difference):
    config = analysis.EdgeAttributionConfig(granularity=granularity)
    return analysis.attribution_patch(model, tokens(), tokens(1), metric, config)


@pytest.mark.parametrize("granularity", ["node", "edge"])
def test_the_one_head_that_writes_is_first_and_all_others_are_0(granularity):
    scores = attribute(only_writer(0, 1), granularity).node_scores
    heads = {node: score for node, score in scores.items() if node.kind == "attn_head_out"}
    assert any(heads[node] != 0 for node in heads if (node.layer, node.head) == (0, 1))
    assert all(heads[node] == 0 for node in heads if (node.layer, node.head) != (0, 1))


@pytest.mark.parametrize("kind", ["plain", "linear", "rotary", "alibi"])
def test_attribution_of_the_last_write_is_exact(kind):
    model = network(kind)
    scores = attribute(model).node_scores
    _, clean = model.run_with_cache(tokens())
    baseline = logit_difference(model(tokens(1)))
    for position in range(LENGTH):
        site = Site.at("blocks.1.hook_mlp_out", position=position)
        effect = logit_difference(run(model, tokens(1), edits=[patch(site, clean)])) - baseline
        node = analysis.Node(kind="mlp_out", layer=1, position=position)
        assert scores[node] == pytest.approx(effect.item(), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_edges_sum_to_nodes(kind):
    model = network(kind)
    nodes, edges = (attribute(model, granularity).node_scores for granularity in ("node", "edge"))
    assert edges == pytest.approx(nodes, rel=1e-6, abs=1e-9)
    assert len(nodes) == LENGTH * (1 + 2 * (2 + 1))


def test_attribution_of_nothing_is_nothing():
    config = analysis.EdgeAttributionConfig(granularity="edge")
    found = analysis.attribution_patch(network(), tokens(), tokens(), logit_difference, config)
    assert not any(found.edge_scores.values())


def test_attribution_leaves_no_gradient_and_no_flag_behind():
    model = network()
    attribute(model, "edge")
    assert all(weight.grad is None for weight in model.parameters())
    assert not (model.cfg.use_attn_result)
    assert not (model.cfg.use_split_qkv_input)
    assert not (model.cfg.use_hook_mlp_in)


# Faithfulness.
def faithfulness(model, circuit, **options):
    return analysis.faithfulness(model, tokens()[:1], tokens(1)[:1], logit_difference, circuit, **options)


def all_edges(model):
    return list(attribute(model, "edge").edge_scores)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_graph_recovers_all_and_no_edge_nothing(kind):
    model = network(kind)
    assert faithfulness(model, all_edges(model)).recovered == pytest.approx(1.0)
    assert faithfulness(model, []).recovered == pytest.approx(0.0, abs=1e-9)


def test_the_whole_graph_recovers_all_under_mean_ablation_too():
    model = network()
    mean = analysis.FaithfulnessConfig(ablation="mean")
    found = faithfulness(model, all_edges(model), config=mean, mean_tokens=tokens(5, rows=8))
    assert found.recovered == pytest.approx(1.0)


def test_the_one_writers_edges_recover_all():
    model = only_writer(0, 1)
    written = [
        (writer, reader)
        for writer, reader in all_edges(model)
        if writer.kind == "embed" or (writer.kind, writer.layer, writer.head) == ("attn_head_out", 0, 1)
    ]
    assert len(written) < len(all_edges(model))
    assert faithfulness(model, written).recovered == pytest.approx(1.0)
