"""Activation patching finds what was planted, and says nothing of networks that are noise."""

import numpy as np
import pytest
import torch

from mechinterp import constructions
from mechinterp.analysis import effects
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.patching import AXES, activation_patching
from mechinterp.models import HookedTransformer, TransformerConfig
from mechinterp.result import NotLearned
from mechinterp.tasks import ModularAddition

ROWS, LENGTH, WORDS = 6, 4, 7
KINDS = {
    "causal": {},
    "bidirectional": {"attention_dir": "bidirectional"},
    "layernorm": {"normalization_type": "LN"},
    "rotary": {"positional_embedding_type": "rotary"},
    "attention_only": {"attn_only": True, "attention": "linear"},
    "vectors": {"d_input": 3, "d_vocab_out": 5, "readout": "values"},
}
GROUPS = {"first": [0, 1], "last": [5]}
EACH = torch.tensor([[0], [3], [2], [2], [1], [3]])
PADDED = torch.arange(LENGTH) >= torch.arange(ROWS)[:, None] % 3


def network(kind="causal", seed=0, **changes):
    """A network whose weights, biases and scales are all away from 0 and 1."""
    base = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 6, "d_mlp": 6, "d_vocab": WORDS}
    model = HookedTransformer(TransformerConfig(**base | {"dtype": torch.float64} | KINDS[kind] | changes))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def inputs(seed=0, rows=ROWS, model=None):
    generator = torch.Generator().manual_seed(seed)
    if model is not None and model.cfg.d_input is not None:
        return torch.randn(rows, LENGTH, model.cfg.d_input, generator=generator, dtype=torch.float64)
    return torch.randint(WORDS, (rows, LENGTH), generator=generator)


def preference(outputs):
    return (outputs[..., 1] - outputs[..., 2]).sum(1)


def differ_at(position, rows=ROWS):
    """Clean and corrupted ids that differ at one position only, and there in every example."""
    clean = inputs(rows=rows)
    corrupted = clean.clone()
    corrupted[:, position] = (clean[:, position] + 1) % WORDS
    return clean, corrupted


def agree(one, other):
    for name in ("values", "control"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.extra["effect"], other.extra["effect"], rtol=1e-9, atol=1e-9)


def both_ways(model, *arguments, **options):
    ways = [activation_patching(model, *arguments, **options, fast=fast) for fast in (True, False)]
    agree(*ways)
    return ways[0]


# Fast and plain.
CASES = [(name, kind) for name in AXES for kind in ("rotary", "bidirectional")]
CASES += [(name, kind) for name in ("z", "k", "attn_out") for kind in KINDS if (name, kind) not in CASES]


@pytest.mark.parametrize(("activation", "kind"), CASES)
def test_the_fast_way_is_the_plain_way(activation, kind):
    model = network(kind)
    pair, groups = (inputs(model=model), inputs(1, model=model)), GROUPS if activation == "post" else None
    found = both_ways(model, *pair, preference, activation, positions=[1, 3], groups=groups)
    assert found.values.dims == AXES[activation]
    assert abs(found.extra["effect"]).max() > 1e-3


BY = [
    (name, by)
    for name in AXES
    for by in (("layer",), ("layer", "head"), ("layer", "group"))
    if set(by) <= set(AXES[name])
]


@pytest.mark.parametrize(("activation", "by"), BY)
def test_along_axes_that_are_not_swept_all_is_patched_at_once(activation, by):
    groups = GROUPS if "group" in by else None
    found = both_ways(network("rotary"), inputs(), inputs(1), preference, activation, by=by, groups=groups)
    assert found.values.dims == by
    assert abs(found.extra["effect"]).max() > 1e-3


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("read", [(-1,), (0, 2), EACH], ids=["last", "two", "each"])
@pytest.mark.parametrize("kind", ["causal", "bidirectional"])
def test_whatever_is_read_and_masked(kind, read, mask):
    options = {"positions": [0, 2], "read": read, "attention_mask": mask}
    both_ways(network(kind), inputs(), inputs(1), preference, "k", **options)


