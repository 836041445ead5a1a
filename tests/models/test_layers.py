"""Layers compose: a run may start and stop between any two of them; dropout acts in training only."""

import pytest
import torch
from small_networks import KINDS, inputs, network, padding

CLOSE = {"rtol": 1e-10, "atol": 1e-11}


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -3])
@pytest.mark.parametrize("side", [None, "right"])
@pytest.mark.parametrize("kind", ["causal", "layernorm", "rotary", "attention_only", "linear", "vectors"])
def test_two_halves_make_the_whole(kind, side, layer):
    model, mask = network(kind, n_layers=3), padding(side)
    x = inputs(model)
    stream = model(x, attention_mask=mask, stop_at_layer=layer)
    outputs = model(stream, attention_mask=mask, start_at_layer=layer)
    torch.testing.assert_close(outputs, model(x, attention_mask=mask), **CLOSE)


@pytest.mark.parametrize("read", [(-1,), (2, 0), (4, 3, 2, 1, 0)])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_second_half_may_be_read_at_some_positions(layer, read):
    model = network()
    x = inputs(model)
    outputs = model(model(x, stop_at_layer=layer), start_at_layer=layer, read=read)
    torch.testing.assert_close(outputs, model(x, read=read), **CLOSE)


def test_a_stretch_of_layers_is_their_own_work():
    model = network(n_layers=3)
    x = inputs(model)
    stretch = model(model(x, stop_at_layer=1), start_at_layer=1, stop_at_layer=2)
    torch.testing.assert_close(stretch, model(x, stop_at_layer=2), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_that_of_the_cache(kind):
    model = network(kind)
    x = inputs(model)
    _, cache = model.run_with_cache(x)
    torch.testing.assert_close(model(x, stop_at_layer=1), cache["resid_pre", 1], **CLOSE)


def test_return_types():
    model = network()
    x = inputs(model)
    logits, loss = model(x, return_type="both")
    assert torch.equal(logits, model(x))
    assert torch.equal(loss, model(x, return_type="loss"))
    assert model(x, return_type=None) is None
    torch.testing.assert_close(model(x, return_type="loss", loss_per_token=True).mean(), loss)


def test_ids_of_32_bits_are_ids():
    model = network()
    x = inputs(model)
    assert torch.equal(model(x.int()), model(x))
    assert torch.equal(model(x.int(), return_type="loss"), model(x, return_type="loss"))


# Dropout.
def test_dropout_is_random_in_training():
    model = network(dropout=0.5)
    x = inputs(model)
    assert not torch.equal(model(x), model(x))


def test_dropout_follows_the_global_seed():
    model = network(dropout=0.5)
    x = inputs(model)
    torch.manual_seed(0)
    first = model(x)
    torch.manual_seed(0)
    assert torch.equal(model(x), first)


def test_dropout_is_off_in_evaluation():
    model = network(dropout=0.5).eval()
    x = inputs(model)
    assert torch.equal(model(x), network()(x))


@pytest.mark.parametrize(
    "point", ["blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"]
)
def test_dropout_drops_its_share(point):
    model = network(dropout=0.25)
    _, cache = model.run_with_cache(inputs(model, rows=400))
    assert (cache[point] == 0).double().mean().item() == pytest.approx(0.25, abs=0.02)
