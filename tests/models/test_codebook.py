"""Codebooks: what passes is codes, their hooks are live, and gradients reach what they should."""

import pytest
import torch

from mechinterp import models
from mechinterp.analysis.checks import check_model
from mechinterp.analysis.circuits import ov_circuit
from mechinterp.analysis.patching import activation_patching
from mechinterp.hooks import Edit, Site, patch, run, run_with_cache
from mechinterp.models.rotation import rotate_stream
from mechinterp.tasks import StateMachine

TASK = StateMachine(n_states=3, length=6)
SMALL = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 32, "codebook_size": 5}


def network(**changes):
    return models.state_machine(TASK, **SMALL | changes)


def inputs(n=4):
    return TASK.sample(n, torch.Generator().manual_seed(0)).inputs


@pytest.mark.parametrize("top_k", [1, 3])
def test_what_passes_is_the_sum_of_the_codes_most_alike(top_k):
    model = network(codebook_top_k=top_k).eval()
    _, cache = run_with_cache(model, inputs())
    for layer in range(2):
        for site, out in (("attn", "hook_attn_out"), ("mlp", "hook_mlp_out")):
            book = getattr(model.blocks[layer], f"codebook_{site}")
            hard = cache[f"blocks.{layer}.codebook_{site}.hook_code"]
            soft = cache[f"blocks.{layer}.codebook_{site}.hook_code_soft"]
            assert bool(((hard == 0) | (hard == 1)).all())
            assert bool((hard.sum(-1) == top_k).all())
            assert torch.equal(hard.bool(), soft >= soft.topk(top_k, -1).values[..., -1:])
            torch.testing.assert_close(soft.sum(-1), torch.ones(hard.shape[:2]))
            torch.testing.assert_close(cache[f"blocks.{layer}.{out}"], hard @ book.codes)


def test_without_codebooks_the_network_is_the_plain_one():
    plain = models.state_machine(TASK, codebooks=False, **SMALL | {"codebook_size": 0})
    assert not any("codebook" in name for name, _ in plain.named_modules())
    assert not any("codebook" in name for name in network(codebook_size=0).hook_dict)


def test_codes_can_be_held_through_their_hook():
    model = network().eval()
    held = torch.nn.functional.one_hot(torch.tensor(3), 5).float()
    edit = Edit(Site.at("blocks.1.codebook_mlp.hook_code", position=-1), lambda old, _: held.expand_as(old))
    with torch.no_grad():
        _, cache = run_with_cache(model, inputs())
        changed = run(model, inputs(), edits=[edit])
        stream = cache["blocks.1.hook_resid_mid"][:, -1] + model.blocks[1].codebook_mlp.codes[3]
        torch.testing.assert_close(changed[:, -1], model.unembed(model.ln_final(stream)))


def test_gradients_pass_the_choice_and_reach_codes_and_all_before_them():
    model = network(codebook_noise=True).train()
    model(inputs()).square().mean().backward()
    for name, weight in model.named_parameters():
        if "b_K" not in name:
            assert weight.grad is not None, name
    assert float(model.embed.W_E.grad.abs().sum()) > 0
    assert float(model.blocks[0].attn.W_O.grad.abs().sum()) > 0
    assert float(model.blocks[0].codebook_attn.codes.grad.abs().sum()) > 0


def test_noise_changes_choices_in_training_only():
    model = network(codebook_noise=True, codebook_temperature=10.0).train()
    with torch.no_grad():
        first, second = model(inputs(64)), model(inputs(64))
        assert not torch.equal(first, second)
        model.eval()
        torch.testing.assert_close(model(inputs()), model(inputs()))


def test_colder_softmaxes_have_less_entropy():
    model, found = network().train(), []
    for temperature in (2.0, 0.5, 0.05):
        book = model.blocks[0].codebook_mlp
        book.temperature.fill_(temperature)
        model(inputs())
        found.append(float(book.entropy.detach()))
    assert found[0] > found[1] > found[2] > 0