@pytest.mark.parametrize("activation", ["z", "q", "mlp_out"])
def test_noise_is_denoise_with_the_runs_exchanged(activation):
    model = network()
    agree(
        both_ways(model, inputs(), inputs(1), preference, activation, direction="noise"),
        activation_patching(model, inputs(1), inputs(), preference, activation),
    )


@pytest.mark.parametrize("fast", [True, False])
def test_little_memory_gives_the_same(fast):
    arguments = (network(), inputs(), inputs(1), preference)
    agree(*(activation_patching(*arguments, fast=fast, memory=memory) for memory in (1, 1 << 30)))


# What must be 0 and what must be all.
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("activation", ["resid_pre", "z", "q", "k", "v", "pattern", "mlp_out"])
def test_a_run_patched_into_itself_has_effect_exactly_0(activation, fast):
    model = network("layernorm", dtype=torch.float32)
    found = activation_patching(model, inputs(), inputs(), preference, activation, fast=fast)
    assert (found.extra["effect"] == 0).all()
    assert (found.extra["p_value"] == 1).all()
    assert found.extra["recovered"].isnull().all()


@pytest.mark.parametrize("fast", [True, False])
def test_a_position_whose_token_does_not_differ_has_effect_exactly_0(fast):
    clean, corrupted = differ_at(2)
    model = network("layernorm", dtype=torch.float32)
    stream = activation_patching(model, clean, corrupted, preference, "resid_pre", fast=fast)
    heads = activation_patching(model, clean, corrupted, preference, "z", fast=fast)
    for found in (stream, heads):
        effect, p = found.extra["effect"], found.extra["p_value"]
        assert (effect.sel(position=[0, 1]) == 0).all()
        assert (p.sel(position=[0, 1]) == 1).all()
    assert (stream.extra["effect"].sel(layer=0, position=3) == 0).all()
    assert abs(stream.extra["effect"].sel(layer=0, position=2)) > 1e-3


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("activation", ["resid_pre", "z", "q", "k", "pattern", "mlp_out"])
def test_an_example_that_a_patch_leaves_as_it_was_stays_so_to_the_last_bit(activation, fast):
    clean, corrupted = differ_at(0, rows=16)
    corrupted[3:] = clean[3:]
    # Large enough that the same row of batches of different sizes rounds differently.
    model = network("layernorm", dtype=torch.float32, d_model=64, d_head=32, d_mlp=256)
    found = activation_patching(model, clean, corrupted, preference, activation, fast=fast, control=False)
    change = (found.extra["per_example"] - found.extra["before"]).to_numpy()
    assert (change[..., 3:] == 0).all()
    assert abs(change[..., :3]).max() > 1e-4


@pytest.mark.parametrize("kind", ["causal", "bidirectional", "rotary"])
def test_patching_everything_brings_the_other_run(kind):
    model = network(kind)
    found = both_ways(model, inputs(), inputs(1), preference, "resid_pre", by=("layer",))
    np.testing.assert_allclose(found.extra["recovered"], 1.0, rtol=1e-9)
    donor = found.extra["donor"]
    np.testing.assert_allclose(found.extra["per_example"].sel(layer=1), donor, rtol=1e-9, atol=1e-9)


def test_the_last_stream_read_brings_the_other_run():
    found = activation_patching(network(), inputs(), inputs(1), preference, "resid_post")
    last = found.extra["recovered"].sel(layer=1)
    np.testing.assert_allclose(last, [0, 0, 0, 1], rtol=1e-9, atol=1e-9)


# What was planted.
def only_writer(layer, head, dtype=torch.float32):
    """A network in which one head alone writes to the stream."""
    model = network("layernorm", dtype=dtype)
    with torch.no_grad():
        for index, block in enumerate(model.blocks):
            for which in range(2):
                if (index, which) != (layer, head):
                    block.attn.W_O[which] = 0.0
            block.mlp.W_out.zero_()
    return model


@pytest.mark.parametrize("planted", [(0, 1), (1, 0)])
def test_the_one_head_that_writes_is_first_and_all_others_are_exactly_0(planted):
    model = only_writer(*planted)
    found = activation_patching(model, inputs(rows=12), inputs(1, rows=12), preference, by=("layer", "head"))
    effect = abs(found.extra["effect"].to_numpy())
    assert np.unravel_index(effect.argmax(), effect.shape) == planted
    others = np.ones(effect.shape, dtype=bool)
    others[planted] = False
    assert (effect[others] == 0).all()
    assert (found.extra["p_value"].to_numpy()[others] == 1).all()
    assert (found.control.to_numpy()[others] == found.trivial).all()


