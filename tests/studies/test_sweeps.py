"""Runs side by side end with the process that began them."""

import subprocess
import sys
import time

import pytest

ASKED = """
import os, sys, time
from pathlib import Path
from mechinterp.studies.sweeps import side_by_side

def one(given, folder):
    folder.mkdir()
    try:
        (folder / "begun").touch()
        time.sleep(given)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        raise

list(side_by_side(one, {"a": 100, "b": 100, "c": 100}, Path(sys.argv[1]), 2))
"""


def until(there, seconds=60):
    ends = time.monotonic() + seconds
    while not there() and time.monotonic() < ends:
        time.sleep(0.1)
    return there()


@pytest.mark.parametrize(
    ("how", "ignored"),
    [("kill", False), ("terminate", True)],
    ids=["killed", "by SIGTERM, in the background"],
)
def test_runs_whose_first_process_is_ended_are_interrupted(tmp_path, how, ignored):
    asked = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" * ignored + ASKED
    first = subprocess.Popen([sys.executable, "-c", asked, str(tmp_path)], stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: len(list(tmp_path.glob("*/begun"))) == 2)
    finally:
        getattr(first, how)()
        first.wait()
    assert until(lambda: len(list(tmp_path.glob("*/interrupted"))) == 2, seconds=20)
    assert not (tmp_path / "c").exists()
