"""The analysis layer on an encoder-decoder: the same as plain hooks, stack by stack."""

import numpy as np
import pytest
import torch

from mechinterp import constructions, models
from mechinterp.analysis.ablation import ablation, erase_directions
from mechinterp.analysis.attention import attention_distance, attention_entropy, attention_patterns
from mechinterp.analysis.attention_scores import attention_scores
from mechinterp.analysis.attribution_patching import attribution_patching
from mechinterp.analysis.components import component_ablation
from mechinterp.analysis.lens import logit_lens
from mechinterp.analysis.patching import activation_patching
from mechinterp.analysis.path_patching import path_patching
from mechinterp.analysis.probes import probe
from mechinterp.analysis.references import references
from mechinterp.analysis.sets import components_of
from mechinterp.hooks import Site, patch, run, run_with_cache, zero
from mechinterp.models import EncoderDecoderConfig, HookedEncoderDecoder
from mechinterp.models.folding import fold_ln
from mechinterp.tasks import DigitAddition

SIZES = {
    "d_model": 16, "d_head": 4, "n_heads": 4, "d_mlp": 12, "n_layers": 2, "n_encoder_layers": 3, "n_ctx": 6,
    "n_ctx_source": 5, "d_vocab": 9, "normalization_type": "LN",
}  # fmt: skip
STACKS = {"encoder": "encoder.blocks.{}.attn", "decoder": "blocks.{}.attn", "cross": "blocks.{}.cross_attn"}
LAYERS = {"encoder": 3, "decoder": 2, "cross": 2}
PLACES = {"encoder": 5, "decoder": 4, "cross": 4}


def network(seed=0):
    return HookedEncoderDecoder(EncoderDecoderConfig(**SIZES, seed=seed)).eval()


def tokens(seed, n=12):
    return torch.randint(9, (n, 9), generator=torch.Generator().manual_seed(seed))


def preference(outputs):
    return outputs[:, -1, 1] - outputs[:, -1, 2]


@torch.no_grad()
@pytest.mark.parametrize("stack", STACKS)
def test_ablation_and_patching_are_those_of_plain_hooks(stack):
    model, clean, corrupted = network(), tokens(0), tokens(1)
    zeroed = ablation(model, corrupted, preference, reference="zero", stack=stack)
    patched = activation_patching(model, clean, corrupted, preference, "z", stack=stack, control=False)
    assert zeroed.values.shape == (LAYERS[stack], 4)
    assert patched.values.shape == (LAYERS[stack], PLACES[stack], 4)
    assert patched.provenance["stack"] == stack
    _, cache = run_with_cache(model, clean)
    for layer, head, position in ((0, 1, 2), (LAYERS[stack] - 1, 3, 0)):
        name = STACKS[stack].format(layer) + ".hook_z"
        outputs = run(model, corrupted, edits=[zero(Site.at(name, head=head))])
        assert float(zeroed.values[layer, head]) == pytest.approx(float(preference(outputs).mean()), abs=1e-6)
        site = Site.at(name, head=head, position=position)
        outputs = run(model, corrupted, edits=[patch(site, cache)])
        assert float(patched.values[layer, position, head]) == pytest.approx(
            float(preference(outputs).mean()), abs=1e-6
        )


def test_streams_of_both_stacks_are_patched():
    model, clean, corrupted = network(), tokens(0), tokens(1)
    found = activation_patching(
        model, clean, corrupted, preference, "resid_post", by=("layer",), stack="encoder", control=False
    )
    assert found.values.shape == (3,)
    with torch.no_grad():
        whole = model(torch.cat((clean[:, :5], corrupted[:, 5:]), 1))
    assert float(found.values[-1]) == pytest.approx(float(preference(whole).mean()), abs=1e-5)


