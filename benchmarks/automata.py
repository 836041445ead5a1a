"""Words drawn and labelled by an automaton, against Python loops over its table."""

from __future__ import annotations

import random
from collections.abc import Callable

from benchmarks.measure import alternate, show
from mechinterp.automata import ACCEPT, compile_regex, count_words, sample_words
from mechinterp.automata.dfa import DFA

WORDS, LENGTH = 100_000, 20


def by_loop(dfa: DFA, n: int) -> list[list[int]]:
    """The same in plain Python: an even draw by counts, a step of the table, a class, symbol by symbol."""
    table, classes, counts = dfa.table.tolist(), dfa.classes.tolist(), count_words(dfa, LENGTH, [ACCEPT])
    found = []
    for _ in range(n):
        state, labels = 0, [classes[0]]
        for step in range(LENGTH):
            draw = random.randrange(counts[LENGTH - step][state])
            for after in table[state]:
                ways = counts[LENGTH - step - 1][after]
                if draw < ways:
                    break
                draw -= ways
            state = after
            labels.append(classes[state])
        found.append(labels)
    return found


def label_by_loop(dfa: DFA, words: list[list[int]]) -> list[list[int]]:
    """The classes of all prefixes, symbol by symbol, from lists of numbers."""
    table, classes = dfa.table.tolist(), dfa.classes.tolist()
    found = []
    for word in words:
        state, labels = 0, [classes[0]]
        for symbol in word:
            state = table[state][symbol]
            labels.append(classes[state])
        found.append(labels)
    return found


def label_by_delta(dfa: DFA, words: list[str]) -> list[list[int]]:
    """The same from text, with ``delta`` as a dictionary from state and symbol to state."""
    delta = {
        (state, symbol): after
        for state, row in enumerate(dfa.table.tolist())
        for symbol, after in zip(dfa.alphabet, row)
    }
    classes, found = dfa.classes.tolist(), []
    for word in words:
        state, labels = 0, [classes[0]]
        for symbol in word:
            state = delta[(state, symbol)]
            labels.append(classes[state])
        found.append(labels)
    return found


def main(rounds: int = 7) -> None:
    dfa = compile_regex("(a|b)*c(a|b|c)*", "abc")
    words = sample_words(dfa, WORDS, LENGTH, [ACCEPT])
    ours: dict[str, Callable] = {
        "label": lambda: dfa.classify(words),
        "draw": lambda: dfa.classify(sample_words(dfa, WORDS, LENGTH, [ACCEPT])),
    }
    # Before the loops, in which millions of Python's numbers come and go, and with them all other memory.
    seconds = alternate(ours, 5 * rounds)
    lists, texts = words.tolist(), dfa.decode(words)
    loops: dict[str, Callable] = {
        "loop": lambda: by_loop(dfa, WORDS // 10),
        "lists": lambda: label_by_loop(dfa, lists),
        "delta": lambda: label_by_delta(dfa, texts),
        "label_between": ours["label"],
    }
    assert loops["lists"]() == loops["delta"]() == ours["label"]().tolist()
    seconds |= alternate(loops, rounds, warmup=1)
    median = {side: times["median"] for side, times in seconds.items()}
    show(
        "automata",
        {
            "draw_and_label_ratio": 10 * median["loop"] / median["draw"],
            "label_ratio_to_a_dictionary": median["delta"] / median["label"],
            "label_ratio_to_lists": median["lists"] / median["label"],
            "label_ratio_to_a_dictionary_between_loops": median["delta"] / median["label_between"],
            "seconds_for_100000": median["draw"],
            "label_seconds_for_100000": median["label"],
        },
    )


if __name__ == "__main__":
    main()
