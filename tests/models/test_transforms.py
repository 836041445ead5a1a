"""Networks under torch's transforms, against plain autograd.

``torch.func``'s transforms, forward-mode differentiation, batched gradients, autocast, tracing and
``torch.compile`` give the numbers of the plain run, in every kind of network.
"""

import pytest
import torch
from small_networks import BASE, KINDS, inputs, network
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from mechinterp.autograd import is_readable, runs_eagerly
from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder
from mechinterp.tasks.base import cross_entropy

ALL = {
    **KINDS,
    "codebooks": {"codebook_size": 6, "codebook_top_k": 2},
    "encoder_decoder": {},
    "layernorm_gelu_tied": {"normalization_type": "LN", "act_fn": "gelu", "tie_embeddings": True},
}
READ = (-1, 1)
DISCRETE = ("codebooks",)  # derivatives are defined by the straight-through estimator, not by a limit


def case(kind, seed=0):
    """A network in evaluation mode, its inputs, and its other arguments."""
    if kind == "encoder_decoder":
        cfg = EncoderDecoderConfig(**BASE | {"n_ctx_source": 3}, normalization_type="LN", seed=seed)
        model = HookedEncoderDecoder(cfg).eval()
        x = torch.randint(4, (16, 8), generator=torch.Generator().manual_seed(1))
        return model, x, {"read": (-1, -3)}
    model = network(**{"seed": seed} | ALL[kind]).eval()
    return model, inputs(model, rows=24), {"read": READ}


def objective(model, x, extra):
    """A scalar, as a function of the parameters."""
    return lambda p, x=x: scalar(functional_call(model, p, (x,), extra))


def scalar(outputs):
    return (outputs.double().square().sum() + 1).sqrt()


def parameters(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def plain_gradient(model, x, extra):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    value = scalar(model(x, **extra))
    return dict(zip(trained, torch.autograd.grad(value, list(trained.values()), allow_unused=True)))


def close(ours, plain):
    for name, value in plain.items():
        found = ours[name]
        value = torch.zeros_like(found) if value is None else value
        torch.testing.assert_close(found, value, rtol=1e-7, atol=1e-9 * (1 + value.abs().max().item()))


@pytest.mark.parametrize("kind", ALL)
def test_grad(kind):
    model, x, extra = case(kind)
    close(grad(objective(model, x, extra))(parameters(model)), plain_gradient(model, x, extra))


@pytest.mark.parametrize("kind", ALL)
def test_gradients_of_each_example(kind):
    model, x, extra = case(kind)
    found = vmap(grad(lambda p, row: objective(model, row[None], extra)(p)), (None, 0))(parameters(model), x)
    for row in (0, 7):
        close({name: g[row] for name, g in found.items()}, plain_gradient(model, x[row : row + 1], extra))


@pytest.mark.parametrize("kind", ALL)
def test_an_ensemble_of_stacked_parameters(kind):
    models = [case(kind, seed)[0] for seed in range(3)]
    _, x, extra = case(kind)
    stacked, buffers = stack_module_state(models)
    found = vmap(lambda p, b: functional_call(models[0], (p, b), (x,), extra))(stacked, buffers)
    for one, model in zip(found, models):
        torch.testing.assert_close(one, model(x, **extra))


@pytest.mark.parametrize("kind", ALL)
def test_vmap_over_inputs_masks_and_positions(kind):
    model, x, _ = case(kind)
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[::3, -1] = False
    read = torch.stack((torch.full((len(x),), -1), torch.arange(len(x)) % 2 - 3), 1)

    def one(row, mask, at):
        return model(row[None], attention_mask=mask[None], read=at[None])[0]

    with torch.no_grad():
        torch.testing.assert_close(vmap(one)(x, real, read), model(x, attention_mask=real, read=read))


@pytest.mark.parametrize("kind", ALL)
def test_jacobians(kind):
    model, x, extra = case(kind)
    name = "blocks.0.attn.W_V"
    rest, x = parameters(model), x[:2]

    def one(w):
        return functional_call(model, rest | {name: w}, (x,), extra).sin().sum((0, 1))

    plain = torch.autograd.functional.jacobian(
        lambda w: functional_call(model, rest | {name: w}, (x,), extra).sin().sum((0, 1)), rest[name]
    )
    torch.testing.assert_close(jacrev(one)(rest[name]), plain)
    batched = torch.autograd.functional.jacobian(one, rest[name], vectorize=True)
    torch.testing.assert_close(batched, plain)


def directional(kind):
    """A direction of all parameters, and the derivative along it, by the gradient."""
    model, x, extra = case(kind)
    p = parameters(model)
    generator = torch.Generator().manual_seed(3)
    v = {name: torch.randn(w.shape, generator=generator, dtype=w.dtype) for name, w in p.items()}
    slopes = plain_gradient(model, x, extra)
    return model, x, extra, p, v, sum((g * v[name]).sum() for name, g in slopes.items() if g is not None)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in DISCRETE])
