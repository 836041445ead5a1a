"""The encoder-decoder: equal to torch's, causal, masked, and a model that TransformerLens's tools take."""

import pytest
import torch
from torch import nn
from transformer_lens import patching

from mechinterp.hooks import Site, run, run_with_cache, zero
from mechinterp.models import Decoder, EncoderDecoderConfig, HookedEncoderDecoder, generate

SIZES = {
    "d_model": 16, "d_head": 4, "n_heads": 4, "d_mlp": 32, "n_layers": 2, "n_encoder_layers": 3, "n_ctx": 6,
    "n_ctx_source": 5, "d_vocab": 9, "act_fn": "relu", "normalization_type": "LN",
}  # fmt: skip


def network(**changes) -> HookedEncoderDecoder:
    model = HookedEncoderDecoder(EncoderDecoderConfig(**SIZES | changes)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def tokens(batch=4, length=10, seed=0):
    return torch.randint(9, (batch, length), generator=torch.Generator().manual_seed(seed))


def copy_attention(theirs: nn.MultiheadAttention, ours) -> None:
    flat = [w.transpose(0, 1).flatten(1).mT for w in (ours.W_Q, ours.W_K, ours.W_V)]
    theirs.in_proj_weight.copy_(torch.cat(flat))
    theirs.in_proj_bias.copy_(torch.cat([b.flatten() for b in (ours.b_Q, ours.b_K, ours.b_V)]))
    theirs.out_proj.weight.copy_(ours.W_O.flatten(0, 1).mT)
    theirs.out_proj.bias.copy_(ours.b_O)


def copy_norm(theirs: nn.LayerNorm, ours) -> None:
    theirs.weight.copy_(ours.w)
    theirs.bias.copy_(ours.b)


@torch.no_grad()
def torchs(model: HookedEncoderDecoder) -> nn.Transformer:
    """torch's own network with the same weights."""
    cfg = model.cfg
    theirs = nn.Transformer(
        cfg.d_model, cfg.n_heads, cfg.n_encoder_layers, cfg.n_layers, cfg.d_mlp, 0.0, batch_first=True,
        norm_first=True,
    ).eval()  # fmt: skip
    stacks = ((theirs.encoder, model.encoder), (theirs.decoder, model))
    for stack, own in stacks:
        copy_norm(stack.norm, own.ln_final)
        for layer, block in zip(stack.layers, own.blocks):
            copy_attention(layer.self_attn, block.attn)
            norms = [block.ln1, block.ln2]
            if stack is theirs.decoder:
                copy_attention(layer.multihead_attn, block.cross_attn)
                norms = [block.ln1, block.ln_cross, block.ln2]
            for norm, ours in zip((layer.norm1, layer.norm2, getattr(layer, "norm3", None)), norms):
                copy_norm(norm, ours)
            layer.linear1.weight.copy_(block.mlp.W_in.mT)
            layer.linear1.bias.copy_(block.mlp.b_in)
            layer.linear2.weight.copy_(block.mlp.W_out.mT)
            layer.linear2.bias.copy_(block.mlp.b_out)
    return theirs


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("padded", [False, True])
def test_the_outputs_are_those_of_torchs_transformer_with_the_same_weights(padded):
    model, packed = network(), tokens()
    real = torch.ones(4, 10, dtype=torch.bool)
    if padded:
        real[1, 3:5], real[2, 4], real[3, 8:] = False, False, False
    source, target = packed[:, :5], packed[:, 5:]
    theirs = torchs(model)
    with torch.no_grad():
        decoded = theirs(
            model.encoder.embed(source) + model.encoder.pos_embed(torch.arange(5)),
            model.embed(target) + model.pos_embed(torch.arange(5)),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(5).isinf(),
            src_key_padding_mask=~real[:, :5], memory_key_padding_mask=~real[:, :5],
            tgt_key_padding_mask=~real[:, 5:],
        )  # fmt: skip
        expected = model.unembed(decoded)
        given = model(packed, attention_mask=real)
    at = real[:, 5:]
    torch.testing.assert_close(given[at], expected[at], atol=1e-5, rtol=1e-5)


def test_no_position_sees_a_later_one_and_all_see_the_source():
    model, packed = network(), tokens()
    moved = packed.clone()
    moved[:, 8] = (moved[:, 8] + 1) % 9
    before, after = model(packed), model(moved)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])
    moved = packed.clone()
    moved[:, 4] = (moved[:, 4] + 1) % 9
    assert bool((model(moved) != before).any(-1).all())


@pytest.mark.parametrize("normalization_type", [None, "LN", "RMS"])
@pytest.mark.parametrize("attn_only", [False, True])
def test_reading_selects_from_all_outputs(normalization_type, attn_only):
    model, packed = network(normalization_type=normalization_type, attn_only=attn_only), tokens()
    every = model(packed)
    torch.testing.assert_close(model(packed, read=(-1, 6)), every[:, [4, 1]])
    own = torch.tensor([[5], [6], [7], [9]])
    torch.testing.assert_close(model(packed, read=own)[:, 0], every[torch.arange(4), own[:, 0] - 5])


