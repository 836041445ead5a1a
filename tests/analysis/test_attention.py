"""Planted heads are found, even heads score like even attention, and random heads match by chance only."""

import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_networks import LENGTH, WORDS, bridge, planted, random_network, tokens

from mechinterp.analysis.attention import attention_distance, attention_entropy, attention_patterns
from mechinterp.analysis.attention_match import match_score, permutations
from mechinterp.analysis.attention_scores import attention_scores, repeated_tokens
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.patterns import Patterns
from mechinterp.figures.attention import head_map
from mechinterp.hooks import transformer_lens_3, transformer_lens_tools
from mechinterp.result import NotLearned

HALF = LENGTH // 2
REPEATED = repeated_tokens(16, HALF, WORDS)
PADDED = torch.arange(LENGTH) < torch.tensor([LENGTH, 5, 8, 2])[:, None]


# Patterns.
def test_patterns_are_averaged_over_the_examples_in_which_the_query_is_real():
    model, inputs = random_network(), tokens(rows=4)
    found = attention_patterns(model, inputs, mask=PADDED, examples=4)
    _, cache = model.run_with_cache(inputs, attention_mask=PADDED)
    pattern = cache["pattern", 0].detach()
    expected = torch.stack([pattern[PADDED[:, q], :, q].mean(0) for q in range(LENGTH)], dim=1)
    np.testing.assert_allclose(found.values.sel(layer=0), expected)
    own = found.extra["by_example"].sel(example=1, layer=0)
    np.testing.assert_allclose(own[:, :5], pattern[1, :, :5])
    assert found.values.dims == ("layer", "head", "query", "key")


def test_even_attention_is_even_over_the_keys_allowed():
    model, inputs = planted(None), tokens(rows=4)
    found = attention_patterns(model, inputs, mask=PADDED)
    np.testing.assert_allclose(found.values.sel(layer=0, head=0), found.control, atol=1e-12)
    assert found.control_kind == "even attention over the keys allowed"


def test_queries_that_are_padding_throughout_are_undefined():
    mask = torch.arange(LENGTH).expand(4, -1) < 7
    found = attention_patterns(random_network(), tokens(rows=4), mask=mask)
    assert bool(found.values.sel(query=slice(7, None)).isnull().all())
    assert bool(found.values.sel(query=slice(0, 6)).notnull().all())


def test_left_padding_moves_the_first_token():
    mask = torch.arange(LENGTH).expand(4, -1) >= 2
    model, inputs = planted(None, "first"), tokens(rows=4)
    found = attention_scores(model, inputs, mask=mask)
    even = found.extra["even"].sel(score="first")
    assert float(even) == pytest.approx(np.mean([1 / n for n in range(2, LENGTH - 1)]))
    assert float(found.values.sel(score="first", layer=0, head=0)) == pytest.approx(float(even))


# Entropy and distance.
def test_the_even_pattern_has_the_entropy_log2_of_the_number_of_keys():
    found = attention_entropy(planted(None, 1), tokens(rows=4), mask=PADDED)
    expected = np.log2(np.arange(1, LENGTH + 1))
    np.testing.assert_allclose(found.values.sel(layer=0, head=0), expected, atol=1e-9)
    np.testing.assert_allclose(found.control, expected, atol=1e-9)
    assert found.values.attrs["units"] == "bits"
    assert found.extra["relative"].values.ravel() == pytest.approx([1, 0], abs=1e-6)
    assert found.provenance["furthest from even"] == "L0H1"
    assert found.interval == pytest.approx((0, 0), abs=1e-6)


def test_a_head_that_looks_back_has_that_distance_and_an_even_one_half_of_the_way():
    found = attention_distance(planted(3, None), tokens())
    np.testing.assert_allclose(found.values.sel(layer=0, head=0, query=slice(3, None)), 3, atol=1e-6)
    np.testing.assert_allclose(found.values.sel(layer=0, head=1), np.arange(LENGTH) / 2, atol=1e-9)
    assert found.trivial == pytest.approx(np.mean(np.arange(1, LENGTH) / 2))


def test_untrained_networks_are_controls():
    model, inputs = planted(1), tokens()
    for measure in (attention_patterns, attention_entropy, attention_distance, attention_scores):
        found = measure(model, inputs, untrained=planted(None))
        assert found.control_kind == "untrained network"
        assert found.control.dims == found.values.dims
        assert "even" in found.extra


# Scores.
PLANTED = {"diagonal": 0, "previous": 1, "duplicate": HALF, "induction": HALF - 1, "first": "first"}