def test_jvp(kind):
    model, x, extra, p, v, expected = directional(kind)
    torch.testing.assert_close(jvp(objective(model, x, extra), (p,), (v,))[1], expected)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in DISCRETE])
def test_forward_mode(kind):
    model, x, extra, p, v, expected = directional(kind)
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(w, v[name]) for name, w in p.items()}
        slope = forward_ad.unpack_dual(objective(model, x, extra)(dual)).tangent
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in DISCRETE])
def test_products_with_the_hessian(kind):
    model, x, extra, p, v, _ = directional(kind)
    f = objective(model, x, extra)
    found = jvp(grad(f), (p,), (v,))[1]
    again = grad(lambda p: jvp(f, (p,), (v,))[1])(p)
    leaves = {name: w.clone().requires_grad_() for name, w in p.items()}
    slopes = torch.autograd.grad(f(leaves), list(leaves.values()), create_graph=True, allow_unused=True)
    along = sum((g * v[name]).sum() for name, g in zip(leaves, slopes) if g is not None)
    plain = torch.autograd.grad(along, list(leaves.values()), allow_unused=True)
    close(found, dict(zip(leaves, plain)))
    close(again, dict(zip(leaves, plain)))


@pytest.mark.parametrize("kind", ["causal", "layernorm", "layernorm_gelu_tied", "encoder_decoder"])
def test_hessian(kind):
    model, x, extra = case(kind)
    p = parameters(model)

    def f(b):
        return objective(model, x, extra)(p | {"unembed.b_U": b})

    plain = torch.autograd.functional.hessian(f, p["unembed.b_U"])
    torch.testing.assert_close(hessian(f)(p["unembed.b_U"]), plain)
    torch.testing.assert_close(torch.autograd.functional.hessian(f, p["unembed.b_U"], vectorize=True), plain)


@pytest.mark.parametrize("kind", ALL)
def test_autocast_runs_forward_and_backward(kind):
    model, x, extra = case(kind)
    model.float().train(model.training)
    x = x.float() if x.is_floating_point() else x
    expected, slopes = model(x, **extra), plain_gradient(model, x, extra)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x, **extra)
        loss = scalar(found)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ours = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    assert (found - expected).norm() < 0.2 * expected.norm()  # squares of squares: rounding four times
    if kind in DISCRETE:
        return
    one, other = (
        torch.cat([g.flatten() for g in each if g is not None]).double() for each in (ours, slopes.values())
    )
    least = 0.9 if kind == "square" else 0.97  # the same, in slopes
    assert torch.cosine_similarity(one, other, 0) > least


@pytest.mark.parametrize("kind", ALL)
def test_traced_operations(kind):
    model, x, extra = case(kind)
    x = x[:4]
    traced = make_fx(lambda x: model(x, **extra))(x)
    with torch.no_grad():
        torch.testing.assert_close(traced(x), model(x, **extra))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses(dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator).to(torch.float64)
    targets = torch.randint(5, (6,), generator=generator)
    leaf = logits.clone().requires_grad_()
    plain = torch.autograd.grad(cross_entropy(leaf, targets, dtype), leaf)[0]

    def loss(z):
        return cross_entropy(z, targets, dtype)

    def close(a, b):
        return torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)

    close(grad(loss)(logits), plain)
    close(vmap(lambda z, t: cross_entropy(z[None], t[None], dtype))(logits, targets).mean(), loss(logits))
    close(jvp(loss, (logits,), (logits,))[1], (plain * logits).sum().to(dtype))
    curved = torch.autograd.functional.hessian(loss, logits)
    close(hessian(loss)(logits), curved)
    close(torch.autograd.functional.hessian(loss, logits, vectorize=True), curved)


@pytest.mark.parametrize("kind", ALL)
def test_shapes_alone(kind):
    model, x, extra = case(kind)
    assert model.to("meta")(x.to("meta"), **extra).shape == (len(x), 2, model.cfg.d_vocab_out)


def test_plain_runs_keep_the_fast_paths():
    x = torch.zeros(2)
    assert runs_eagerly()
    assert is_readable(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_eagerly()
        assert is_readable(x)
    assert not is_readable(x.to("meta"))
    assert not is_readable(torch._subclasses.FakeTensorMode().from_tensor(x))
    seen = []
    vmap(lambda row: seen.append((runs_eagerly(), is_readable(row))) or row)(x)
    assert seen == [(False, False)]