@pytest.mark.parametrize("masked", [False, True])
def test_writing_with_a_cache_and_without_is_the_same(masked):
    model, prompt = network(), tokens(batch=32, length=7)
    mask = torch.ones(32, 7, dtype=torch.bool)
    if masked:
        mask[::2, 3:5] = False
    settings = {"attention_mask": mask if masked else None}
    fast = generate(model, prompt, 5, **settings)
    slow = generate(model, prompt, 5, cached=False, **settings)
    assert torch.equal(fast, slow)
    whole = torch.cat((prompt, fast), 1)[:, :-1]
    full = torch.cat((mask, torch.ones(32, 4, dtype=torch.bool)), 1) if masked else None
    again = model(whole, read=range(6, 11), attention_mask=full).argmax(-1)
    assert torch.equal(again, fast)


def test_writing_stops_at_the_end_token_and_at_the_limit():
    model, prompt = network(), tokens(batch=64, length=6)
    free = generate(model, prompt, 6)
    assert free.shape == (64, 6)
    end = int(free[0, 1])
    ended = generate(model, prompt, 6, end=end)
    for row, own in zip(ended, free):
        at = (own == end).nonzero().flatten().tolist()
        last = at[0] if at else 6
        assert torch.equal(row[:last], own[:last])
        assert bool((row[last:] == end).all())
    first = prompt[:1]
    assert generate(model, first, 6, end=int(generate(model, first, 1)[0, 0])).shape == (1, 1)


def test_hooks_change_what_is_written_as_they_change_a_run():
    model, prompt = network(), tokens(batch=8, length=6)
    for name in ("blocks.1.cross_attn.hook_z", "encoder.blocks.0.attn.hook_z"):
        edit = zero(Site(name))
        with model.hooks(fwd_hooks=[(name, lambda x, hook: torch.zeros_like(x))]):
            written = generate(model, prompt, 3)
        whole = torch.cat((prompt, written), 1)[:, :-1]
        again = run(model, whole, edits=[edit], read=range(5, 8)).argmax(-1)
        assert torch.equal(again, written)
        assert not torch.equal(written, generate(model, prompt, 3))


def test_every_activation_has_its_name():
    _, cache = run_with_cache(network(), tokens())
    for layer in (0, 1):
        for part in ("attn", "cross_attn"):
            for kind in ("q", "k", "v", "z", "attn_scores", "pattern"):
                assert f"blocks.{layer}.{part}.hook_{kind}" in cache
        for kind in ("pre", "mid", "mid_cross", "post"):
            assert cache[f"blocks.{layer}.hook_resid_{kind}"].shape == (4, 5, 16)
    assert cache["encoder.blocks.2.attn.hook_pattern"].shape == (4, 4, 5, 5)
    added = ("resid_pre", "attn_out", "cross_attn_out", "mlp_out")
    total = sum(cache[f"blocks.1.hook_{kind}"] for kind in added)
    torch.testing.assert_close(total, cache["blocks.1.hook_resid_post"])
    assert cache["encoder.hook_out"].shape == (4, 5, 16)


def test_a_decoder_with_its_sources_given_answers_as_the_whole():
    model, packed = network(), tokens()
    decoder = Decoder(model, packed[:, :5])
    torch.testing.assert_close(decoder(packed[:, 5:]), model(packed))
    twice = torch.cat((packed, packed.flip(0)))
    sources = torch.cat((packed, packed))[:, :5]
    torch.testing.assert_close(decoder(twice[:, 5:]), model(torch.cat((sources, twice[:, 5:]), 1)))
    assert "encoder.hook_embed" not in decoder.hook_dict


@pytest.mark.filterwarnings("ignore")
def test_transformer_lenss_patching_runs_on_the_decoder():
    model, clean, corrupted = network(), tokens(seed=0), tokens(seed=1)
    _, cache = Decoder(model, clean[:, :5]).run_with_cache(clean[:, 5:])
    decoder = Decoder(model, corrupted[:, :5])

    def metric(logits):
        return logits[:, -1, 0].mean()

    swept = patching.get_act_patch_resid_pre(decoder, corrupted[:, 5:], cache, metric)
    assert swept.shape == (2, 5)
    name = "blocks.1.hook_resid_pre"

    def patch(tensor, hook):
        tensor = tensor.clone()
        tensor[:, 2] = cache[name][:, 2]
        return tensor

    by_hand = metric(model.run_with_hooks(corrupted, fwd_hooks=[(name, patch)]))
    torch.testing.assert_close(swept[1, 2], by_hand)