def test_planted_heads_score_1_and_even_heads_as_even_attention():
    found = attention_scores(planted(*PLANTED.values(), None), REPEATED)
    for head, score in enumerate(PLANTED):
        assert float(found.values.sel(score=score, layer=0, head=head)) == pytest.approx(1, abs=1e-6)
        even = float(found.extra["even"].sel(score=score))
        assert float(found.values.sel(score=score, layer=0, head=len(PLANTED))) == pytest.approx(even)
        assert 0 < even < 0.5
    np.testing.assert_allclose(found.control, found.extra["even"])


def test_a_head_has_the_score_of_its_kind_only():
    found = attention_scores(planted(1, None), REPEATED).values.sel(layer=0, head=0)
    assert float(found.sel(score="previous")) == pytest.approx(1, abs=1e-6)
    for other in ("diagonal", "duplicate", "induction"):
        assert float(found.sel(score=other)) < 1e-6


def test_interval_and_trivial_are_those_of_the_highest_score_above_even():
    found = attention_scores(planted(None, 1), REPEATED)
    assert found.provenance["highest above even"] == "previous L0H1"
    assert found.interval == pytest.approx((1, 1), abs=1e-6)
    assert found.trivial == pytest.approx(float(found.extra["even"].sel(score="previous")))


def test_repeated_tokens_are_all_different_and_said_again():
    assert REPEATED.shape == (16, LENGTH)
    assert torch.equal(REPEATED[:, :HALF], REPEATED[:, HALF:])
    assert all(len(set(row.tolist())) == HALF for row in REPEATED)
    assert repeated_tokens(3, 20, 4, times=3).shape == (3, 60)


def test_without_repeats_induction_is_undefined():
    once = torch.arange(WORDS)[None].repeat(4, 1)
    found = attention_scores(random_network(), once)
    assert bool(found.values.sel(score=["duplicate", "induction"]).isnull().all())


def test_vectors_have_scores_of_position_only():
    model = random_network(d_input=5, d_vocab=3, readout="values")
    found = attention_scores(model, torch.randn(4, 6, 5, dtype=torch.float64))
    assert found.values.coords["score"].values.tolist() == ["diagonal", "previous", "first"]


# Linear attention.
LINEAR = {"attention": "linear", "attention_dir": "bidirectional"}


def test_linear_attention_has_no_entropy():
    with pytest.raises(ValueError, match=r"expected patterns that sum to 1.*linear attention"):
        attention_entropy(random_network(**LINEAR), tokens())


def test_linear_attention_is_scored_by_size_and_says_so():
    model, inputs = random_network(**LINEAR), tokens()
    scores, patterns = attention_scores(model, inputs), attention_patterns(model, inputs)
    for found in (scores, patterns, attention_distance(model, inputs), match_score(model, inputs, inputs)):
        assert "rows do not sum to 1" in found.values.attrs["units"]
        assert "linear" in found.provenance["attention"]
    _, cache = model.run_with_cache(inputs)
    sizes = cache["pattern", 0].detach().abs()
    expected = (sizes.diagonal(dim1=-2, dim2=-1) / sizes.sum(-1)).mean((0, 2))
    np.testing.assert_allclose(scores.values.sel(score="diagonal", layer=0), expected)


# Match with a variable.
def test_a_planted_matching_head_has_score_1_and_an_even_one_the_trivial_score():
    inputs = tokens()
    found = match_score(planted("same", None), inputs, inputs, include_self=True)
    assert found.values.values.ravel() == pytest.approx([1, found.trivial], abs=1e-6)
    assert found.extra["p_adjusted"].values[0, 0] < 0.01
    assert found.extra["p"].values[0, 1] == 1  # an even head is even under every permutation
    assert found.provenance["highest above null"] == "L0H0"
    assert float(found.control[0, 0]) < 0.9
    assert (
        float(found.extra["null_low"][0, 0])
        <= float(found.control[0, 0])
        <= float(found.extra["null_high"][0, 0])
    )


def test_a_head_that_looks_at_itself_matches_only_if_that_counts():
    inputs = tokens()
    scores = [
        match_score(planted(0), inputs, inputs, include_self=own).values.item() for own in (True, False)
    ]
    assert scores == pytest.approx([1, 0], abs=1e-6)


def test_the_keys_may_have_a_variable_of_their_own():
    at = torch.arange(LENGTH).expand(16, -1)
    found = match_score(planted(2, None), tokens(), at, key_variable=at + 2)
    assert float(found.values[0, 0]) == pytest.approx(1, abs=1e-6)
    found = match_score(planted(2, None), tokens(), at, relation=lambda query, key: query == key + 2)
    assert float(found.values[0, 0]) == pytest.approx(1, abs=1e-6)


