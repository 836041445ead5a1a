"""Circuits read off the weights are what the network computes with them, and planted ones are found."""

import numpy as np
import pytest
import torch
from attention_networks import LENGTH, WORDS, bridge, planted, random_network, tokens

from mechinterp import constructions
from mechinterp.analysis.circuits import ov_circuit, position_circuit, qk_circuit
from mechinterp.analysis.folded import require_folded
from mechinterp.analysis.gates import Gate
from mechinterp.hooks import transformer_lens_3
from mechinterp.models.folding import fold_ln
from mechinterp.result import NotLearned
from mechinterp.tasks import ModularAddition

CIRCUITS = (qk_circuit, position_circuit, ov_circuit)


# Query and key.
def test_the_circuit_of_a_head_that_seeks_the_same_token_is_largest_on_its_diagonal():
    found = qk_circuit(planted("same", None))
    top, positive = found.extra["diagonal_top"], found.extra["positive"]
    assert top.values.ravel() == pytest.approx([1, 0])  # the other head scores all alike
    assert positive.values.ravel() == pytest.approx([1, 0])
    assert float(found.extra["diagonal_top_null"][0, 0]) < 0.5
    assert abs(float(found.extra["positive_null"][0, 0])) < 0.3
    assert found.interval[1] == 1
    assert found.control.dims == found.values.dims


def test_the_control_is_of_heads_with_matrices_as_large():
    model = random_network(d_model=32, d_head=16, d_vocab=60)
    found = qk_circuit(model)
    sizes = [float((array**2).mean() ** 0.5) for array in (found.values, found.control)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)
    assert found.control_kind == "random heads with matrices as large"


@pytest.mark.parametrize("changes", [{}, {"use_attn_scale": False}, {"attn_scale": 3.0}])
def test_scores_are_the_circuit_and_the_bias_of_keys_up_to_a_constant_a_query(changes):
    model, inputs = random_network(positional_embedding_type="none", **changes), tokens(rows=3)
    _, cache = model.run_with_cache(inputs)
    scores = cache["attn_scores", 0].detach().numpy()
    found = qk_circuit(model)
    circuit = found.values.values[0] + found.extra["key_bias"].values[0][:, None]
    for row, ids in enumerate(inputs.numpy()):
        last = scores[row, :, -1] - circuit[:, ids[-1], ids]
        np.testing.assert_allclose(last - last.mean(-1, keepdims=True), 0, atol=1e-9)


def test_under_a_norm_scores_are_the_circuit_over_the_sizes():
    model = random_network(positional_embedding_type="none", normalization_type="LNPre")
    inputs = tokens(rows=3)
    _, cache = model.run_with_cache(inputs)
    sizes = cache["blocks.0.ln1.hook_scale"][..., 0].detach().numpy()
    found, attn = qk_circuit(model), model.blocks[0].attn
    with torch.no_grad():
        attn.b_Q.zero_()
        attn.b_K.zero_()
    _, cache = model.run_with_cache(inputs)
    scores = cache["attn_scores", 0].detach().numpy()
    for row, ids in enumerate(inputs.numpy()):
        expected = found.values.values[0][:, ids[-1], ids] / sizes[row, -1] / sizes[row]
        np.testing.assert_allclose(scores[row, :, -1], expected, atol=1e-9)


def test_the_circuit_of_positions_finds_the_head_that_looks_back():
    found = position_circuit(planted(1, 0, None))
    assert found.extra["previous_top"].values.ravel()[:2] == pytest.approx([1, 0])
    assert found.extra["diagonal_top"].values.ravel()[1] == pytest.approx(1)
    future = np.triu(np.ones((LENGTH, LENGTH), dtype=bool), 1)
    assert np.isnan(found.values.values[:, :, future]).all()
    assert not np.isnan(found.values.values[:, :, ~future]).any()


def test_a_bidirectional_network_seeks_in_both_directions():
    model = random_network(attention_dir="bidirectional", positional_embedding_type="sinusoidal")
    found = position_circuit(model, positions=5)
    assert found.values.shape == (1, 2, 5, 5)
    assert not np.isnan(found.values).any()
    assert "previous_top" not in found.extra


# Output and value.
def test_the_ov_circuit_is_the_direct_path_of_a_layer_of_attention():
    model = random_network(attn_only=True, positional_embedding_type="none")
    inputs = tokens(rows=3)
    logits, cache = model.run_with_cache(inputs)
    found = ov_circuit(model)
    circuit, bias = (torch.tensor(x.values[0]) for x in (found.values, found.extra["bias"]))
    pattern = cache["pattern", 0].detach()
    read = torch.stack([circuit[:, ids] for ids in inputs])  # [batch, head, key, output]
    heads = (pattern @ read + bias[:, None]).sum(1)
    direct = (model.W_E[inputs] + model.b_O[0]) @ model.W_U + model.b_U
    torch.testing.assert_close(heads + direct.detach(), logits.detach())


