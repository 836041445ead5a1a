"""Words of mixed length and class: shares, quotas, and odds of what comes next, against plain counting."""

import itertools

import numpy as np
import pytest
import torch

from mechinterp.automata import ACCEPT, NAMED, REJECT, WordMixture, language


def words_of(dfa, length):
    return ["".join(letters) for letters in itertools.product(dfa.alphabet, repeat=length)]


def brute_odds(dfa, mixture):
    """Of every prefix of every word, by prefix: how likely each symbol, or the end, comes next."""
    odds = {}
    for row, length in enumerate(mixture.lengths):
        words = words_of(dfa, length)
        kinds = dfa.classify(dfa.encode(words))[:, -1].tolist()
        for kind, share in enumerate(mixture.shares[row]):
            mine = [word for word, own in zip(words, kinds) if own == kind]
            for word in mine:
                for t in range(length + 1):
                    after = dfa.alphabet.index(word[t]) if t < length else dfa.n_symbols
                    odds.setdefault(word[:t], np.zeros(dfa.n_symbols + 1))[after] += share / len(mine)
    return odds


@pytest.mark.parametrize(
    ("pattern", "alphabet"), [("a*b*", None), ("ab", None), ("S3", None), ("(a|b)*c", "abc")]
)
def test_odds_and_ceiling_are_those_of_all_words_counted(pattern, alphabet):
    dfa = language(pattern, alphabet)
    mixture = WordMixture(dfa, 1, 5, (1.0, 2.0, 3.0))
    odds = brute_odds(dfa, mixture)
    for prefix, counts in odds.items():
        state = int(dfa.trace(dfa.encode([prefix]))[0, -1])
        expected = counts / counts.sum()
        np.testing.assert_allclose(mixture.next_symbol[len(prefix), state], expected, atol=1e-12)
    best, whole = sum(c.max() for c in odds.values()), sum(c.sum() for c in odds.values())
    assert mixture.ceiling == pytest.approx(best / whole)


def test_an_empty_class_gives_its_share_to_the_others_and_says_so():
    mixture = WordMixture(language("ab"), 1, 4, (1.0, 1.0, 1.0))
    assert mixture.shares[2].tolist() == [0.25, 0.0, 0.0]  # of 3 symbols, all words are rejected
    assert mixture.shares.sum() == pytest.approx(1)
    assert any("1, 3-4 symbols ends in accept" in note for note in mixture.moved)


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_quotas_add_up_and_words_keep_them(n):
    mixture = WordMixture(language("(a|b)*c", "abc"), 1, 9, (1.0, 1.0, 1.0))
    words, kinds = mixture.draw(n, seed=3)
    assert mixture.quotas(n).sum() == n == len(words)
    assert torch.equal(kinds.bincount(minlength=3), torch.tensor(mixture.quotas(n).sum(0)))
    assert torch.equal(mixture.dfa.classify(words)[:, -1], kinds)


def test_long_words_over_a_large_alphabet_stay_in_range():
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789.@"
    mixture = WordMixture(language(r"[a-z]+@[a-z]+\.com", alphabet), 1, 300, (1.0, 1.0, 1.0))
    assert np.isfinite(mixture.next_symbol).all()
    assert 0 < mixture.ceiling < 1


@pytest.mark.parametrize(
    ("lengths", "shares", "message"),
    [
        ((5, 4), (1, 1, 1), "min_len <= max_len"),
        ((-1, 4), (1, 1, 1), "min_len <= max_len"),
        ((1, 4), (0, 0, 0), "not all 0"),
        ((1, 4), (1, -1, 1), "none negative"),
        ((3, 4), (0, 0, 1), r"end in \['accept'\], got none"),
    ],
)
def test_wrong_mixtures_are_refused(lengths, shares, message):
    with pytest.raises(ValueError, match=message):
        WordMixture(language("ab"), *lengths, shares)


def test_languages_by_name_and_their_names_as_words():
    assert language("parity") == NAMED["parity"]().minimal()
    assert language("S3").n_states == 6
    assert language("(?:S3)", "S3").accepts("S3")
    with pytest.raises(ValueError, match="alphabet 'ab' of the machine 'S3'"):
        language("S3", "abc")
    assert (ACCEPT, REJECT) == (2, 0)
