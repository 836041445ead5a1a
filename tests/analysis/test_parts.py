"""Skips and MLPs left out by edits: the same as composing the sublayers by hand; and what that does to "
"rank."""

import pytest
import torch

from mechinterp import models
from mechinterp.analysis.parts import VARIANTS, without
from mechinterp.analysis.rank_collapse import collapse_without_parts, rank_collapse
from mechinterp.figures import draw
from mechinterp.hooks import run_with_cache
from mechinterp.models.attention import View
from mechinterp.tasks import LinearRegression

TASK = LinearRegression(d=3, n_context=6, noise=0.3, n_test=8)
INPUTS = TASK.dataset("test").inputs


def network(**changes):
    return models.deep_linear_regression(TASK, n_layers=3, d_model=8, n_heads=2, d_mlp=16, **changes)


def by_hand(model, skips, mlps):
    places = torch.arange(INPUTS.shape[1])
    view = View.of(places, places, False, None)
    stream, found = model.embed(INPUTS), []
    for block in model.blocks:
        read = block.ln1(stream)
        stream = block.attn(read, read, read, view) + (0 if skips else stream)
        if not mlps:
            stream = block.mlp(block.ln2(stream)) + (0 if skips else stream)
        found.append(stream)
    return found


@pytest.mark.parametrize("kind", VARIANTS)
def test_edits_leave_out_what_they_say(kind):
    model, parts = network(), {"skips": False, "mlps": False} | VARIANTS[kind]
    _, cache = run_with_cache(
        model, INPUTS, edits=without(model, **VARIANTS[kind]), names="*.hook_resid_post"
    )
    for layer, stream in enumerate(by_hand(model, **parts)):
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_post"], stream, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["no skips", "neither"])
def test_attention_alone_has_no_mlp_to_leave_out(kind):
    model = network(attn_only=True)
    _, cache = run_with_cache(
        model, INPUTS, edits=without(model, **VARIANTS[kind]), names="*.hook_resid_post"
    )
    expected = by_hand(model, skips=True, mlps=True)[-1]
    torch.testing.assert_close(cache["blocks.2.hook_resid_post"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::mechinterp.result.NotLearned")
def test_without_skips_positions_become_alike():
    model = models.deep_linear_regression(TASK, n_layers=4)
    found = collapse_without_parts(model, INPUTS, untrained=model)
    last = found.values.isel(layer=-1)
    assert float(last.sel(network="neither")) < 0.05 < 0.2 < float(last.sel(network="whole"))
    whole = rank_collapse(model, INPUTS).values
    assert found.values.sel(network="whole").values == pytest.approx(whole.values, rel=1e-6)
    assert float(abs(found.values - found.control).max()) == 0
    assert draw(found).data
