"""Every field of a config changes the network or is refused; copies with changes derive what follows."""

import contextlib
import itertools
import json
import math
from dataclasses import MISSING, fields, replace

import jaxtyping
import pytest
import torch
from small_networks import BASE

from mechinterp.hooks import run_with_cache
from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder, HookedTransformer, TransformerConfig
from mechinterp.models.generation import generate

OTHER = {
    "d_model": 16, "d_head": 6, "n_layers": 3, "n_ctx": 9, "n_heads": 2, "d_mlp": 11, "d_vocab": 5,
    "eps": 1e-2, "act_fn": "gelu", "normalization_type": "LN", "dtype": torch.float32, "d_vocab_out": 3,
    "d_input": 3, "readout": "classes", "attention_dir": "bidirectional", "attention": "linear",
    "attn_scale": 3.0, "positional_embedding_type": "rotary", "learned_positions": 3,
    "randomised_positions": 20, "attn_log_n": 2, "rotary_dim": 2, "rotary_base": 100.0, "dropout": 0.3,
    "init_mode": "gpt2", "codebook_size": 5, "codebook_top_k": 2, "codebook_sites": ("attn",),
    "codebook_temperature": 0.5, "seed": 1, "n_key_value_heads": 1, "num_experts": 2,
    "experts_per_token": 1, "n_encoder_layers": 1, "n_ctx_source": 3,
}  # fmt: skip
"""A value other than the default, of each field that is no switch."""
NEEDS = {
    "average_keys": {"attention": "linear"},
    "raw_tokens": {"d_input": 12, "d_vocab_out": 3},
    "eps": {"normalization_type": "LN"},
    **{
        f"rotary_{name}": {"positional_embedding_type": "rotary"}
        for name in ("dim", "base", "adjacent_pairs")
    },
    **{
        f"codebook_{name}": {"codebook_size": 5}
        for name in ("top_k", "sites", "temperature", "noise", "soft")
    },
}
"""Where a field acts; without that it is refused."""
INFORMATION = {
    "device": "where the weights are",
    "default_prepend_bos": "read by TransformerLens's tools, of texts",
    "uses_rms_norm": "follows normalization_type, whatever is given",
    "final_rms": "follows normalization_type, whatever is given",
}
CLASSES = {
    "transformer": (TransformerConfig, HookedTransformer, {}),
    "encoder_decoder": (EncoderDecoderConfig, HookedEncoderDecoder, {"n_ctx_source": 4}),
}
CASES = [
    (kind, f.name)
    for kind, (config, *_) in CLASSES.items()
    for f in fields(config)
    if f.name not in INFORMATION
]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Without the type checks of the test run: the library's own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def fingerprint(network, cfg):
    """All that can differ: weights, outputs, outputs in training mode, hook points, what may be asked."""
    model, length = network(cfg), 6 if isinstance(cfg, EncoderDecoderConfig) else 5
    generator = torch.Generator().manual_seed(0)
    if cfg.d_input is None:
        x = torch.randint(4, (3, length), generator=generator)
    else:
        x = torch.randn(3, length, cfg.d_input, generator=generator)
    found = dict(model.state_dict())
    _, cache = run_with_cache(model.eval(), x)
    torch.manual_seed(0)
    found |= dict(cache) | {"training": model.train()(x).detach(), "n_ctx": torch.tensor(cfg.n_ctx)}
    found |= {f"trained {name}": torch.tensor(w.requires_grad) for name, w in model.named_parameters()}
    with contextlib.suppress(ValueError):  # only networks of tokens write on
        found["written"] = generate(model.eval(), x, 1)
    return found


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def value_of(config, name):
    field = next(f for f in fields(config) if f.name == name)
    return OTHER.get(name, not field.default)


