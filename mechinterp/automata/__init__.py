"""Finite automata: from regular expressions, with names, or random; their words and their algebra."""

from mechinterp.automata.dfa import ACCEPT, CLASSES, DFA, INCOMPLETE, PAD, REJECT
from mechinterp.automata.machines import (
    alternating_group_5,
    bounded_dyck,
    cyclic,
    flip_flop,
    parity,
    random_dfa,
    symmetric_group_3,
)
from mechinterp.automata.monoid import is_aperiodic, transition_monoid
from mechinterp.automata.regex import compile_regex
from mechinterp.automata.words import count_words, sample_words

__all__ = [
    "ACCEPT",
    "CLASSES",
    "DFA",
    "INCOMPLETE",
    "PAD",
    "REJECT",
    "alternating_group_5",
    "bounded_dyck",
    "compile_regex",
    "count_words",
    "cyclic",
    "flip_flop",
    "is_aperiodic",
    "parity",
    "random_dfa",
    "sample_words",
    "symmetric_group_3",
    "transition_monoid",
]
