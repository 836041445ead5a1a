"""The rest of TransformerLens 4's tools on our networks: heads, weights, losses, and training."""

import math

import pytest
import torch
from tool_networks import KINDS, LENGTH, WORDS, network, tokens

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens import SVDInterpreter, evals, model_protocol, utilities
from transformer_lens.head_detector import detect_head
from transformer_lens.tools import analysis, training

PROTOCOLS = ("TransformerLensModel", "TransformerLensModelWithWeights", "TrainableTransformerLensModel")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_our_network_is_what_transformer_lens_calls_a_model(name):
    assert isinstance(network(), getattr(model_protocol, name))


# Heads.
def looks_back(*shifts):
    """A network of one layer whose heads each look a number of positions back, or evenly for ``None``."""
    model = network(d_model=8, d_head=8, n_heads=len(shifts), n_layers=1, n_ctx=8)
    attn = model.blocks[0].attn
    with torch.no_grad():
        for weight in (model.embed.W_E, attn.W_Q, attn.W_K, attn.b_Q, attn.b_K):
            weight.zero_()
        model.pos_embed.W_pos.copy_(torch.eye(8))
        for head, shift in enumerate(shifts):
            if shift is not None:
                attn.W_Q[head] = 200 * torch.eye(8)
                attn.W_K[head, : 8 - shift] = torch.eye(8)[shift:]
    return model


REPEATED = torch.tensor([[3, 1, 4, 3, 1, 4]])
PLANTED = {
    # How much of each query's attention goes where the pattern says: the first few cannot look back.
    "previous_token_head": (1, 5 / 6),
    "duplicate_token_head": (3, 3 / 6),
    "induction_head": (2, 3 / 6),
}


@pytest.mark.parametrize(("pattern", "planted"), PLANTED.items(), ids=PLANTED)
def test_a_planted_head_is_detected(pattern, planted):
    shift, share = planted
    scores = detect_head(looks_back(None, shift), REPEATED, pattern)[0]
    assert scores[1].item() == pytest.approx(share)
    assert scores[0] < 0.6 * scores[1]


def test_heads_are_detected_over_several_sequences():
    model = looks_back(None, 1)
    sequences = [tokens(seed, rows=1)[0] for seed in range(3)]
    together = detect_head(model, sequences, "previous_token_head")
    each = [detect_head(model, sequence, "previous_token_head") for sequence in sequences]
    torch.testing.assert_close(together, torch.stack(each).mean(0))
    assert together[0, 1].item() == pytest.approx((LENGTH - 1) / LENGTH)


# Weights.
def read_out(model, vector):
    return (vector @ model.W_U).detach()


@pytest.mark.parametrize("kind", ["plain", "tied"])
@pytest.mark.parametrize("where", ["OV", "w_out"])
def test_the_planted_singular_vector_is_found(where, kind):
    model = network(kind)
    answer = model.W_U.mT[4].detach() / model.W_U.mT[4].norm()
    with torch.no_grad():
        if where == "OV":
            model.blocks[1].attn.W_O[1] = 0.0
            model.blocks[1].attn.W_O[1, 2] = answer
        else:
            model.blocks[1].mlp.W_out.copy_(torch.outer(torch.arange(6.0), answer))
    head = 1 if where == "OV" else None
    found = SVDInterpreter(model).get_singular_vectors(where, 1, num_vectors=1, head_index=head)
    torch.testing.assert_close(found[:, 0, 0].abs(), read_out(model, answer).abs())


@pytest.mark.parametrize("kind", ["plain", "layernorm", "layernorm_folded"])
def test_singular_vectors_of_the_neurons_inputs(kind):
    model = network(kind)
    w_in = model.W_in[0] * (model.blocks[0].ln2.w[:, None] if kind == "layernorm" else 1)
    vectors = torch.linalg.svd(w_in.mT).Vh[:3]
    found = SVDInterpreter(model).get_singular_vectors("w_in", 0, num_vectors=3)
    torch.testing.assert_close(found[:, 0].mT.abs(), read_out(model, vectors).abs())


@pytest.mark.parametrize("role", ["Q", "K", "V"])
def test_the_head_that_reads_what_another_writes_is_the_closest(role):
    model = network()
    with torch.no_grad():
        model.get_parameter(f"blocks.1.attn.W_{role}")[0] = model.blocks[0].attn.W_O[1].mT
    found = analysis.attention_head_subspace_affinity(model, target_role=role)
    best = found.top_pairs(1)[0]
    assert (best.source.label, best.target.label) == ("L0H1", "L1H0")
    assert best.normalized == pytest.approx(1.0)


# Losses.
@pytest.mark.parametrize("masked", [False, True])
def test_our_loss_is_that_of_transformer_lens(masked):
    model = network()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]) if masked else None
    logits, loss = model(tokens(), return_type="both", attention_mask=mask)
    torch.testing.assert_close(loss, utilities.lm_cross_entropy_loss(logits, tokens(), mask))
    each = model(tokens(), return_type="loss", attention_mask=mask, loss_per_token=True)
    torch.testing.assert_close(each, utilities.lm_cross_entropy_loss(logits, tokens(), mask, per_token=True))


def test_a_network_that_knows_nothing_has_the_loss_of_a_guess():
    model = network(d_vocab=20000, n_ctx=8)
    with torch.no_grad():
        model.unembed.W_U.zero_()
        model.unembed.b_U.zero_()
    loss = evals.induction_loss(model, subseq_len=4, prepend_bos=False, device="cpu")
    assert loss.item() == pytest.approx(math.log(20000))


def test_a_loss_over_a_data_set_is_the_mean_over_its_batches():
    model = network()
    batches = [{"tokens": tokens(seed)} for seed in range(3)]
    expected = sum(model(batch["tokens"], return_type="loss").item() for batch in batches) / 3
    assert evals.evaluate_on_dataset(model, batches, device="cpu") == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_transformer_lens_trains_our_network(kind):
    model = network(kind)
    text = [{"tokens": row} for row in torch.arange(40)[:, None].add(torch.arange(LENGTH)) % WORDS]
    batch = torch.stack([row["tokens"] for row in text])
    before = model(batch, return_type="loss").item()
    config = training.TrainConfig(num_epochs=20, batch_size=40, lr=1e-2, device="cpu", print_every=None)
    training.train(model, config, text)
    assert model(batch, return_type="loss").item() < 0.7 * before


# What asks for a TransformerBridge by class, and so cannot take another model.
def test_the_jacobian_lens_refuses_all_but_its_own_class():
    with pytest.raises(TypeError, match="TransformerBridge only"):
        analysis.JacobianLens.fit(network(), [], corpus="none")
