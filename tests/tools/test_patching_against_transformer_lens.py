"""Our sweeps give what TransformerLens 4's patching functions give, cell by cell."""

import pytest
import torch
from tool_networks import network, tokens

from mechinterp.analysis.patching import activation_patching

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens import patching

KINDS = {
    "causal": ("plain", {}),
    "bidirectional": ("plain", {"attention_dir": "bidirectional"}),
    "layernorm": ("layernorm", {}),
    "rotary": ("rotary", {}),
    "linear": ("linear", {}),
    "alibi": ("alibi", {}),
}
BLOCK, HEAD = ("layer", "position"), ("layer", "position", "head")
ALL_POSITIONS = ("layer", "head")
SWEEPS = {
    "resid_pre": ("resid_pre", BLOCK),
    "resid_mid": ("resid_mid", BLOCK),
    "attn_out": ("attn_out", BLOCK),
    "mlp_out": ("mlp_out", BLOCK),
    **{f"attn_head_{n}_by_pos": (a, HEAD) for n, a in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"))},
    **{
        f"attn_head_{name}_all_pos": (activation, ALL_POSITIONS)
        for name, activation in (("out", "z"), ("q", "q"), ("k", "k"), ("v", "v"), ("pattern", "pattern"))
    },
    "attn_head_pattern_by_pos": ("pattern", HEAD),
}


def preference(outputs):
    """How much token 1 is preferred to token 2 at the last position read, for each example."""
    return outputs[:, -1, 1] - outputs[:, -1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SWEEPS)
def test_values_are_transformer_lenss(name, kind):
    activation, by = SWEEPS[name]
    base, changes = KINDS[kind]
    model = network(base, **changes)
    _, clean = model.run_with_cache(tokens())
    theirs = getattr(patching, f"get_act_patch_{name}")(
        model, tokens(1), clean, lambda logits: preference(logits).mean()
    )
    if name == "attn_head_pattern_by_pos":
        theirs = theirs.mT  # theirs are layer, head, position
    for fast in (True, False):
        ours = activation_patching(
            model, tokens(), tokens(1), preference, activation, by=by, control=False, fast=fast
        )
        assert ours.values.dims == by
        torch.testing.assert_close(torch.tensor(ours.values.to_numpy()), theirs.double(), rtol=0, atol=1e-4)


def test_p_values_and_intervals_are_about_transformer_lenss():
    model = network()
    clean, corrupted = tokens(rows=9), tokens(1, rows=9)
    theirs = patching.get_act_patch_attn_head_out_by_pos(
        model, corrupted, model.run_with_cache(clean)[1], preference, reduce="none", baseline=True
    )
    ours = activation_patching(model, clean, corrupted, preference, control=False)
    torch.testing.assert_close(
        torch.tensor(ours.extra["effect"].to_numpy()), theirs.effect().mean(-1).double(), rtol=0, atol=1e-6
    )
    low, high = theirs.bootstrap_ci(of_effect=True)
    spread = (high - low).max().item()
    for mine, other in ((ours.extra["low"], low), (ours.extra["high"], high)):
        assert abs(mine.to_numpy() - other.numpy()).max() < 0.15 * spread
