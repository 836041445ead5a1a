"""Finite automata: from regular expressions, with names, or random; their words and their algebra."""

from mechinterp.automata.dfa import ACCEPT, CLASSES, DFA, INCOMPLETE, PAD, REJECT
from mechinterp.automata.hidden_markov import HiddenMarkov, Optimum, mess3, stationary
from mechinterp.automata.machines import (
    NAMED,
    alternating_group_5,
    bounded_dyck,
    cyclic,
    flip_flop,
    parity,
    random_dfa,
    symmetric_group_3,
)
from mechinterp.automata.mixture import WordMixture
from mechinterp.automata.monoid import is_aperiodic, transition_monoid
from mechinterp.automata.regex import compile_regex, language
from mechinterp.automata.words import WordSampler, count_words, sample_words

__all__ = [
    "ACCEPT",
    "CLASSES",
    "DFA",
    "INCOMPLETE",
    "NAMED",
    "PAD",
    "REJECT",
    "HiddenMarkov",
    "Optimum",
    "WordMixture",
    "WordSampler",
    "alternating_group_5",
    "bounded_dyck",
    "compile_regex",
    "count_words",
    "cyclic",
    "flip_flop",
    "is_aperiodic",
    "language",
    "mess3",
    "parity",
    "random_dfa",
    "sample_words",
    "stationary",
    "symmetric_group_3",
    "transition_monoid",
]