def test_a_variable_matches_only_where_it_is_defined_and_at_the_queries_asked():
    inputs = tokens()
    defined = torch.ones_like(inputs, dtype=torch.bool)
    defined[:, ::2] = False
    found = match_score(planted("same"), inputs, inputs, defined=defined, queries=(-1, 3))
    pattern = Patterns.of(planted("same"), inputs)
    scores = []
    for row, ids in enumerate(inputs):
        before = {q: (ids == ids[q]) & defined[row] & (torch.arange(LENGTH) < q) for q in (3, LENGTH - 1)}
        shares = [
            pattern.weights[row, 0, 0, q] @ match.double() for q, match in before.items() if match.any()
        ]
        scores += [float(torch.stack(shares).mean())] if shares else []
    assert found.values.item() == pytest.approx(np.mean(scores))
    assert found.provenance["examples with a choice"] == len(scores)


def test_permutations_move_what_is_defined_and_nothing_else():
    where = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) < 0.6
    order = permutations(where, 50, torch.Generator().manual_seed(0))
    assert torch.equal(order.sort(-1).values, torch.arange(8).expand(50, 5, 8))
    there = torch.arange(8).expand(50, 5, 8)
    assert torch.equal(order[:, ~where], there[:, ~where])
    assert bool(where[torch.arange(5)[:, None], order][where.expand(50, 5, 8)].all())
    first = int(where[0].nonzero()[0])
    assert len(order[:, 0, first].unique()) == int(where[0].sum())


def test_random_heads_match_a_random_variable_in_about_5_percent_of_networks():
    hits = 0
    for seed in range(200):
        inputs = tokens(seed, rows=6, length=8)
        variable = tokens(seed + 1000, rows=6, length=8, words=3)
        model = random_network(seed, n_heads=1, d_head=8)
        found = match_score(model, inputs, variable, draws=99, seed=seed)
        hits += found.extra["p"].item() <= 0.05
    assert 2 <= hits <= 20  # the middle 99.9 % of 200 draws at 5 %


def test_of_many_random_heads_none_is_called_a_match():
    inputs, variable = tokens(0), tokens(1, words=3)
    found = match_score(random_network(n_heads=8, n_layers=2, d_head=8), inputs, variable)
    assert found.extra["p_adjusted"].values.min() > 0.05
    below, above = (found.extra[end] for end in ("null_low", "null_high"))
    assert float(((found.values >= below) & (found.values <= above)).mean()) > 0.8


# Models of others.
def test_a_bridge_of_transformer_lens_is_read_as_it_is():
    model, inputs, mask = bridge(), tokens(rows=4), PADDED
    _, cache = model.run_with_cache(inputs, attention_mask=mask.long())
    seen = Patterns.of(model, inputs, mask)
    for layer in range(2):
        real = seen.asking[:, None, :, None].expand_as(cache["pattern", layer])
        assert torch.equal(seen.weights[:, layer][real], cache["pattern", layer].detach()[real])
    for measure in (attention_patterns, attention_entropy, attention_distance, attention_scores):
        assert measure(model, inputs, mask=mask).values.sizes["layer"] == 2
    assert match_score(model, inputs, inputs, mask=mask, draws=20).values.shape == (2, 2)


def test_the_class_of_transformer_lens_3_is_read_as_it_is():
    try:
        theirs, config = transformer_lens_3()
    except ImportError as error:
        pytest.skip(str(error))
    model = theirs(
        config(n_layers=2, d_model=8, n_ctx=LENGTH, d_head=4, d_mlp=8, act_fn="relu", d_vocab=WORDS, seed=0)
    )
    inputs, mask = tokens(rows=4), PADDED
    found = attention_patterns(model, inputs, mask=mask, examples=4)
    _, cache = model.run_with_cache(inputs, attention_mask=mask.long())
    np.testing.assert_allclose(
        found.extra["by_example"].sel(example=0, layer=1), cache["pattern", 1][0].detach()
    )
    assert attention_scores(model, REPEATED).values.shape == (5, 2, 2)
    assert match_score(model, inputs, inputs, mask=mask, draws=20).values.shape == (2, 2)


def test_under_transformer_lens_3_the_tools_are_refused_with_a_remedy():
    try:
        assert hasattr(transformer_lens_tools(), "logit_lens")
    except ImportError as error:
        assert "install transformer-lens==4" in str(error)  # noqa: PT017


# What is refused.
def dropping():
    return random_network(dropout=0.1).train()


def in_cache(layer=0, pattern=None):
    even = {"blocks.0.attn.hook_pattern": torch.full((2, 1, 3, 3), 1 / 3)}
    return even | ({} if pattern is None else {f"blocks.{layer}.attn.hook_pattern": pattern})


