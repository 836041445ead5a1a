"""Automata by their laws: traces, classes, minimal forms, words, groups and circles."""

import itertools

import pytest
import torch

from mechinterp.automata import (
    ACCEPT,
    DFA,
    INCOMPLETE,
    PAD,
    REJECT,
    WordSampler,
    alternating_group_5,
    bounded_dyck,
    compile_regex,
    count_words,
    cyclic,
    flip_flop,
    is_aperiodic,
    parity,
    random_dfa,
    sample_words,
    symmetric_group_3,
    transition_monoid,
)
from mechinterp.automata.strides import stride

MACHINES = {
    "parity": (parity(), 2, 2, False),
    "Z5": (cyclic(5), 5, 5, False),
    "S3": (symmetric_group_3(), 6, 6, False),
    "A5": (alternating_group_5(), 60, 60, False),
    "flip-flop": (flip_flop(), 2, 3, True),
    "Dyck 2": (bounded_dyck(2), 4, 15, True),
}


def slow_trace(dfa, word):
    states, table = [0], dfa.table.tolist()
    for symbol in word:
        states.append(table[states[-1]][dfa.alphabet.index(symbol)])
    return states


@pytest.mark.parametrize("seed", range(5))
def test_a_trace_is_the_table_step_by_step_and_stays_behind_the_end(seed):
    dfa = random_dfa(7, 3, seed)
    words = ["", "a", "abcabc", "cc"]
    for row, word in zip(dfa.trace(dfa.encode(words)).tolist(), words):
        expected = slow_trace(dfa, word)
        assert row == expected + [expected[-1]] * (6 - len(word))
    assert dfa.decode(dfa.encode(words)) == words


def test_matrices_move_a_state_along_the_table():
    dfa = random_dfa(5, 2)
    state = torch.eye(5)[0]
    for symbol in (0, 1, 1, 0):
        state = state @ dfa.matrices[symbol]
    assert int(state.argmax()) == slow_trace(dfa, "abba")[-1]


def test_a_prefix_is_accepted_or_can_be_completed_or_cannot():
    dfa = compile_regex("ab", "ab")
    assert dfa.classify(dfa.encode(["abb"])).tolist() == [[INCOMPLETE, INCOMPLETE, ACCEPT, REJECT]]


@pytest.mark.parametrize("seed", range(20))
def test_the_minimal_automaton_has_the_language_and_no_state_to_spare(seed):
    dfa = random_dfa(12, 2, seed)
    small = dfa.minimal()
    words = torch.tensor(list(itertools.product(range(2), repeat=9)))
    assert torch.equal(dfa.accepting[dfa.trace(words)], small.accepting[small.trace(words)])
    futures = torch.cat([small.accepting[_from(small, state, words)] for state in range(small.n_states)], 1)
    assert len(futures.unique(dim=1).T) >= 1
    rows = [small.accepting[_from(small, state, words)].flatten() for state in range(small.n_states)]
    assert len(torch.stack(rows).unique(dim=0)) == small.n_states
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    order = torch.cat((order[order == 0], order[order != 0]))
    renamed = torch.empty(12, dtype=torch.long)
    renamed[order] = torch.arange(12)
    assert DFA("ab", renamed[dfa.table[order]], dfa.accepting[order]).minimal() == small


def _from(dfa, state, words):
    """States that words lead to from a state."""
    here = torch.full((len(words),), state)
    found = [here]
    for symbols in words.T:
        here = dfa.table[here, symbols]
        found.append(here)
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", MACHINES)
def test_named_machines_are_minimal_and_their_algebra_is_known(name):
    dfa, states, elements, aperiodic = MACHINES[name]
    assert (dfa.n_states, dfa.minimal().n_states) == (states, states)
    assert len(transition_monoid(dfa)) == elements
    assert is_aperiodic(dfa) == aperiodic


