"""Compiled networks compute the same, train, and hear hooks that are attached and removed later."""

import jaxtyping
import pytest
import torch
from small_networks import BASE, inputs, network

from mechinterp.hooks import Site, run, run_with_cache, zero
from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder

KINDS = ("rotary", "sharper", "layernorm", "encoder_decoder", "codebooks")
COMPILED = {
    "module": lambda model, backend: torch.compile(model, backend=backend),
    "in_place": lambda model, backend: (model.compile(backend=backend), model)[1],
    "function": lambda model, backend: torch.compile(lambda *args: model(*args), backend=backend),
    "blocks": lambda model, backend: ([block.compile(backend=backend) for block in model.blocks], model)[1],
}
HOOK = "blocks.0.attn.hook_z"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A compiler without memory, and functions without the type checks of the test run."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(kind="causal"):
    if kind == "encoder_decoder":
        return HookedEncoderDecoder(EncoderDecoderConfig(**BASE | {"n_ctx_source": 3})).eval()
    return network("causal", codebook_size=5).eval() if kind == "codebooks" else network(kind).eval()


def given(model):
    return inputs(model, rows=24, length=6)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients(kind):
    model = build(kind)
    x, trained = given(model), [weight for weight in model.parameters() if weight.requires_grad]
    compiled = torch.compile(model, backend="aot_eager")
    found, plain = compiled(x), model(x)
    torch.testing.assert_close(found, plain)
    slopes = [torch.autograd.grad(y.square().sum(), trained, allow_unused=True) for y in (found, plain)]
    torch.testing.assert_close(*slopes)


def attach(model, how, change):
    """Attach a hook in one of the ways there are, and return what removes it."""
    point = model.hook_dict[HOOK]
    if how == "by_name":
        model.add_hook(HOOK, lambda z, hook: change(z))
        return model.reset_hooks
    if how == "at_the_point":
        point.add_hook(lambda z, hook: change(z))
        return point.remove_hooks
    if how == "torch":
        return point.register_forward_hook(lambda module, args, z: change(z)).remove
    return model.blocks[0].attn.register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:])).remove


@pytest.mark.parametrize(
    ("way", "how", "backend"),
    [
        ("module", "by_name", "aot_eager"),
        *((way, "by_name", "eager") for way in ("in_place", "function", "blocks")),
        *(("module", how, "eager") for how in ("at_the_point", "torch", "before_a_module")),
    ],
)
@torch.no_grad()
def test_hooks_come_and_go(way, how, backend):
    model, plain = build(), build()
    x = given(model)
    compiled, intact = COMPILED[way](model, backend), plain(x)
    torch.testing.assert_close(compiled(x), intact)
    for change in (lambda z: z * 0, lambda z: z + 1):
        removals = [attach(one, how, change) for one in (model, plain)]
        torch.testing.assert_close(compiled(x), plain(x))
        assert not torch.allclose(plain(x), intact)
        for remove in removals:
            remove()
        torch.testing.assert_close(compiled(x), intact)


@pytest.mark.parametrize("kind", ["causal", "encoder_decoder"])
def test_edits_and_caches_of_a_compiled_network(kind):
    model = build(kind)
    x, compiled = given(model), torch.compile(model, backend="eager")
    compiled(x)
    edits = [zero(Site.at("blocks.*.attn.hook_z", head=1))]
    torch.testing.assert_close(run(compiled, x, edits=edits), run(model, x, edits=edits))
    found, cache = run_with_cache(compiled, x)
    expected, other = run_with_cache(model, x)
    torch.testing.assert_close((found, cache.cache_dict), (expected, other.cache_dict))
    assert not torch.allclose(run(compiled, x, edits=edits), found)
    torch.testing.assert_close(compiled.run_with_cache(x)[1].cache_dict, cache.cache_dict)


def test_many_hooks_one_after_the_other():
    model = build()
    x, compiled = given(model), torch.compile(model, backend="eager")
    _, cache = run_with_cache(model, x)
    for name in list(cache)[:12]:  # more than there are versions that the compiler keeps
        edits = [zero(Site(name))]
        torch.testing.assert_close(run(compiled, x, edits=edits), run(model, x, edits=edits))
    torch.testing.assert_close(compiled(x), model(x))


def test_a_network_is_one_graph():
    model = build("layernorm")
    explained = torch._dynamo.explain(model)(given(model), read=(-1,))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    program = torch.export.export(model, (given(model),))
    torch.testing.assert_close(program.module()(given(model)), model(given(model)))