def test_packing_fills_up_short_sources():
    model = network()
    source, target = tokens(length=3), tokens(length=2)
    packed, real = model.pack(source, target, padding=8)
    assert packed.shape == (4, 7)
    assert bool((packed[:, 3:5] == 8).all())
    assert real[0].tolist() == [True] * 3 + [False] * 2 + [True] * 2
    other, _ = model.pack(source, target, padding=1)
    torch.testing.assert_close(model(packed, attention_mask=real), model(other, attention_mask=real))


REFUSED = {
    "no_target": (lambda m: m(tokens(length=5)), "and then 1 to n_ctx"),
    "long_target": (lambda m: m(tokens(length=12)), "and then 1 to n_ctx"),
    "ids": (lambda m: m(tokens() + 1), "token ids in"),
    "read_of_the_source": (lambda m: m(tokens(), read=(2,)), "positions of the target"),
    "mask": (lambda m: m(tokens(), attention_mask=torch.ones(4, 5).bool()), "attention_mask"),
    "long_source": (lambda m: m.pack(tokens(length=6), tokens(length=2)), "at most n_ctx_source"),
    "more_than_there_is_room": (lambda m: generate(m, tokens(length=6), 7), "up to 6 new tokens"),
    "nothing_to_write": (lambda m: generate(m, tokens(length=6), 0), "up to 6 new tokens"),
    "end": (lambda m: generate(m, tokens(length=6), 2, end=9), "an end token within"),
    "targets": (lambda m: Decoder(m, tokens(batch=3, length=5))(tokens(length=2)), "for 3 sources"),
    "rotary": (lambda m: network(positional_embedding_type="rotary"), "added to the stream"),
    "no_encoder": (lambda m: network(n_encoder_layers=0), "n_encoder_layers >= 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_take_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call(network())


@pytest.mark.parametrize("flag", ["use_split_qkv_input", "use_attn_in"])
def test_inputs_of_cross_attention_are_hooked_where_the_config_says(flag):
    model = network(**{flag: True})
    whole, inputs = network(), tokens()
    torch.testing.assert_close(model(inputs), whole(inputs))
    hooks = ["q_input", "k_input", "v_input"] if flag == "use_split_qkv_input" else ["attn_in"]
    for hook in hooks:
        site = Site.at(f"blocks.0.cross_attn.hook_{hook}", head=0)
        assert not torch.allclose(run(model, inputs, edits=[zero(site)]), whole(inputs))


def test_a_decoder_refuses_what_it_would_leave_out():
    model = network()
    inputs, n_source = tokens(), model.cfg.n_ctx_source
    decoder = Decoder(model, inputs[:, :n_source], attention_mask=torch.ones(4, n_source).long())
    for options in ({"stop_at_layer": 1}, {"attention_mask": torch.ones(4, 3)}, {"read": (-1,)}):
        with pytest.raises(ValueError, match="targets alone"):
            decoder(inputs[:, n_source:], **options)
    for asked in (model, decoder):
        with pytest.raises(ValueError, match="return_type"):
            asked(inputs if asked is model else inputs[:, n_source:], return_type="loss")
    assert decoder.double()(inputs[:, n_source:]).dtype == torch.float64


def test_sums_over_components_that_leave_attention_to_the_source_out_are_refused():
    model, inputs = network(), tokens()
    _, cache = model.run_with_cache(inputs)
    with pytest.raises(ValueError, match="attention to a source"):
        cache.decompose_resid()
    torch.testing.assert_close(cache.accumulated_resid(-1)[-1], cache["blocks.1.hook_resid_post"])


def test_what_the_encoder_made_must_fit_and_its_hooks_be_heard():
    model, inputs = network(), tokens()
    n_source = model.cfg.n_ctx_source
    encoded, prompt = model.encoder(inputs[:, :n_source], None), inputs[:, : n_source + 1]
    assert torch.equal(generate(model, prompt, 2, encoded=encoded), generate(model, prompt, 2))
    with pytest.raises(ValueError, match="each of 4 sources"):
        generate(model, prompt, 2, encoded=encoded[:1])
    with pytest.raises(ValueError, match="each of 4 sources"):
        model(inputs, encoded=encoded[:1])
    hook = ("encoder.hook_out", lambda x, hook: x * 0)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="without hooks"):
        generate(model, prompt, 2, encoded=encoded)


def test_a_shorthand_for_another_parts_activations_is_refused():
    _, cache = network().run_with_cache(tokens())
    assert torch.equal(cache["pattern", 0, "attn"], cache["blocks.0.attn.hook_pattern"])
    for part in ("cross", "encoder", "foo"):
        with pytest.raises(ValueError, match="name the hook instead"):
            cache["pattern", 0, part]


@pytest.mark.parametrize("prompt", ["123+456=", [[1, 2]], torch.zeros(6, dtype=torch.long)])
def test_prompts_that_are_no_batches_of_ids_are_refused(prompt):
    with pytest.raises(ValueError, match="a prompt of ids"):
        generate(network(), prompt, 2)


def test_a_prompt_without_room_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match="up to 0 new tokens"):
        generate(network(), tokens(length=16), 2)