EMPTY = torch.ones(4, LENGTH, dtype=torch.bool)
EMPTY[2] = False
ONE = tokens(rows=1)
REFUSED = {
    "dropout": (lambda: attention_patterns(dropping(), tokens()), r"evaluation mode.*model.eval"),
    "one example": (lambda: attention_scores(random_network(), ONE), "at least 2 examples, got 1"),
    "one example to match": (lambda: match_score(random_network(), ONE, ONE), "at least 2 examples, got 1"),
    "an empty mask": (
        lambda: attention_patterns(random_network(), tokens(rows=4), mask=EMPTY),
        r"real token.*\[2\]",
    ),
    "a mask of another shape": (
        lambda: attention_patterns(random_network(), tokens(rows=4), mask=EMPTY[:3]),
        r"mask of \(4, 12\), got",
    ),
    "other layers before training": (
        lambda: attention_scores(planted(1), tokens(), untrained=planted(1, 2)),
        "layers and heads of the trained",
    ),
    "one position": (lambda: attention_scores(random_network(), tokens(length=1)), "two tokens or more"),
    "nothing to repeat": (lambda: repeated_tokens(4, 5, 9, times=1), "times=1"),
    "real numbers for equality": (
        lambda: match_score(random_network(), tokens(), tokens().double()),
        r"whole numbers.*give a relation",
    ),
    "a variable an example": (
        lambda: match_score(random_network(), tokens(), torch.zeros(16)),
        "one number a position",
    ),
    "a constant variable": (
        lambda: match_score(random_network(), tokens(), 0 * tokens(), include_self=True),
        "matching key and another, got 0",
    ),
    "queries that there are not": (
        lambda: match_score(random_network(), tokens(), tokens(), queries=(LENGTH,)),
        r"positions in \[-12, 12\)",
    ),
    "no patterns": (lambda: Patterns.from_cache({}), "names ending in attn.hook_pattern, got none"),
    "patterns of whole numbers": (
        lambda: Patterns.from_cache(in_cache(0, torch.ones(2, 1, 3, 3).long())),
        r"floating-point patterns.*int64",
    ),
    "patterns of two shapes": (
        lambda: Patterns.from_cache(in_cache(1, torch.ones(2, 1, 4, 4)), causal=False),
        r"of one shape.*\(2, 1, 4, 4\) at layer 1",
    ),
    "attention to the future": (lambda: Patterns.from_cache(in_cache()), r"no attention to keys.*got 0.333"),
}


@pytest.mark.parametrize(("ask", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_patterns_of_a_bidirectional_network_come_from_any_cache():
    seen = Patterns.from_cache(in_cache(), causal=False)
    assert seen.normalised
    torch.testing.assert_close(seen.even, torch.full((2, 3, 3), 1 / 3, dtype=torch.float64))


def test_a_gate_is_remembered():
    gate = Gate(task="t", split="test", score=0.1, trivial=0.1, learned_at=0.9, n=4)
    for measure in (attention_patterns, attention_entropy, attention_distance, attention_scores):
        with pytest.warns(NotLearned, match="did NOT learn t"):
            assert measure(random_network(), tokens(), gate=gate).learned is False
    with pytest.warns(NotLearned, match="did NOT learn t"):
        assert match_score(random_network(), tokens(), tokens(), gate=gate).learned is False


# Figures and the example.
def results():
    model, inputs, untrained = random_network(n_layers=2), REPEATED, random_network(1, n_layers=2)
    for before in (None, untrained):
        for measure in (attention_patterns, attention_entropy, attention_distance, attention_scores):
            yield measure(model, inputs, untrained=before)
        yield match_score(model, inputs, inputs % 3, untrained=before, draws=20)
    yield attention_patterns(random_network(**LINEAR), inputs)


DRAWN = {
    "attention_patterns",
    "attention_entropy",
    "attention_distance",
    "attention_scores",
    "attention_match",
}


def test_results_are_drawn_and_read_back():
    found = list(results())
    assert {result.name for result in found} == DRAWN
    for result in found:
        figure = result.figure()
        assert figure.layout.title.text
        assert any(axis.title.text for axis in figure.select_xaxes())
        assert any(axis.title.text for axis in figure.select_yaxes())
        assert type(result).from_json(result.to_json()) == result


def test_any_result_by_head_is_a_map_of_heads():
    scores = attention_scores(random_network(), REPEATED)
    by_head = replace(scores, values=scores.values.sel(score="first", drop=True), control=None)
    assert head_map(by_head).data[0].z.shape == (1, 2)
    by_position = attention_distance(random_network(), REPEATED)
    turned = replace(by_position, values=by_position.values.transpose("query", "head", "layer"))
    assert head_map(turned).data[0].z.shape == (2, LENGTH)
    with pytest.raises(ValueError, match=r"at most one more axis.*query.*key"):
        head_map(attention_patterns(random_network(), REPEATED))


def test_the_example_runs(capsys):
    runpy.run_path("examples/attention.py")["main"](11, hand_built=True)
    printed = capsys.readouterr().out
    assert "attention_scores" in printed
    assert "learned True" in printed