def test_dead_codes_come_alive_as_vectors_that_should_pass():
    book, like = network().blocks[0].codebook_mlp, torch.randn(7, 16)
    before = book.codes.detach().clone()
    book.revive(torch.tensor([1, 4]), like)
    assert torch.equal(book.codes[[0, 2, 3]], before[[0, 2, 3]])
    assert all((like == row).all(1).any() for row in book.codes[[1, 4]])


def test_generation_and_the_fast_path_have_codebooks_too():
    model = network(n_ctx=9).eval()
    with torch.no_grad():
        written = models.generate(model, inputs(), 3)
        greedy = inputs()
        for _ in range(3):
            greedy = torch.cat((greedy, model(greedy)[:, -1:].argmax(-1)), 1)
        assert torch.equal(written, greedy[:, 6:])
        narrow, whole = model(inputs(), read=(-1,)), model(inputs())[:, -1:]
    torch.testing.assert_close(narrow, whole)


@pytest.mark.parametrize("normalization_type", [None, "LN"])
def test_a_turned_stream_gives_the_same_outputs(normalization_type):
    model = network(normalization_type=normalization_type).eval()
    with torch.no_grad():
        torch.testing.assert_close(rotate_stream(model)(inputs()), model(inputs()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.1, 0.004])
def test_the_codes_most_alike_are_chosen_at_any_temperature(temperature):
    book = network(codebook_top_k=3, codebook_temperature=temperature).eval().blocks[0].codebook_mlp
    x = torch.randn(1, 200, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = torch.zeros(1, 200, 5).scatter_(-1, book.similarity(x).topk(3, -1).indices, 1.0)
        torch.testing.assert_close(book(x), wanted @ book.codes)


def test_what_codebooks_cannot_do_is_refused():
    _, cache = network().eval().run_with_cache(inputs())
    with pytest.raises(ValueError, match="do not add up"):
        cache.apply_slice_to_batch_dim(slice(0, 2)).stack_head_results()
    with pytest.raises(ValueError, match="dropout or noise"):
        models.generate(network(codebook_noise=True, n_ctx=9).train(), inputs(), 2)
    with pytest.raises(ValueError, match="dropout, noise or drawn positions"):
        check_model(network(codebook_noise=True).train())
    with pytest.raises(ValueError, match="without codebooks for an OV circuit"):
        ov_circuit(network(normalization_type=None).eval())
    with pytest.raises(ValueError, match="without codebooks to rerun"):
        network().eval().rerun(inputs())


def test_sums_over_heads_are_refused_and_those_over_sublayers_are_the_stream():
    model = network().eval()
    _, cache = model.run_with_cache(inputs())
    with pytest.raises(ValueError, match="do not add up"):
        cache.stack_head_results()
    parts = cache.decompose_resid(return_labels=False)
    torch.testing.assert_close(parts.sum(0), cache["blocks.1.hook_resid_post"])


def test_sweeps_of_patches_are_whole_runs():
    model, clean, other = network().eval(), inputs(8), inputs(8).roll(1, 0)
    found = activation_patching(
        model, clean, other, lambda outputs: outputs[:, -1, 0], by=["layer", "head"], control=False
    )
    _, donor = run_with_cache(model, clean, names="blocks.1.attn.hook_z")
    with torch.no_grad():
        patched = run(model, other, edits=[patch(Site.at("blocks.1.attn.hook_z", head=1), donor)])
    assert float(found.values.sel(layer=1, head=1)) == pytest.approx(
        float(patched[:, -1, 0].mean()), abs=1e-6
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_top_k": 6}, "codebook_top_k of 1 to codebook_size=5, got 6"),
        ({"codebook_top_k": 0}, "codebook_top_k of 1"),
        ({"codebook_size": -1}, "codebook_size >= 0"),
        ({"codebook_temperature": 0.0}, "codebook_temperature > 0"),
        ({"codebook_sites": ("head",)}, "codebook_sites among"),
    ],
)
def test_codebooks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)