def test_the_plain_way_finds_the_one_head_that_writes_too():
    arguments = (only_writer(0, 1, torch.float64), inputs(), inputs(1), preference)
    both_ways(*arguments, by=("layer", "head"))


def addition(p=13, n=12):
    """The hand-built network, pairs that differ in a alone, and how much it prefers the clean answer."""
    task = ModularAddition(p=p)
    generator = torch.Generator().manual_seed(0)
    a, b, shift = (torch.randint(low, p, (n,), generator=generator) for low in (0, 0, 1))
    clean = torch.stack((a, b, torch.full_like(a, p)), 1)
    corrupted = clean.clone()
    corrupted[:, 0] = (a + shift) % p
    right, wrong, rows = (a + b) % p, (a + shift + b) % p, torch.arange(n)

    def metric(outputs):
        return outputs[rows, -1, right] - outputs[rows, -1, wrong]

    return task, constructions.modular_addition(task), clean, corrupted, metric


def test_the_hand_built_network_reads_a_at_its_place_and_answers_at_the_last():
    task, model, clean, corrupted, metric = addition()
    gate = Gate.of(model, task)
    stream, heads, post = (
        activation_patching(model, clean, corrupted, metric, activation, gate=gate, groups=groups)
        for activation, groups in (("resid_pre", None), ("z", None), ("post", {"all": range(25)}))
    )
    planted = {"resid_pre": (stream, 0), "z": (heads, 2), "post": (post, 2)}
    for name, (found, position) in planted.items():
        recovered = found.extra["recovered"].to_numpy().ravel()
        assert recovered[position] == pytest.approx(1.0, abs=1e-4), name
        assert (np.delete(recovered, position) == 0).all(), name
        p_values = found.extra["p_value"].to_numpy().ravel()
        assert p_values[position] < 0.01
        assert (np.delete(p_values, position) == 1).all()
        control = (found.control.to_numpy().ravel() - found.trivial)[position]
        gain = found.extra["effect"].to_numpy().ravel()[position]
        assert abs(control) < 0.7 * gain
    assert stream.learned
    assert stream.provenance["interval of"] == "the effect at layer 0, position 0"
    low, high = stream.interval
    assert low < float(stream.extra["effect"].max()) < high


def test_each_group_of_neurons_carries_its_frequency():
    _, model, clean, corrupted, metric = addition()
    groups = {f: range(5 * f, 5 * f + 5) for f in range(5)}
    found = activation_patching(
        model, clean, corrupted, metric, "post", groups=groups, by=("layer", "group"), control=False
    )
    recovered = found.extra["recovered"].sel(layer=0)
    assert list(recovered.coords["group"].values) == list(groups)
    assert float(recovered.sum()) == pytest.approx(1.0, abs=1e-4)  # the readout is linear


# Chance.
def shares(of, n_networks=100, rows=9, **options):
    """The shares of cells with p <= 0.05 over random networks and pairs, one by one and adjusted."""
    raw, adjusted = [], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            effects,
            "benjamini_hochberg",
            lambda p, old=effects.benjamini_hochberg: (raw.append(p), old(p))[1],
        )
        for seed in range(n_networks):
            model = network(seed=seed, n_layers=1, d_mlp=4)
            pair = inputs(2 * seed + 10, rows), inputs(2 * seed + 11, rows)
            found = activation_patching(model, *pair, preference, of, **options)
            adjusted.append(found.extra["p_value"].to_numpy().ravel())
    return [float((np.concatenate([np.ravel(p) for p in all_]) <= 0.05).mean()) for all_ in (raw, adjusted)]


def test_random_networks_have_no_cell_that_matters():
    raw, adjusted = shares("z", positions=[0, 3])
    assert raw <= 0.05
    assert adjusted <= 0.01


