"""TransformerLens 4's interchange interventions on our networks, and DAS where the answer is known."""

import pytest
import torch
from tool_networks import KINDS, ROWS, network, tokens

from mechinterp import constructions
from mechinterp.hooks import Site, patch, run
from mechinterp.tasks import ModularAddition

pytest.importorskip("transformer_lens.tools.analysis.interchange", reason="the tools of TransformerLens 4")

from transformer_lens.tools import analysis

AT_1 = torch.ones(ROWS, dtype=torch.long)
HOOKS = ("hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.mlp.hook_post")


def readout(model):
    return lambda inputs: model(inputs)[:, -1]


def collect(model, name, inputs, positions=AT_1):
    return analysis.collect_activations(model, name, inputs, readout(model), positions=positions)


def interchange(model, name, intervention, positions=AT_1):
    """The answers to one batch with another batch's activations."""
    source = collect(model, name, tokens(1))
    return analysis.intervened_logits(
        model, name, intervention, tokens(), source, readout(model), positions=positions
    )


@pytest.mark.parametrize("name", [*HOOKS, "blocks.0.ln1.hook_normalized"])
def test_activations_are_collected_at_their_positions(name):
    model = network("layernorm")
    _, cache = model.run_with_cache(tokens())
    positions = torch.tensor([0, 3, 2])
    assert torch.equal(collect(model, name, tokens(), positions), cache[name][torch.arange(ROWS), positions])


@pytest.mark.parametrize("kind", KINDS)
def test_interchanging_a_whole_token_is_swapping_it(kind):
    model = network(kind)
    whole = analysis.SubspaceInterchange(torch.eye(8))
    swapped = tokens().clone()
    swapped[:, 1] = tokens(1)[:, 1]
    found = interchange(model, "blocks.0.hook_resid_pre", whole)
    torch.testing.assert_close(found, readout(model)(swapped).detach())


@pytest.mark.parametrize("name", HOOKS)
def test_interchanging_everything_at_a_position_is_patching_it(name):
    model = network()
    size = collect(model, name, tokens()).shape[1]
    _, other = model.run_with_cache(tokens(1))
    expected = run(model, tokens(), edits=[patch(Site.at(name, position=1), other)])[:, -1]
    found = interchange(model, name, analysis.SubspaceInterchange(torch.eye(size)))
    torch.testing.assert_close(found, expected.detach())


def test_interchanging_neurons_is_patching_them():
    model, name = network(), "blocks.0.mlp.hook_post"
    _, other = model.run_with_cache(tokens(1))
    expected = run(model, tokens(), edits=[patch(Site.at(name, position=1, neuron=[1, 4]), other)])[:, -1]
    found = interchange(model, name, analysis.SubspaceInterchange(analysis.neuron_basis(6, [1, 4])))
    torch.testing.assert_close(found, expected.detach())


def test_an_interchange_of_no_strength_changes_nothing():
    model = network()
    still = analysis.SubspaceInterchange(analysis.random_basis(8, 3, seed=0), strength=0.0)
    found = interchange(model, "blocks.0.hook_resid_pre", still)
    torch.testing.assert_close(found, readout(model)(tokens()).detach())


def test_a_placebo_moves_as_far():
    model, name = network(), "blocks.0.hook_resid_mid"
    base, source = collect(model, name, tokens()), collect(model, name, tokens(1))
    aligned = analysis.SubspaceInterchange(analysis.random_basis(8, 2, seed=0))
    placebo = analysis.NormMatchedPlacebo(aligned, analysis.random_basis(8, 2, seed=1))
    distances = [(move(base, source) - base).norm(dim=-1) for move in (aligned, placebo)]
    torch.testing.assert_close(*distances)


# Distributed alignment search, on a network that holds the first number in its first two dimensions.
P = 5


@pytest.fixture(scope="module")
def adder():
    return constructions.modular_addition(ModularAddition(p=P), frequencies=(1,), scale=5.0).eval()


def pairs(seed, n=200):
    """Two questions, and the answer to the first if its first number came from the second."""
    generator = torch.Generator().manual_seed(seed)
    base, source = (torch.randint(P, (n, 3), generator=generator) for _ in range(2))
    base[:, 2] = source[:, 2] = P
    return base, source, (source[:, 0] + base[:, 1]) % P


def accuracy(model, intervention):
    base, source, targets = pairs(1)
    at_0 = torch.zeros(len(base), dtype=torch.long)
    name = "blocks.0.hook_resid_pre"
    activations = collect(model, name, source, at_0)
    logits = analysis.intervened_logits(
        model, name, intervention, base, activations, readout(model), positions=at_0
    )
    return (logits.argmax(-1) == targets).double().mean().item()


def test_the_planted_subspace_holds_the_number(adder):
    assert accuracy(adder, analysis.SubspaceInterchange(torch.eye(4)[:, :2])) == 1.0


def test_das_finds_the_planted_subspace(adder):
    base, source, targets = pairs(0)
    at_0 = torch.zeros(len(base), dtype=torch.long)
    frozen = [weight.requires_grad for weight in adder.parameters()]
    found = analysis.fit_das(
        adder, "blocks.0.hook_resid_pre", base, source, targets, readout(adder),
        rank=2, base_positions=at_0, source_positions=at_0, epochs=40, batch_size=50, lr=0.05,
    )  # fmt: skip
    aligned = analysis.SubspaceInterchange(found.subspace)
    assert accuracy(adder, aligned) == 1.0
    assert accuracy(adder, analysis.NormMatchedPlacebo(aligned, analysis.random_basis(4, 2, seed=0))) < 0.7
    planted = analysis.orthonormal_subspace(torch.eye(4)[:, :2])
    overlap = analysis.projection_kernel(analysis.orthonormal_subspace(found.basis), planted)
    assert overlap.normalized > 0.98
    assert [weight.requires_grad for weight in adder.parameters()] == frozen


# The untrained control.
@pytest.mark.parametrize("kind", KINDS)
def test_a_reinitialised_network_is_untrained(kind):
    model = network(kind)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    fresh = dict(analysis.reinitialized(model, seed=0).named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert not torch.equal(fresh[name], weight)
        if name.rsplit(".")[-1].startswith("b"):
            assert not fresh[name].any()


def test_a_reinitialised_network_follows_its_seed():
    one, same, other = (analysis.reinitialized(network(), seed)(tokens()) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
