"""What holds for every public analysis: what it may be given, and what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def found():
    """Answers of a process without the plugin that checks types, which draws random numbers as well."""
    script = Path(__file__).parent / "given_anything.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout)


def test_whatever_an_analysis_is_given_it_works_or_says_what_it_expected(found):
    assert found["faults"] == []
    assert found["tried"] > 4000


def test_an_analysis_leaves_models_and_global_randomness_as_they_were(found):
    assert found["left behind"] == []
    assert found["analyses"] > 50
