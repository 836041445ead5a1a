"""What activation patching cannot do it refuses before any patch is made, and says what to do instead."""

import inspect

import pytest
import torch

from mechinterp.analysis.patching import activation_patching
from mechinterp.models import HookedTransformer, TransformerConfig

ROWS, LENGTH, WORDS = 4, 3, 7
SIZES = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 5, "d_vocab": WORDS}


def network(**changes):
    return HookedTransformer(TransformerConfig(**SIZES | {"d_mlp": 6} | changes)).eval()


def attention_only():
    return HookedTransformer(TransformerConfig(**SIZES, attn_only=True)).eval()


def ids(rows=ROWS, length=LENGTH, seed=0):
    return torch.randint(WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def preference(outputs):
    return outputs[:, -1, 1] - outputs[:, -1, 2]


def refused(match, model=None, clean=None, corrupted=None, metric=preference, activation="z", **options):
    """Patching raises a ValueError of the right words before its first patch."""
    done = []
    for fast in (True, False):
        with pytest.raises(ValueError, match=f"expected .*{match}"):
            activation_patching(
                network() if model is None else model,
                ids() if clean is None else clean,
                ids(seed=1) if corrupted is None else corrupted,
                metric,
                activation,
                fast=fast,
                progress=lambda *so_far: done.append(so_far),
                **options,
            )
    assert not done


@pytest.mark.parametrize("corrupted", [ids(length=2), ids(rows=3), torch.zeros(ROWS, LENGTH, 2)])
def test_runs_that_do_not_match(corrupted):
    refused(r"of one shape, got \(4, 3\) and .+; pair each clean", corrupted=corrupted)


def test_ids_as_floats():
    refused(
        r"token ids, int64 .+got torch.float32 .+\.long\(\)", clean=ids().float(), corrupted=ids().float()
    )


@pytest.mark.parametrize("which", ["clean", "corrupted"])
def test_ids_that_are_no_words(which):
    refused(r"token ids in \[0, 7\), got", **{which: ids() + WORDS})


def test_more_positions_than_the_network_has():
    refused("1 to n_ctx=5 positions, got 6; shorten", clean=ids(length=6), corrupted=ids(length=6))


def test_a_single_example():
    refused("at least 2 examples, got 1", clean=ids(1), corrupted=ids(1, seed=1))


def test_dropout_at_work():
    refused("evaluation mode.+dropout.+eval()", network(dropout=0.1).train())


def test_training_mode_without_dropout_is_fine():
    found = activation_patching(network().train(), ids(), ids(seed=1), preference)
    assert found.values.notnull().all()


MASKS = {
    "empty": (torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]), r"empty mask in examples \[1\]"),
    "short": (torch.ones(ROWS, LENGTH - 1), r"attention_mask of \(4, 3\), got \(4, 2\); give one entry"),
}


@pytest.mark.parametrize(("mask", "match"), MASKS.values(), ids=MASKS)
def test_masks_that_cannot_be(mask, match):
    refused(match, attention_mask=mask)


METRICS = {
    "nan": (lambda o: preference(o) / 0 * 0, "finite metric, got nan of example 0 in the intact run"),
    "infinity": (lambda o: preference(o).abs() / 0, "finite metric, got inf of example 0 in the intact run"),
    "a mean": (lambda o: preference(o).mean(), r"each of 4 examples, .+got shape \(\); leave out the mean"),
    "too few": (lambda o: preference(o)[:2], r"got shape \(2,\)"),
    "all outputs": (lambda o: o, r"got shape \(4, 1, 7\)"),
    "a number": (lambda o: preference(o).sum().item(), "got float"),
    "a list": (lambda o: preference(o).tolist(), "got list"),
}


@pytest.mark.parametrize(("metric", "match"), METRICS.values(), ids=METRICS)
def test_a_metric_that_is_not_one_finite_number_for_each_example(metric, match):
    refused(match, metric=metric)


def test_a_metric_that_breaks_on_the_way_says_in_which_patch():
    calls = []

    def metric(outputs):
        calls.append(1)
        return preference(outputs) / (0.0 if len(calls) == 4 else 1.0)

    with pytest.raises(ValueError, match=r"got .+ of example 0 in Patch\(layer=0, positions=\(\d,\), head="):
        activation_patching(network(), ids(), ids(seed=1), metric)


SITES = {
    "resid_mid": ("resid_mid", "a site of this model, got 'blocks.0.hook_resid_mid'.+nearest are"),
    "mlp_out": ("mlp_out", "a site of this model, got 'blocks.0.hook_mlp_out'.+nearest are"),
    "post": ("post", "a site of this model, got 'blocks.0.mlp.hook_post'.+nearest are"),
}


@pytest.mark.parametrize(("activation", "match"), SITES.values(), ids=SITES)
def test_sites_that_a_network_without_mlps_lacks(activation, match):
    refused(
        match, attention_only(), activation=activation, groups={"a": [0]} if activation == "post" else None
    )


