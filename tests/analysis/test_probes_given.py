"""Whatever readers are given, they work or answer with what they expected, without a type checker's help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def answers():
    """What each call said, all in one process in which types are not checked."""
    run = subprocess.run(
        [sys.executable, str(HERE / "given_to_readers.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_whatever_is_given_works_or_is_answered_with_what_was_expected(answers):
    assert len(answers["calls"]) > 400
    raw = {
        call: answer for call, answer in answers["calls"].items()
        if answer != "works" and not answer.startswith(("ValueError: expected", "TypeError: expected"))
    }  # fmt: skip
    assert raw == {}
    long = {call: answer for call, answer in answers["calls"].items() if answer.count("\n") > 3}
    assert long == {}


def test_arrays_are_as_good_as_tensors(answers):
    other = {call: numbers for call, numbers in answers["arrays"].items() if numbers[0] != numbers[1]}
    assert other == {}


def test_pythons_generator_is_left_alone(answers):
    assert answers["python draws"] == []


def test_one_thread_or_two_change_no_score_that_is_said_to_be_exact(answers):
    assert answers["threads"] == []
