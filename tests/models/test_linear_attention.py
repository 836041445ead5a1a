"""Linear attention that averages, and layers on the tokens themselves."""

import pytest
import torch
from small_networks import config, inputs, network, padding

from mechinterp import models
from mechinterp.models import TransformerConfig
from mechinterp.tasks import LinearRegression


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_the_mean_is_the_sum_over_the_keys_allowed(side):
    mask = padding(side)
    plain, mean = (network(kind, n_layers=1) for kind in ("linear", "linear_mean"))
    x = inputs(plain)
    (_, sums), (_, means) = (model.run_with_cache(x, attention_mask=mask) for model in (plain, mean))
    sums, means = (cache["blocks.0.attn.hook_pattern"] for cache in (sums, means))
    real = torch.ones(x.shape, dtype=torch.bool) if mask is None else mask
    allowed = real[:, None] & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    count = allowed.sum(-1, keepdim=True).clamp_min(1)[:, None]
    torch.testing.assert_close(means * count, sums)


def test_raw_tokens_are_the_stream_and_are_not_trained():
    model = network("raw_tokens")
    fresh = models.HookedTransformer(config("raw_tokens"))
    x = inputs(model)
    _, cache = fresh.run_with_cache(x)
    assert torch.equal(cache["hook_embed"], x)
    assert torch.equal(fresh.unembed(x), -x[..., -2:])
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert not {"embed.W_E", "unembed.W_U"} & trained


def test_layers_that_begin_as_the_identity_write_nothing():
    task = LinearRegression(d=3, n_context=5, n_test=6)
    model = models.linear_regression(task, n_layers=2, init_mode="identity")
    batch = task.dataset("test")
    assert not task.outputs(model, batch).any()
    assert bool((model.blocks[0].attn.W_Q[0].diagonal() > 0.3).all())


@pytest.mark.parametrize("tokens", ["joint", "separate"])
def test_the_deep_factory_takes_both_kinds_of_tokens(tokens):
    task = LinearRegression(d=3, n_context=4, tokens=tokens, n_test=6)
    model = models.deep_linear_regression(task, n_layers=2, d_model=8, n_heads=2, d_mlp=8)
    assert task.outputs(model, task.dataset("test")).shape == (6, 1, 1)


@pytest.mark.parametrize(
    "changes", [{}, {"attention": "softmax", "n_heads": 2}, {"d_model": 16, "n_layers": 3}]
)
def test_the_factory_takes_other_layers(changes):
    task = LinearRegression(d=3, n_context=4, n_test=6)
    model = models.linear_regression(task, **changes)
    assert task.outputs(model, task.dataset("test")).shape == (6, 1, 1)
    assert model.cfg.raw_tokens == ("d_model" not in changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"average_keys": True}, "linear attention for average_keys"),
        ({"raw_tokens": True, "d_input": 3}, "d_input equal to d_model"),
        ({"raw_tokens": True}, "d_input equal to d_model"),
        ({"init_mode": "identity", "d_head": 2}, "d_head equal to d_model"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"d_model": 8, "d_head": 8, "n_layers": 1, "n_ctx": 4, "d_vocab": 3, "d_mlp": 4,
                             "act_fn": "relu"} | changes)  # fmt: skip