@pytest.mark.parametrize(
    ("pattern", "expected"), [("a+", True), ("a*b*", True), ("ab", True), ("(ab)*", True), ("(aa)*", False)]
)
def test_star_free_languages_have_no_circles(pattern, expected):
    assert is_aperiodic(compile_regex(pattern, "ab")) == expected


def test_counts_are_exact_and_of_any_size():
    dfa = compile_regex("(a|b)*a(a|b)", "ab")
    for length in range(6):
        words = ["".join(letters) for letters in itertools.product("ab", repeat=length)]
        assert count_words(dfa, length, [ACCEPT])[length][0] == sum(map(dfa.accepts, words))
    assert count_words(parity(), 100, [ACCEPT])[100][0] == 2**99


def test_every_word_of_a_class_is_drawn_equally_often():
    dfa = compile_regex("a*b*c?", "abc")
    words = sample_words(dfa, 30_000, 4, [ACCEPT])
    drawn, counts = words.unique(dim=0, return_counts=True)
    assert len(drawn) == count_words(dfa, 4, [ACCEPT])[4][0] == 9
    expected = 30_000 / 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # chi-squared of 8, one in a thousand
    assert (dfa.classify(words)[:, -1] == ACCEPT).all()
    assert torch.equal(words, sample_words(dfa, 30_000, 4, [ACCEPT]))


def test_words_that_are_rare_can_be_drawn():
    dfa = compile_regex("a{60}b|b.*", "ab")
    words = sample_words(dfa, 200, 61, [ACCEPT])
    assert (dfa.classify(words)[:, -1] == ACCEPT).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: sample_words(compile_regex("ab", "ab"), 5, 3, [ACCEPT]),
            "length 3 that end in \\['accept'\\]",
        ),
        (lambda: DFA("ab", torch.tensor([[0, 1]]), torch.tensor([True])), "next states in \\[0, 1\\)"),
        (lambda: DFA("ab", torch.tensor([[0]]), torch.tensor([True])), "a table of 1 states"),
        (lambda: WordSampler(parity(), 3, [ACCEPT]).draw(5, 4), "a length of 0 to 3, got 4"),
        (lambda: WordSampler(parity(), 3, [ACCEPT]).draw(5, -1), "a length of 0 to 3, got -1"),
        (lambda: parity().encode(["abc"]), "symbols of 'ab', got \\['c'\\]"),
        (lambda: parity().trace(torch.tensor([[2]])), "symbols in \\[0, 2\\)"),
        (lambda: cyclic(0), "at least one element"),
        (lambda: bounded_dyck(0), "at least 1 deep"),
        (lambda: random_dfa(3, 27), "1 to 26 symbols"),
        (lambda: transition_monoid(random_dfa(9, 3), budget=50), "at most 50 elements"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_padding_is_one_number_everywhere():
    assert parity().encode(["", "ab"]).tolist() == [[PAD, PAD], [0, 1]]


@pytest.mark.parametrize(
    ("n_states", "n_symbols", "length"), [(2, 2, 700), (3, 3, 33), (16, 5, 200), (7, 1, 999)]
)
def test_strides_of_symbols_walk_as_single_symbols_do(n_states, n_symbols, length):
    dfa = random_dfa(n_states, n_symbols, seed=length)
    words = torch.randint(n_symbols, (400, length), generator=torch.Generator().manual_seed(0))
    ends = torch.randint(length + 1, (400, 1), generator=torch.Generator().manual_seed(1))
    words = torch.where(torch.arange(length) < ends, words, PAD)
    assert stride(n_states, n_symbols, words) > 1 or words.numel() < 2**16
    parts = [words[rows : rows + 4] for rows in range(0, 400, 4)]  # too few for strides
    assert not any(stride(n_states, n_symbols, part) for part in parts)
    for walk in (dfa.trace, dfa.classify):
        assert torch.equal(walk(words), torch.cat([walk(part) for part in parts]))
