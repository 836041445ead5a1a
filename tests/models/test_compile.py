"""Compiled networks compute the same, train, and hear hooks that are attached and removed later.

One process without the type checks of the test run compiles them all, which the compiler would trace too.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)
KINDS = ("rotary", "layernorm", "encoder_decoder", "codebooks")
WAYS = ("module", "in_place", "function", "blocks")
HOWS = ("by_name", "at_the_point", "torch", "before_a_module")
CASES = [
    *(f"outputs and gradients: {kind}" for kind in KINDS),
    *(f"hooks: {way} {how}" for way in WAYS for how in (HOWS if way == "module" else HOWS[:1])),
    "edits and caches",
    "more hooks than the compiler keeps versions",
    "one graph",
]


@pytest.fixture(scope="module")
def found():
    """The error of each case, empty where there was none."""
    path = [str(HERE.parents[2]), str(HERE.parent)]
    code = f"import sys; sys.path[:0] = {path!r}; import test_compile; test_compile.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False
    )
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_compiled(case, found):
    assert found[case] == ""


def main():
    """Run all cases and print their errors."""
    print(json.dumps({case: error_of(case) for case in CASES}))


def error_of(case):
    import torch

    torch._dynamo.reset()
    name, _, options = case.partition(": ")
    checks = {
        "outputs and gradients": same_outputs_and_gradients,
        "hooks": hears_hooks,
        "edits and caches": takes_edits,
        "more hooks than the compiler keeps versions": takes_many_hooks,
        "one graph": is_one_graph,
    }
    try:
        checks[name](*options.split())
    except Exception as error:  # shown by the test that reads it
        return repr(error)[-1500:]
    return ""


def build(kind="causal"):
    from small_networks import BASE, inputs, network

    from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder

    if kind == "encoder_decoder":
        model = HookedEncoderDecoder(EncoderDecoderConfig(**BASE | {"n_ctx_source": 3, "n_layers": 1}))
    elif kind == "codebooks":
        model = network("causal", codebook_size=5, n_layers=1)
    else:
        model = network(kind, n_layers=1)
    return model.eval(), inputs(model, rows=24, length=6)


def same_outputs_and_gradients(kind):
    import torch

    model, x = build(kind)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    outputs = torch.compile(model, backend="aot_eager")(x), model(x)
    torch.testing.assert_close(*outputs)
    slopes = [torch.autograd.grad(y.square().sum(), trained, allow_unused=True) for y in outputs]
    torch.testing.assert_close(*slopes)


def compiled_in(way, model):
    import torch

    if way == "module":
        return torch.compile(model, backend="aot_eager")
    if way == "function":
        return torch.compile(lambda x: model(x), backend="eager")
    for part in [model] if way == "in_place" else model.blocks:
        part.compile(backend="eager")
    return model


def attach(model, how, change):
    """Attach a hook in one of the ways there are, and return what removes it."""
    name = "blocks.0.attn.hook_z"
    point = model.hook_dict[name]
    if how == "by_name":
        model.add_hook(name, lambda z, hook: change(z))
        return model.reset_hooks
    if how == "at_the_point":
        point.add_hook(lambda z, hook: change(z))
        return point.remove_hooks
    if how == "torch":
        return point.register_forward_hook(lambda module, args, z: change(z)).remove
    return model.blocks[0].attn.register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:])).remove


def hears_hooks(way, how):
    import torch

    model, x = build()
    plain, intact = build()[0], model(x)
    compiled = compiled_in(way, model)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), intact)
        for change in (lambda z: z * 0, lambda z: z + 1):
            removals = [attach(one, how, change) for one in (model, plain)]
            torch.testing.assert_close(compiled(x), plain(x))
            assert not torch.allclose(plain(x), intact)
            for remove in removals:
                remove()
            torch.testing.assert_close(compiled(x), intact)


def takes_edits():
    import torch

    from mechinterp.hooks import Site, run, run_with_cache, zero

    model, x = build()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    edits = [zero(Site.at("blocks.*.attn.hook_z", head=1))]
    torch.testing.assert_close(run(compiled, x, edits=edits), run(model, x, edits=edits))
    found, expected = run_with_cache(compiled, x), run_with_cache(model, x)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1].cache_dict, expected[1].cache_dict)
    torch.testing.assert_close(compiled.run_with_cache(x)[1].cache_dict, expected[1].cache_dict)
    assert not torch.allclose(run(compiled, x, edits=edits), found[0])


def takes_many_hooks():
    import torch

    from mechinterp.hooks import Site, run, run_with_cache, zero

    model, x = build()
    compiled = torch.compile(model, backend="eager")
    for name in list(run_with_cache(model, x)[1])[:10]:
        edits = [zero(Site(name))]
        torch.testing.assert_close(run(compiled, x, edits=edits), run(model, x, edits=edits))
    torch.testing.assert_close(compiled(x), model(x))


def is_one_graph():
    import torch

    model, x = build("layernorm")
    explained = torch._dynamo.explain(model)(x, read=(-1,))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
