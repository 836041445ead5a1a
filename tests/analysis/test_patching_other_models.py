"""Networks that are not ours, with TransformerLens's hook names: whole runs give what ours gives."""

import numpy as np
import pytest
import torch
from einops import rearrange

from mechinterp.analysis.patching import AXES, activation_patching
from mechinterp.hooks import transformer_lens_3
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.models.convert import to_transformer_lens

ROWS, LENGTH, WORDS = 5, 4, 7
SIZES = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 6, "n_heads": 2, "d_mlp": 12, "d_vocab": WORDS}
KINDS = {
    "causal": {},
    "rotary": {"positional_embedding_type": "rotary", "rotary_adjacent_pairs": True},
    "bidirectional": {"attention_dir": "bidirectional"},
}
MASK = torch.arange(LENGTH) < torch.tensor([[4], [3], [4], [2], [4]])


def network(kind):
    """Our own, with no bias of the readout, which TransformerLens 4's native network lacks."""
    cfg = TransformerConfig(**SIZES, act_fn="relu", normalization_type="LN", **KINDS[kind])
    model, generator = HookedTransformer(cfg).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
        model.unembed.b_U.zero_()
    return model


def bridge_of(model):
    """TransformerLens 4's native bridge with the same weights."""
    try:
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge.sources.native import boot
    except ImportError:
        pytest.skip("this TransformerLens has no native bridge; version 4 has")

    kind = {"positional_embedding_type": model.cfg.positional_embedding_type}
    kind["attention_dir"] = model.cfg.attention_dir
    cfg = TransformerBridgeConfig(
        **SIZES, **kind, d_vocab_out=WORDS, act_fn="relu", normalization_type="LN", device="cpu",
        init_weights=False,
    )  # fmt: skip
    bridge = boot(cfg, dtype=torch.float32).eval()
    theirs = bridge.original_model
    pairs = [(theirs.tok_embed.weight, model.W_E), (theirs.head.weight, model.W_U.T)]
    if hasattr(model, "pos_embed"):
        pairs.append((theirs.pos.weight, model.W_pos))
    norms = [(theirs.ln_out, model.ln_final)]
    for layer, block in zip(theirs.layers, model.blocks):
        norms += [(layer.ln1, block.ln1), (layer.ln2, block.ln2)]
        for name in "QKV":
            linear = getattr(layer.attn, name.lower())
            pairs.append((linear.weight, rearrange(getattr(block.attn, f"W_{name}"), "h d e -> (h e) d")))
            pairs.append((linear.bias, getattr(block.attn, f"b_{name}").flatten()))
        pairs += [
            (layer.attn.o.weight, rearrange(block.attn.W_O, "h e d -> d (h e)")),
            (layer.attn.o.bias, block.attn.b_O),
            (layer.mlp.fc_in.weight, block.mlp.W_in.T),
            (layer.mlp.fc_in.bias, block.mlp.b_in),
            (layer.mlp.fc_out.weight, block.mlp.W_out.T),
            (layer.mlp.fc_out.bias, block.mlp.b_out),
        ]
    pairs += [pair for one, own in norms for pair in ((one.weight, own.w), (one.bias, own.b))]
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)
    return bridge


def their_transformer(model):
    """TransformerLens 3's HookedTransformer with the same weights."""
    try:
        transformer_lens_3()
    except ImportError as error:
        pytest.skip(str(error))
    return to_transformer_lens(model).eval()


OTHERS = {"bridge": bridge_of, "transformer_lens_3": their_transformer}
CASES = [(other, kind) for other in OTHERS for kind in KINDS]


def ids(seed):
    return torch.randint(WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


def preference(outputs):
    return (outputs[..., 1] - outputs[..., 2]).sum(1)


def patched(model, activation, **options):
    groups = {"some": [0, 1, 5], "one": [7]} if activation == "post" else None
    return activation_patching(model, ids(0), ids(1), preference, activation, groups=groups, **options)


def agree(one, other):
    assert abs(other.extra["effect"]).max() > 1e-3
    for name in ("values", "control"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=1e-5)


EVERY = [(*case, name) for case in CASES for name in ("q", "resid_pre")]
EVERY += [
    (other, "causal", name)
    for other in OTHERS
    for name in AXES
    if name not in ("q", "resid_pre", "resid_mid")
]


@pytest.mark.parametrize(("other", "kind", "activation"), EVERY)
def test_whole_runs_of_others_give_what_ours_gives(other, kind, activation):
    model = network(kind)
    agree(patched(OTHERS[other](model), activation), patched(model, activation))


# TransformerLens 3 attends to padding in a bidirectional network, and counts positions without padding.
@pytest.mark.parametrize(
    "read", [(1,), (0, 1), torch.tensor([[3], [2], [0], [1], [3]])], ids=["1", "2", "each"]
)
@pytest.mark.parametrize(
    ("other", "kind"), [c for c in CASES if c != ("transformer_lens_3", "bidirectional")]
)
def test_masks_and_reads_mean_the_same_there(other, kind, read):
    model = network(kind)
    options = {"read": read, "attention_mask": MASK, "positions": [0, 2]}
    agree(patched(OTHERS[other](model), "k", **options), patched(model, "k", **options))


@pytest.mark.parametrize("activation", ["z", "k", "pattern", "resid_pre", "post"])
@pytest.mark.parametrize("other", OTHERS)
def test_a_run_patched_into_itself_has_effect_exactly_0_there_too(other, activation):
    groups = {"some": [0, 1, 5]} if activation == "post" else None
    model = OTHERS[other](network("causal"))
    found = activation_patching(model, ids(0), ids(0), preference, activation, groups=groups)
    assert (found.extra["effect"] == 0).all()


def test_the_middle_of_a_bridges_stream_is_a_copy_and_is_refused():
    with pytest.raises(ValueError, match=r"expected blocks.0.hook_resid_mid to be the residual stream, got "):
        patched(bridge_of(network("causal")), "resid_mid")


def test_the_middle_of_the_stream_of_transformer_lens_3_is_the_stream():
    model = network("causal")
    agree(patched(their_transformer(model), "resid_mid"), patched(model, "resid_mid"))


@pytest.mark.parametrize("other", OTHERS)
def test_hooks_are_gone_after_an_exception_inside_the_metric_there_too(other):
    model, calls = OTHERS[other](network("causal")), []

    def failing(outputs):
        calls.append(1)
        if len(calls) > 4:
            raise KeyError("inside the metric")
        return preference(outputs)

    with pytest.raises(KeyError, match="inside the metric"):
        activation_patching(model, ids(0), ids(1), failing)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


WRONG = {
    "floats": ({"clean": ids(0).float(), "corrupted": ids(1).float()}, "expected token ids, int64"),
    "beyond": ({"read": (4,)}, r"expected positions to read within \[-4, 4\)"),
    "position": ({"positions": [4]}, r"expected positions within \[-4, 4\)"),
    "head": ({"heads": [2]}, r"expected heads within \[-2, 2\)"),
    "metric": ({"metric": lambda outputs: outputs.mean()}, "one number for each of 5 examples"),
}


@pytest.mark.parametrize(("changes", "match"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("other", OTHERS)
def test_what_cannot_be_is_refused_there_too(other, changes, match):
    arguments = {"clean": ids(0), "corrupted": ids(1), "metric": preference} | changes
    with pytest.raises(ValueError, match=match):
        activation_patching(OTHERS[other](network("causal")), **arguments)