def test_a_head_that_copies_is_known_by_its_diagonal_and_its_eigenvalues():
    model = random_network(d_model=WORDS, d_head=WORDS, n_heads=2)
    with torch.no_grad():
        for weight in (model.embed.W_E, model.unembed.W_U):
            weight.copy_(torch.eye(WORDS))
        model.blocks[0].attn.W_V[0] = model.blocks[0].attn.W_O[0] = torch.eye(WORDS)
    found = ov_circuit(model)
    np.testing.assert_allclose(found.values.sel(layer=0, head=0), np.eye(WORDS))
    assert found.extra["positive"].values[0, 0] == pytest.approx(1)
    assert found.extra["diagonal_top"].values[0, 0] == 1
    assert abs(found.extra["positive"].values[0, 1]) < 0.7


def test_the_hand_built_adder_writes_to_answers_through_its_neurons_only():
    found = ov_circuit(constructions.modular_addition(ModularAddition(p=11)))
    assert found.values.shape == (1, 1, 12, 11)
    assert not found.values.any()
    assert found.control.any()
    assert "diagonal_top" not in found.extra  # 12 tokens in, 11 numbers out


# All of them.
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_a_norm_that_scales_is_refused_and_folding_it_helps(circuit):
    model = random_network(normalization_type="LN")
    with pytest.raises(ValueError, match=r"expected folded normalisation.*got LN.*fold_ln"):
        circuit(model)
    assert np.isfinite(circuit(fold_ln(model)).extra["positive"]).all()


@pytest.mark.parametrize("circuit", CIRCUITS)
def test_an_untrained_network_is_a_control(circuit):
    before = random_network(1)
    found = circuit(random_network(0), untrained=before)
    assert found.control_kind == "untrained network"
    np.testing.assert_array_equal(found.control, circuit(before).values)


def test_some_tokens_are_rows_and_columns_of_the_whole():
    model, some = random_network(), [3, 1, 7]
    for circuit in (qk_circuit, ov_circuit):
        whole = circuit(model).values.values
        np.testing.assert_allclose(circuit(model, tokens=some).values, whole[:, :, some][..., some])


def test_a_gate_is_remembered():
    gate = Gate(task="t", split="test", score=0.1, trivial=0.1, learned_at=0.9, n=4)
    for circuit in CIRCUITS:
        with pytest.warns(NotLearned, match="did NOT learn t"):
            assert circuit(random_network(), gate=gate).learned is False


# Models of others.
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_a_bridge_is_taken_once_its_norms_are_folded(circuit):
    model = bridge("LN")
    with pytest.raises(ValueError, match=r"got LN.*enable_compatibility_mode"):
        circuit(model)
    model.enable_compatibility_mode()
    require_folded(model, "x")
    found = circuit(model)
    assert found.values.shape[:2] == (2, 2)
    assert np.isfinite(found.extra["positive"]).all()


def test_a_bridge_has_the_circuits_of_its_weights():
    model = bridge()
    scores = (model.W_E @ model.W_Q[1, 0] @ (model.W_E @ model.W_K[1, 0]).mT / 2).detach()
    np.testing.assert_allclose(qk_circuit(model).values.sel(layer=1, head=0), scores)


def test_the_class_of_transformer_lens_3_is_taken_once_its_norms_are_folded():
    try:
        theirs, config = transformer_lens_3()
    except ImportError as error:
        pytest.skip(str(error))
    sizes = {"n_layers": 2, "d_model": 8, "n_ctx": 6, "d_head": 4, "d_mlp": 8, "d_vocab": 7, "act_fn": "relu"}
    for circuit in CIRCUITS:
        with pytest.raises(ValueError, match="got LN"):
            circuit(theirs(config(**sizes, normalization_type="LN")))
        assert circuit(theirs(config(**sizes, normalization_type="LNPre"))).values.shape[:2] == (2, 2)


# What is refused.
REFUSED = {
    "positions without vectors": (
        lambda: position_circuit(random_network(positional_embedding_type="rotary")),
        r"position vectors.*'rotary'",
    ),
    "tokens that there are not": (
        lambda: qk_circuit(random_network(), tokens=[9]),
        r"9 rows of W_E, got \[9\]",
    ),
    "no tokens": (lambda: ov_circuit(random_network(), tokens=[]), r"rows of W_E, got \[\]"),
    "positions that there are not": (
        lambda: position_circuit(random_network(), positions=20),
        "12 rows of W_pos",
    ),
    "too many entries": (
        lambda: qk_circuit(random_network(d_vocab=6000)),
        "entries in all heads.*fewer tokens",
    ),
}


@pytest.mark.parametrize(("ask", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_circuits_are_drawn_and_read_back():
    model = random_network(n_layers=2, n_heads=3, d_head=4)
    for name, circuit in zip(("qk_circuit", "position_circuit", "ov_circuit"), CIRCUITS):
        result = circuit(model)
        assert result.name == name
        figure = result.figure()
        assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmid) == (
            -figure.layout.coloraxis.cmax,
            0,
        )
        assert "(4 of 6 heads)" in figure.layout.title.text
        assert type(result).from_json(result.to_json()) == result