def test_without_control_the_p_values_of_a_symmetric_effect_are_uniform():
    # An embedding exchanged for another of the same distribution: as likely up as down.
    raw, _ = shares("resid_pre", control=False)
    assert 0.02 <= raw <= 0.08


def test_the_control_takes_every_example_from_another():
    model, pair = network(), (inputs(), inputs(1))
    found = activation_patching(model, *pair, preference, "resid_pre", by=("layer",), seed=3)
    donors = effects.derangement(ROWS, 3)
    assert (donors != torch.arange(ROWS)).all()
    assert sorted(donors.tolist()) == list(range(ROWS))
    expected = preference(model(pair[0][donors], read=(-1,))).mean().item()
    np.testing.assert_allclose(found.control, expected, rtol=1e-9)


def test_donors_are_padded_alike_where_others_are():
    mask = torch.ones(9, 4, dtype=torch.bool)
    mask[:4, 0] = mask[8, :2] = False
    donors = effects.derangement(9, 3, mask)
    assert (donors != torch.arange(9)).all()
    assert (mask[donors[:8]] == mask[:8]).all()  # the last has no like


# What comes back.
def test_each_examples_values_average_to_the_values():
    found = activation_patching(network(), inputs(), inputs(1), preference)
    per_example = found.extra["per_example"]
    assert per_example.dims == ("layer", "position", "head", "example")
    np.testing.assert_allclose(per_example.mean("example"), found.values)
    assert float(found.extra["before"].mean()) == pytest.approx(found.trivial)
    np.testing.assert_allclose(found.values - found.trivial, found.extra["effect"], atol=1e-12)
    assert (found.extra["low"] <= found.extra["effect"]).all()
    assert (found.extra["effect"] <= found.extra["high"]).all()


def test_chosen_layers_positions_and_heads_are_those_of_the_whole_sweep():
    arguments = (network(), inputs(), inputs(1), preference)
    some = activation_patching(*arguments, layers=[1], positions=[-1, 1], heads=[0])
    every = activation_patching(*arguments)
    assert some.values.coords["position"].values.tolist() == [1, 3]
    expected = every.values.sel(layer=[1], position=[1, 3], head=[0])
    np.testing.assert_allclose(some.values, expected, rtol=1e-12)


def test_a_seed_fixes_everything():
    arguments = (network(), inputs(), inputs(1), preference)
    one, same, other = (activation_patching(*arguments, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_a_network_that_did_not_learn_is_untested():
    task, _, clean, corrupted, metric = addition()
    untrained = HookedTransformer(constructions.modular_addition(task).cfg)
    gate = Gate.of(untrained, task)
    with pytest.warns(NotLearned, match="did NOT learn"):
        found = activation_patching(untrained, clean, corrupted, metric, gate=gate)
    assert "UNTESTED" in str(found)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("control", "n"), [(True, 32), (False, 16)])
def test_progress_is_called_to_the_end(control, n, fast):
    told = []
    found = activation_patching(
        network(), inputs(), inputs(1), preference, control=control, fast=fast,
        progress=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    assert told == [(i + 1, n) for i in range(n)]
    assert (found.control is None) == (not control)
    assert bool(found.control_kind) == control


# The model stays as it was.
def hooks_of(model):
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_points())


@pytest.mark.parametrize("calls", [0, 1, 2, 5])
@pytest.mark.parametrize("fast", [True, False])
def test_hooks_are_gone_after_an_exception_inside_the_metric(fast, calls):
    model, seen = network(), []

    def failing(outputs):
        seen.append(1)
        if len(seen) > calls:
            raise KeyError("inside the metric")
        return preference(outputs)

    with pytest.raises(KeyError, match="inside the metric"):
        activation_patching(model, inputs(), inputs(1), failing, fast=fast)
    assert hooks_of(model) == 0


def test_weights_gradients_and_inputs_stay_as_they_were():
    model, pair = network(), (inputs(), inputs(1))
    saved = [tensor.clone() for tensor in (*model.parameters(), *pair)]
    for fast in (True, False):
        activation_patching(model, *pair, preference, fast=fast)
    assert all(torch.equal(now, before) for now, before in zip((*model.parameters(), *pair), saved))
    assert all(weight.grad is None for weight in model.parameters())
    assert hooks_of(model) == 0