def attempt(make):
    """What is made, or the words of the refusal."""
    try:
        return make(), ""
    except (ValueError, TypeError) as error:
        return None, str(error)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_field_changes_the_network_or_is_refused(kind, name):
    config, network, own = CLASSES[kind]
    for needs in [{}, NEEDS[name]] if name in NEEDS else [{}]:
        base = BASE | own | needs
        before, error = attempt(lambda base=base: config(**base))
        if error:
            assert needs
            assert kind == "encoder_decoder"
            continue
        after, error = attempt(lambda base=base: config(**base | {name: value_of(config, name)}))
        if error:
            assert name in error
            assert needs == {} or kind == "encoder_decoder"
            continue
        assert not same(fingerprint(network, before), fingerprint(network, after))


BAD = {
    "int": (2.5, True, "3", math.nan),
    "float": (math.nan, math.inf, -1.5, 0.0, True, "1"),
    "bool": (1, "yes", None),
}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_values_that_mean_nothing_are_refused(kind, name):
    config, _, own = CLASSES[kind]
    field = next(f for f in fields(config) if f.name == name)
    plain = str(getattr(field.type, "__name__", field.type)).replace("typing.", "")
    spelt = {"Optional[int]": "int", "Optional": "int", "int | None": "int"}.get(plain, plain)
    for value in BAD.get(spelt, (object(), "nonsense", 7)):
        if (name, value) in {("dropout", 0.0)}:
            continue
        with pytest.raises((ValueError, TypeError), match=name):
            config(**BASE | own | (NEEDS.get(name, {}) if kind == "transformer" else {}) | {name: value})


VALUES = {
    "d_model": 24, "d_head": 6, "n_heads": 2, "d_mlp": 16, "d_vocab": 6, "d_vocab_out": 3, "n_ctx": 9,
    "attn_scale": 2.0, "rotary_dim": 2, "positional_embedding_type": "alibi", "normalization_type": "RMS",
    "attn_only": True, "n_layers": 1, "dtype": torch.float16, "seed": 3,
}  # fmt: skip


@pytest.mark.parametrize("positions", ["standard", "rotary"])
def test_a_copy_with_changes_is_the_config_of_all_of_them(positions):
    plain = {name: value for name, value in BASE.items() if name != "d_mlp"}
    plain["positional_embedding_type"] = positions
    changes = [dict(pair) for n in (1, 2) for pair in itertools.combinations(VALUES.items(), n)]
    for first in [{}, *({name: value} for name, value in VALUES.items())]:
        made, refused = attempt(lambda first=first: TransformerConfig(**plain | first))
        if refused:
            continue
        stored = TransformerConfig.from_json(json.loads(json.dumps(made.to_json())))
        for then in changes:
            expected = attempt(lambda first=first, then=then: TransformerConfig(**plain | first | then))
            assert attempt(lambda made=made, then=then: replace(made, **then)) == expected
            assert attempt(lambda stored=stored, then=then: replace(stored, **then)) == expected


def test_a_network_of_a_copy_has_the_copy_s_sizes():
    cfg = HookedTransformer(TransformerConfig(**BASE, positional_embedding_type="rotary")).cfg
    model = HookedTransformer(replace(cfg, d_head=6, d_model=24))
    assert (model.cfg.n_heads, model.cfg.attn_scale, model.cfg.rotary_dim) == (4, math.sqrt(6), 6)
    assert (model.blocks[0].attn.attn_scale, model.blocks[0].attn.rotary.dim) == (math.sqrt(6), 6)


def test_records_without_what_follows_are_read():
    record = TransformerConfig(**BASE, use_attn_scale=False).to_json()
    del record["derived"]
    assert TransformerConfig.from_json(record | {"attn_scale": 2.0, "codebook_temperature": 0.1}) == (
        TransformerConfig(**BASE, use_attn_scale=False)
    )


def test_every_field_has_a_case():
    for config, *_ in CLASSES.values():
        for f in fields(config):
            assert f.name in OTHER or f.name in INFORMATION or isinstance(f.default, bool)
            base = BASE.get(f.name, f.default)
            assert base is MISSING or f.name not in OTHER or OTHER[f.name] != base