def test_an_activation_that_is_none():
    refused(r"an activation of \['attn_out', 'k'.+got 'hook_z'; choose", activation="hook_z")


def test_a_direction_that_is_none():
    unchecked = inspect.unwrap(activation_patching)  # outside of tests nobody checks the types
    with pytest.raises(ValueError, match='"denoise" or "noise", got \'both\'; choose'):
        unchecked(network(), ids(), ids(seed=1), preference, direction="both")


AXES = {
    "unknown": ("z", {"by": ("layer", "neuron")}, r"axes of 'z' to sweep, layer and any of .+'neuron'\)"),
    "without layer": ("z", {"by": ("head",)}, r"axes of 'z'.+got \('head',\)"),
    "heads of a stream": ("resid_pre", {"by": ("layer", "head")}, "axes of 'resid_pre'"),
    "a layer too far": ("z", {"layers": [0, 2]}, r"layers within \[-2, 2\), .+ got \[0, 2\]"),
    "a position too far": ("z", {"positions": [3]}, r"positions within \[-3, 3\), .+ got \[3\]"),
    "a head too far": ("z", {"heads": [-3]}, r"heads within \[-2, 2\), .+ got \[-3\]"),
    "no layers": ("z", {"layers": []}, r"layers within .+, at least one, got \[\]"),
    "no positions": ("z", {"positions": []}, r"positions within .+, at least one, got \[\]"),
    "heads where there are none": ("mlp_out", {"heads": [0]}, "head among the axes to sweep.+of 'mlp_out'"),
    "positions not swept": ("z", {"by": ("layer",), "positions": [0]}, "position among the axes to sweep"),
    "groups not swept": ("z", {"groups": {"a": [0]}}, "group among the axes to sweep"),
}


@pytest.mark.parametrize(("activation", "options", "match"), AXES.values(), ids=AXES)
def test_axes_that_are_not_there(activation, options, match):
    refused(match, activation=activation, **options)


GROUPS = {
    "none": (None, "groups of neurons to patch, got none; give groups="),
    "no group": ({}, "groups of neurons to patch, got none; give groups="),
    "empty": ({"a": [0], "b": []}, r"at least one neuron in every group.+got \[\] in 'b'"),
    "too far": ({"a": [0, 6]}, r"once and within \[0, 6\), got \[0, 6\] in 'a'"),
    "negative": ({"a": [-1]}, r"once and within \[0, 6\), got \[-1\] in 'a'"),
    "twice": ({"a": [1, 1]}, r"each once and within"),
}


@pytest.mark.parametrize(("groups", "match"), GROUPS.values(), ids=GROUPS)
def test_groups_that_cannot_be(groups, match):
    refused(match, activation="post", groups=groups)


READS = {
    "beyond": ((-1, 3), r"positions to read within \[-3, 3\), got -1 to 3"),
    "before": ((-4,), r"positions to read within \[-3, 3\), got -4"),
    "none": ((), r"positions to read as integers .+read=\(-1,\)"),
    "a mask": (torch.ones(LENGTH, dtype=torch.bool), "positions to read as integers .+got torch.bool"),
    "other rows": (torch.zeros(3, 1, dtype=torch.long), r"\[batch, read\], got torch.int64 \(3, 1\)"),
}


@pytest.mark.parametrize(("read", "match"), READS.values(), ids=READS)
def test_positions_to_read_that_cannot_be(read, match):
    refused(match, read=read)


@pytest.mark.parametrize(
    "metric", [lambda outputs: preference(outputs).mean().expand(ROWS), lambda o: preference(o).roll(1)]
)
def test_a_metric_in_which_examples_mix(metric):
    refused("a metric of each example by itself", metric=metric)


def test_a_metric_of_positions_that_are_not_read_is_told_which_are():
    with pytest.raises(IndexError) as caught:
        activation_patching(network(), ids(), ids(seed=1), lambda outputs: outputs[:, 2, 1])
    assert "of read=(-1,): only those positions are there" in caught.value.__notes__[0]


def test_inputs_that_are_no_batch():
    flat = torch.zeros(ROWS, dtype=torch.long)
    refused(r"a tensor of ids \[batch, pos\]", clean=flat, corrupted=flat)


def test_hooks_that_are_there_already_are_obeyed():
    model = network()
    model.blocks[0].attn.hook_q.add_hook(lambda tensor, hook: 0 * tensor)
    fast, slow = (
        activation_patching(model, ids(), ids(seed=1), preference, "resid_pre", fast=way).values.to_numpy()
        for way in (True, False)
    )
    assert fast == pytest.approx(slow, abs=1e-6)
    with pytest.raises(ValueError, match="a model without hooks to rerun"):
        model.rerun(ids())
