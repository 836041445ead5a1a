"""Agreement by groups, and states that are swapped in a network whose states are known."""

import numpy as np
import pytest
import torch

from mechinterp import constructions
from mechinterp.analysis.behaviour import agreement, state_swap
from mechinterp.analysis.gates import Gate
from mechinterp.automata import NAMED
from mechinterp.constructions.regex_language import log_depth
from mechinterp.studies.regex_language.anatomy import swapped
from mechinterp.tasks import RegexLanguage

LENGTHS = torch.tensor([1, 1, 2, 2])
MASK = torch.arange(2) < LENGTHS[:, None]
RIGHT = {"class": torch.tensor([[1, 0], [0, 0], [1, 0], [1, 1]]).bool() & MASK}


def test_shares_by_length_count_places_and_whole_words():
    result = agreement(RIGHT, LENGTHS, MASK, axis="length", trivial=0.4)
    assert result.values.sel(answer="class").values.tolist() == [0.5, 0.75]
    assert result.values.sel(answer="class, whole").values.tolist() == [0.5, 0.5]
    assert result.extra["n"].sel(answer="class").values.tolist() == [2, 4]
    assert result.trivial == 0.4


def test_shares_by_state_count_places():
    states = torch.tensor([[3, 9], [3, 9], [5, 3], [5, 5]])
    result = agreement(RIGHT, states, MASK, axis="state", trivial=0.4, untrained=RIGHT)
    assert result.values.coords["state"].values.tolist() == [3, 5]
    assert result.values.values.tolist() == [[pytest.approx(1 / 3), 1.0]]
    assert result.control.equals(result.values)


def test_intervals_hold_the_share():
    generator = torch.Generator().manual_seed(0)
    right = {"class": torch.rand(300, 6, generator=generator) < 0.8}
    result = agreement(right, torch.zeros(300).long(), torch.ones(300, 6).bool(), axis="length", trivial=0.5)
    low, high = result.interval
    assert low < 0.8 < high < low + 0.1


def test_answers_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="answers like the mask"):
        agreement({"class": torch.ones(4, 3).bool()}, LENGTHS, MASK, axis="length", trivial=0.5)


def test_swapped_states_go_just_where_the_construction_carries_them():
    """After layer 1 a place fetches from 2, 4, ... before, so a state reaches every other place after it."""
    dfa, length, n = NAMED["S3"]().minimal(), 8, 60
    model = log_depth(dfa, length)
    words = torch.randint(2, (n, length), generator=torch.Generator().manual_seed(0))
    inputs, rows = torch.cat((torch.full((n, 1), 2), words), 1), torch.arange(n)
    source = dfa.trace(words)[:, 1]
    target, wrong = (source + 1) % 6, (source + 2) % 6
    # The column of the start, in the map that the stream holds, says the state: f[q, 0] is at 6 q.
    directions = torch.nn.functional.one_hot(6 * torch.arange(6), model.cfg.d_model).float()

    def follows(outputs, goal):
        states, found = torch.stack((source, goal)), []
        for place in range(1, length + 1):
            states = states if place == 1 else dfa.table[states, words[:, place - 1]]
            found.append((outputs[rows, place].argmax(-1) == states[1]).double())
        return torch.stack(found, 1)

    hook, at = "blocks.0.hook_resid_post", torch.ones(n).long()
    result = state_swap(model, inputs, hook, at, directions, source, target, wrong, follows)
    assert result.values.values.tolist() == 4 * [1, 0]
    assert not result.control.values.any()
    assert not result.extra["intact"].values.any()
    assert (result.extra["p"].values < 0.01).tolist() == 4 * [True, False]


@pytest.mark.parametrize("pattern", ["a*b*", "Z3", "ab"])
def test_the_last_stream_of_a_construction_answers_from_the_state_put_in_and_no_later(pattern):
    task = RegexLanguage(pattern=pattern, n_samples=400, max_len=8)
    model = constructions.regex_language(task)
    result = swapped(model, task, Gate.of(model, task), layer=-1, n=100)
    assert result.values.values.tolist() == [1.0, *(len(result.values) - 1) * [0.0]]
    assert not result.extra["intact"].values.any()


def test_states_that_are_the_same_are_refused():
    same = torch.zeros(3).long()
    with pytest.raises(ValueError, match="a target other than its source"):
        state_swap(
            torch.nn.Linear(1, 1),
            torch.zeros(3, 2).long(),
            "x",
            same,
            torch.eye(2),
            same,
            same,
            same + 1,
            len,
        )


def test_nothing_to_tell_apart_is_refused():
    task = RegexLanguage(pattern="a*b*", n_samples=300, max_len=8)
    model, inputs = constructions.regex_language(task), task.words("aab", "abb").inputs
    one = torch.ones(2).long()
    with pytest.raises(ValueError, match="tell the target from the source"):
        state_swap(
            model, inputs, "blocks.0.hook_resid_post", one, torch.eye(3, model.cfg.d_model), one, one + 1,
            one - 1, lambda outputs, _: torch.full((2, 1), np.nan),
        )  # fmt: skip
