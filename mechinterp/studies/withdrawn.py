"""Claims that are withdrawn, and why: what was measured does not show what their sentences say.

A claim is withdrawn where a counterfeit passes it (something that lacks what the sentence asserts), where it
is true of every network by an identity, or where its measure is wrong. Its value stays in the table. The
claim is made again by another measure, and then leaves this list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import ParamSpec

from mechinterp.result import Claim

_ONE_FACT = "It follows in closed form from the matrix P of weights_are_gradient_step, and adds no finding."
_NO_NUMBER = (
    "The exact automaton, built by hand, gets no number (NaN), so values say nothing about a network."
)

WITHDRAWN: Mapping[str, Mapping[str, str]] = {
    "modular-addition": {
        "neurons_cause_the_answer": (
            "No LayerNorm follows the neurons, so ablating them is a subtraction: their weights alone give "
            "the same numbers."
        ),
        "clock_or_pizza": (
            "A lookup table of pairs that reads its two numbers by separate heads passes both measures, "
            "and has no circle."
        ),
    },
    "regex-language": {
        "classifies": (
            "Of the prefixes of unseen strings, 70 to 88 % begin a training string; a lookup of those "
            "passes in five languages of ten."
        ),
        "states_linearly_readable": (
            "After the last layer a linear readout gives class and next symbol, and right answers alone "
            "tell the state in eight languages of ten."
        ),
        "states_cause_the_answer": (
            "Directions of the classes do as well as those of states, since only answers of another "
            "class are counted."
        ),
        "weights_match_raw": _NO_NUMBER,
        "weights_match_state_basis": _NO_NUMBER,
        "generalises_in_length": (
            "Repeating the class of the last trained position passes in five languages of ten; two thirds "
            "of the prefixes are no longer."
        ),
        "shortcut_or_simulation": (
            "After an only layer nothing can carry a state on, and the exact automaton of six layers does "
            "not pass either."
        ),
    },
    "linear-regression": {
        "sensitivities_match_gd": _ONE_FACT,
        "attention_is_similarity": (
            "Its linear half follows from weights_are_gradient_step, its softmax half from "
            "softmax_is_kernel_smoother; it adds no finding."
        ),
        "not_ols_at_depth_one": (
            "The task fixes the ratio of the best step's loss to Bayes', so every layer that reaches the "
            "step passes."
        ),
        "extrapolates_in_context_length": _ONE_FACT,
        "breaks_under_covariate_shift": _ONE_FACT,
        "depth_is_more_steps": (
            "Six numbers also explain 95 % of the answers of three layers trained on signs of w.x, where "
            "least squares is not the task."
        ),
        "rank_collapse_without_skips": (
            "It holds of the untrained network too: a fact about attention without skips, not about what "
            "was learned."
        ),
    },
    "digit-addition": {
        "teacher_forcing_identity": (
            "An identity of greedy decoding, true of every network: it checks the code and finds nothing."
        ),
        "carry_has_its_own_heads": (
            "The hand-built adder passes, in which no head holds a carry: the head named copies a digit of "
            "the column before."
        ),
    },
    "state-machine": {
        "alignment_beats_null": (
            "Codes that name tokens reach purity 1, since each token belongs to one state, so that purity "
            "shows no states."
        ),
        "codes_cause_the_prediction": (
            "Replacing the outputs of all sublayers by their means over a state does the same in a network "
            "without codebooks."
        ),
        "tracks_hidden_state_when_ambiguous": (
            "A lookup of the last three tokens reaches the best predictor's score, so that nothing need be "
            "tracked."
        ),
        "belief_geometry": (
            "A lookup of the last four tokens decodes beliefs with R² .996, the network with .9925: "
            "nothing beyond n-grams is shown."
        ),
    },
    "text-arithmetic": {
        "sum_linearly_readable": (
            "A linear readout gives the answer right after this layer, so a linear probe finds it in every "
            "network that learned."
        ),
        "leace_removes_more_than_one_direction": (
            "It holds of an untrained network too: a fact about LEACE, not about what was learned."
        ),
        "residue_is_circular": (
            "Residues on an open line pass with R² .997, though 0 and 96 are farther apart on it than 0 "
            "and 48."
        ),
    },
    "sortedness": {
        "none_bidirectional_at_chance": (
            "A theorem, true of every such network: it sees a bag of tokens, and both sequences of a pair "
            "have the same."
        ),
        "random_shuffles_leak": (
            "Its verdict rests on the noise of 1,000 sequences; exactly, both ends tell .920 at length 8 "
            "and more beyond."
        ),
    },
}
"""By study, the ids of its withdrawn claims, each with the reason in one sentence of at most 25 words."""


def withdraw(study: str, claims: Iterable[Claim]) -> list[Claim]:
    """Return the claims of a study, with those on the list withdrawn whatever was measured.

    Args:
        study: its name on the command line, such as ``"state-machine"``.

    Example:
        >>> told = Claim(id="belief_geometry", statement="Beliefs are decodable", value=0.99, verdict="holds")
        >>> withdraw("state-machine", [told])[0].verdict
        'withdrawn'
    """
    reasons = WITHDRAWN.get(study, {})
    return [claim.withdraw(reasons[claim.id]) if claim.id in reasons else claim for claim in claims]


Given = ParamSpec("Given")


def withdraws(study: str) -> Callable[[Callable[Given, list[Claim]]], Callable[Given, list[Claim]]]:
    """Return a decorator for the function that makes a study's claims: ``withdraw`` is applied to them."""

    def decorate(judge: Callable[Given, list[Claim]]) -> Callable[Given, list[Claim]]:
        @wraps(judge)
        def judged(*args: Given.args, **kwargs: Given.kwargs) -> list[Claim]:
            return withdraw(study, judge(*args, **kwargs))

        return judged

    return decorate


def tally(claims: Iterable[Claim]) -> str:
    """Return how many claims have which verdict, such as ``"3 claims 1 hold, 2 fail, ..."``."""
    count = Counter(claim.verdict for claim in claims)
    return (
        f"{count.total()} claims {count['holds']} hold, {count['fails']} fail, {count['untested']} are "
        f"untested and {count['withdrawn']} are withdrawn"
    )
