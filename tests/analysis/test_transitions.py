"""Heads beside transition matrices: a construction beside itself is 1, random ones sit in the null."""

import numpy as np
import pytest
import torch

from mechinterp import models
from mechinterp.analysis.state_basis import state_basis
from mechinterp.analysis.transitions import compare_transitions, leading_blocks
from mechinterp.automata import NAMED, language, random_dfa
from mechinterp.constructions.regex_language import near_construction
from mechinterp.models.rotation import rotate_stream
from mechinterp.tasks import RegexLanguage


def turn(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double())[0]


def coded(dfa, d, n=400, noise=0.0, seed=0):
    """Vectors that hold states in a turned stream, and heads that carry the transitions there."""
    generator, rotation = torch.Generator().manual_seed(seed), turn(d, seed)
    states = torch.arange(n) % dfa.n_states
    codes = rotation[: dfa.n_states]
    x = codes[states] + noise * torch.randn(n, d, generator=generator).double()
    return x, states, codes.mT @ dfa.matrices.double(), codes.expand(dfa.n_symbols, -1, -1)


@pytest.mark.parametrize("name", ["parity", "S3", "flip-flop", "Dyck-3"])
def test_the_construction_beside_itself_is_one_in_any_stream(name):
    dfa = NAMED[name]()
    x, states, W_V, W_O = coded(dfa, 20)
    matrices = state_basis(x, states)(W_V, W_O)
    result = compare_transitions(matrices, dfa.matrices)
    for measure, expected in (("cosine", 1.0), ("pearson", 1.0), ("frobenius", 0.0), ("relative error", 0.0)):
        np.testing.assert_allclose(result.extra["measures"].sel(measure=measure), expected, atol=1e-5)
    assert sorted(result.extra["symbol"].values) == list(range(dfa.n_symbols))
    rare = float(result.extra["p"].sel(null="random automata", measure="cosine", head="all"))
    # Of two states and two symbols there are 16 automata, and heads may be matched in two ways.
    assert rare < (0.2 if dfa.n_states == 2 else 0.05)


def test_the_published_comparison_of_the_construction_is_one_until_the_stream_turns():
    task = RegexLanguage(pattern="ab", n_samples=300, max_len=8)
    model = near_construction(models.regex_language(task), task.dfa)

    def cosine(network):
        blocks = leading_blocks(network.W_V[0], network.W_O[0], task.dfa.n_states)
        result = compare_transitions(blocks, task.dfa.matrices, match=False, draws=50)
        return result.values.sel(head="all").item()

    assert cosine(model) == pytest.approx(1, abs=1e-5)
    assert abs(cosine(rotate_stream(model.eval(), 1))) < 0.5


def test_heads_in_another_order_find_their_symbols():
    dfa = NAMED["flip-flop"]()
    order = [2, 0, 1]
    result = compare_transitions(dfa.matrices[order], dfa.matrices)
    assert result.extra["symbol"].values.tolist() == order
    assert compare_transitions(dfa.matrices[order], dfa.matrices, match=False).values.sel(head="all") < 0.9


def test_heads_beyond_the_symbols_have_none():
    dfa = language("a*b*")
    more = torch.cat((torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)), dfa.matrices))
    result = compare_transitions(more, dfa.matrices)
    assert result.extra["symbol"].values.tolist() == [-1, -1, 0, 1]
    assert np.isnan(result.values.sel(head=["0", "1"])).all()


@pytest.mark.parametrize("match", [True, False])
def test_random_matrices_sit_in_the_null(match):
    """The p-value of a random automaton beside another is uniform; tests/calibration counts more."""
    p = []
    for seed in range(60):
        own, other = random_dfa(4, 2, seed), random_dfa(4, 2, 1000 + seed)
        result = compare_transitions(own.matrices, other.matrices, match=match, draws=60, seed=seed)
        p.append(float(result.extra["p"].sel(null="random automata", measure="cosine", head="all")))
    assert np.mean(np.array(p) < 0.05) < 0.12
    assert np.mean(np.array(p) < 0.5) > 0.2


@pytest.mark.parametrize(
    ("pattern", "least"), [("parity", 1.0), ("Z3", 1 / 2), ("a*b*", 1 / 6), ("S3", 1 / 120)]
)
def test_a_perfect_match_is_as_rare_as_there_are_other_labellings(pattern, least):
    """Of six states there are 720 orders, 6 of which leave S3 as it is; 500 are drawn."""
    matrices = language(pattern).matrices
    result = compare_transitions(matrices, matrices)
    relabelled = float(result.extra["least_p"].sel(null="relabelled states"))
    assert relabelled == pytest.approx(least, rel=1.0 if pattern == "S3" else 1e-9)
    p = result.extra["p"].sel(measure="cosine", head="all", null="random automata")
    assert p == result.extra["least_p"].sel(null="random automata")


@pytest.mark.parametrize("pattern", ["Z3", "a*b*", "S3"])
def test_the_null_of_relabelled_states_has_its_level(pattern):
    """Matrices that know nothing of the labels have a p-value below x at most x of the time."""
    transitions, p = language(pattern).matrices, []
    for seed in range(60):
        noise = torch.randn(transitions.shape, generator=torch.Generator().manual_seed(seed))
        result = compare_transitions(noise, transitions, match=False, draws=120, seed=seed)
        p.append(float(result.extra["p"].sel(null="relabelled states", measure="cosine", head="all")))
    for level in (0.05, 0.17, 0.34, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 0.15


def test_the_probe_of_the_basis_is_held_out():
    dfa = NAMED["S3"]()
    x, states, *_ = coded(dfa, 30, noise=0.2)
    assert state_basis(x, states).accuracy > 0.95
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert state_basis(noise, states).accuracy < 0.3
    assert state_basis(noise, states).trivial == pytest.approx(1 / 6, abs=0.01)


def test_groups_are_held_out_whole():
    """A code of the group, from which the state could be looked up, reads nothing of other groups."""
    groups = torch.arange(400) // 4
    states = (groups * 7 + groups // 3) % 2
    x = torch.nn.functional.one_hot(groups, 100).double()
    assert state_basis(x, states, groups=torch.arange(400)).accuracy > 0.9
    assert state_basis(x, states, groups=groups).accuracy < 0.7
    assert state_basis(x, states).accuracy < 0.7  # the same, found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: state_basis(torch.randn(40, 3), torch.arange(40) % 5), "d_model >= 5 states"),
        (lambda: state_basis(torch.randn(40, 9), torch.arange(40).clamp(max=5)), "in both halves"),
        (lambda: leading_blocks(torch.randn(2, 3, 4), torch.randn(2, 4, 3), 5), "d_model >= 5 states"),
        (lambda: compare_transitions(torch.randn(2, 3, 3), torch.randn(2, 4, 4)), "of the same states"),
        (lambda: compare_transitions(torch.full((2, 3, 3), torch.nan), torch.ones(2, 3, 3)), "finite"),
        (lambda: compare_transitions(torch.ones(2, 3, 3), torch.ones(2, 3, 3), draws=0), "at least 1 draw"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