@pytest.mark.parametrize("stack", STACKS)
def test_patterns_are_those_of_the_stack(stack):
    model, inputs = network(), tokens(2)
    mask = torch.ones(12, 9, dtype=torch.bool)
    mask[::2, 4] = False
    found = attention_patterns(model, inputs, mask=mask, stack=stack, examples=1)
    keys = 5 if stack != "decoder" else 4
    assert found.values.shape == (LAYERS[stack], 4, PLACES[stack], keys)
    np.testing.assert_allclose(found.values.sum("key"), 1, atol=1e-6)
    _, cache = run_with_cache(model, inputs, attention_mask=mask)
    own = cache[STACKS[stack].format(1) + ".hook_pattern"][0]
    np.testing.assert_allclose(found.extra["by_example"][0, 1, :, 0], own[:, 0], atol=1e-6)
    assert float(attention_entropy(model, inputs, mask=mask, stack=stack).trivial) > 0


def test_distance_is_within_one_sequence():
    assert attention_distance(network(), tokens(0), stack="encoder").values.shape == (3, 4, 5)
    with pytest.raises(ValueError, match="one sequence"):
        attention_distance(network(), tokens(0), stack="cross")


def test_stacks_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="one of \\['encoder', 'decoder', 'cross'\\]"):
        ablation(network(), tokens(0), preference, reference="zero", stack="third")


def test_a_probe_reads_a_digit_off_the_encoder():
    task = DigitAddition(n_digits=2, n_test=400)
    model, batch = constructions.digit_addition(task).eval(), task.dataset("test")
    _, cache = run_with_cache(model, batch.inputs, names="encoder.hook_out")
    digit = (batch.variables["a"] % 10).double()
    found = probe(cache, digit, "ridge", positions=[0, 1])
    assert float(found.values[0, 1]) > 0.999  # the second digit of the source is the lower one of a
    assert float(found.values[0, 0]) < 0.2


def test_all_components_have_hooks():
    model = network()
    for one in components_of(model, mlps=True):
        assert one.hook in model.hook_dict
    assert len(components_of(model)) == 4 * (3 + 2 + 2)


def test_means_are_over_what_is_real_in_the_stack():
    task = DigitAddition(n_digits=1, room=2, n_test=10, held_out=0.5)
    model = models.digit_addition(task, d_model=8, n_heads=2, d_mlp=8, n_layers=1, n_encoder_layers=1).eval()
    batch, others = task.sample(12, torch.Generator().manual_seed(0)), task.dataset("val")
    names = ["encoder.blocks.0.attn.hook_z", "blocks.0.attn.hook_z", "blocks.0.cross_attn.hook_z"]
    names.append("blocks.0.cross_attn.hook_k")
    found = references(model, names, "mean", batch.inputs, others.inputs, held_out_mask=others.mask)
    _, cache = run_with_cache(model, others.inputs, names=names, attention_mask=others.mask)
    for name in names:
        real = others.mask[0, : task.n_source] if cache[name].shape[1] == task.n_source else slice(None)
        torch.testing.assert_close(found[name][:, real], cache[name].mean(0, keepdim=True)[:, real])
    effect = component_ablation(
        model, batch.inputs, batch.targets, held_out=others.inputs, read=batch.read,
        attention_mask=batch.mask, held_out_mask=others.mask,
    )  # fmt: skip
    assert bool(effect.without.loss.isfinite().all())


def test_what_knows_of_one_stack_only_refuses_two():
    model, inputs = network(), tokens(0)
    ones = torch.ones(len(inputs), 1, dtype=torch.long)
    for asked in (
        lambda: path_patching(model, inputs, tokens(1), preference),
        lambda: erase_directions(model, inputs, preference, {"x": torch.randn(model.cfg.d_model)}),
        lambda: attribution_patching(model, inputs, tokens(1), preference),
        lambda: logit_lens(model, inputs, ones, read=(-1,)),
        lambda: fold_ln(model),
    ):
        with pytest.raises(ValueError, match="of one stack"):
            asked()


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_attention_scores_are_of_the_tokens_of_the_stack(stack):
    inputs = tokens(0)
    inputs[:, :5] = torch.arange(5)  # nothing repeats in the source
    found = attention_scores(network(), inputs, stack=stack).values
    assert found.sizes["layer"] == LAYERS[stack]
    assert bool(found.sel(score="duplicate").isnull().all()) == (stack == "encoder")


def test_attention_scores_of_two_sequences_are_refused():
    with pytest.raises(ValueError, match="encoder or decoder, got cross"):
        attention_scores(network(), tokens(0), stack="cross")
