"""What words do to all states at once: the transition monoid, and whether there is a group in it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from mechinterp.automata.dfa import DFA

BUDGET = 100_000
"""How many elements a transition monoid may have."""


def transition_monoid(dfa: DFA, budget: int = BUDGET) -> Int[np.ndarray, "element state"]:
    """Every map from states to states that some word makes, the empty word's first.

    Raises:
        ValueError: more elements than the budget.
    """
    symbols = [tuple(column) for column in dfa.table.T.tolist()]
    identity = tuple(range(dfa.n_states))
    seen, order = {identity}, [identity]
    for element in order:
        for symbol in symbols:
            after = tuple(symbol[state] for state in element)
            if after not in seen:
                seen.add(after)
                order.append(after)
                if len(order) > budget:
                    raise ValueError(
                        f"expected a transition monoid of at most {budget} elements, got more from "
                        f"{dfa.n_states} states; take a smaller automaton, or raise budget="
                    )
    return np.array(order)


def is_aperiodic(dfa: DFA, budget: int = BUDGET) -> bool:
    """Whether no word permutes some states in a circle: then the language is star-free.

    By Schützenberger (1965) and McNaughton & Papert (1971): such a language has a first-order
    formula, and circuits of constant depth decide it. Give the minimal automaton.
    """
    elements = transition_monoid(dfa, budget)
    rows = np.arange(len(elements))[:, None]
    power = elements
    for _ in range(dfa.n_states):  # after so many steps every orbit has come to its circle
        power = elements[rows, power]
    return bool((elements[rows, power] == power).all())
