"""Each sublayer against its formula, written out."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import config, inputs, network

from mechinterp.models.linear import affine
from mechinterp.models.mlp import MLP
from mechinterp.models.normalisation import Normalisation, normalisation

CLOSE = {"rtol": 1e-9, "atol": 1e-10}
ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * torch.distributions.Normal(0, 1).cdf(x),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "solu": lambda x: x * x.exp() / x.exp().sum(-1, keepdim=True),
    "square": lambda x: x * x,
}


def stream(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalise(kind):
    ln = Normalisation(config(normalization_type=kind)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in ln.parameters():
            weight.normal_(generator=generator)
    return ln


def test_layernorm_is_torchs():
    ln, x = normalise("LN"), stream(4, 3, 12)
    torch.testing.assert_close(ln(x), F.layer_norm(x, (12,), ln.w, ln.b, ln.eps), **CLOSE)


def test_rms_norm_is_torchs():
    ln, x = normalise("RMS"), stream(4, 3, 12)
    torch.testing.assert_close(ln(x), F.rms_norm(x, (12,), ln.w, ln.eps), **CLOSE)


@pytest.mark.parametrize(("kind", "full"), [("LNPre", "LN"), ("RMSPre", "RMS")])
def test_a_folded_norm_has_no_scale_and_no_shift(kind, full):
    x = stream(4, 3, 12)
    assert not list(normalise(kind).parameters())
    torch.testing.assert_close(normalise(kind)(x), Normalisation(config(normalization_type=full))(x), **CLOSE)


def test_no_norm_is_the_identity():
    x = stream(4, 3, 12)
    assert normalisation(config())(x) is x


def test_resetting_a_norm_restores_scale_1_and_shift_0():
    ln = normalise("LN")
    ln.reset_parameters()
    assert torch.equal(ln.w, torch.ones_like(ln.w))
    assert not ln.b.any()


@pytest.mark.parametrize(("act_fn", "formula"), ACTIVATIONS.items(), ids=ACTIVATIONS)
def test_an_mlp_is_two_affine_maps_and_an_activation(act_fn, formula):
    mlp = network(act_fn=act_fn).blocks[0].mlp
    x = stream(4, 3, 12)
    post = formula(x @ mlp.W_in + mlp.b_in)
    torch.testing.assert_close(mlp(x), post @ mlp.W_out + mlp.b_out, **CLOSE)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (0, 3)])
def test_affine_maps_and_mlps_take_any_number_of_axes(shape):
    x, weight, bias = stream(*shape, 12), stream(12, 5, seed=1), stream(5, seed=2)
    torch.testing.assert_close(affine(x, weight, bias), x @ weight + bias, **CLOSE)
    mlp = MLP(config()).double()
    mlp.reset_parameters()
    torch.testing.assert_close(mlp(x), (x @ mlp.W_in).relu() @ mlp.W_out, **CLOSE)


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_attention_is_a_sum_over_keys(kind, direction):
    model = network(attention=kind, attention_dir=direction, n_layers=1)
    _, cache = model.run_with_cache(inputs(model, rows=2))
    attn, x = model.blocks[0].attn, cache["resid_pre", 0]
    out = attn.b_O.expand_as(x).clone()
    for head in range(3):
        q, k, v = (
            x @ w[head] + b[head]
            for w, b in [(attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V)]
        )
        scores = q @ k.mT / 2.0
        if direction == "causal":
            scores = scores.tril() if kind == "linear" else scores + torch.full((5, 5), -torch.inf).triu(1)
        pattern = scores if kind == "linear" else scores.softmax(-1)
        torch.testing.assert_close(cache["pattern", 0][:, head], pattern, **CLOSE)
        out = out + pattern @ v @ attn.W_O[head]
    torch.testing.assert_close(cache["attn_out", 0], out, **CLOSE)


def test_head_results_sum_to_what_attention_writes():
    model = network(use_attn_result=True)
    _, cache = model.run_with_cache(inputs(model))
    total = cache["result", 1].sum(-2) + model.blocks[1].attn.b_O
    torch.testing.assert_close(total, cache["attn_out", 1], **CLOSE)
