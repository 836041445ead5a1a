"""SIGTERM ends a training as Ctrl-C does, with the state saved; handlers of others are respected."""

import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from mechinterp.tasks import ModularAddition
from mechinterp.training import Recipe, fit
from mechinterp.training.checkpoint import STATE

TASK, RECIPE = ModularAddition(p=5), Recipe(steps=4, eval_every=2, save_every=100)

SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_interruption import RECIPE, TASK, Table, fit

def stop(job):
    if job.step == 2:
        os.kill(os.getpid(), signal.SIGTERM)

fit(Table(), TASK, RECIPE, folder=sys.argv[2], callbacks=[stop])
print("went on")
"""


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(6, 5))

    def forward(self, x, read):
        return self.table[x].mean(1, keepdim=True)


def raising(number):
    def callback(job):
        if job.step == 2:
            signal.raise_signal(number)

    return callback


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_saves_and_exits_with_143(tmp_path):
    place = str(tmp_path / "run")
    words = [sys.executable, "-c", SCRIPT, __file__.rpartition("/")[0], place]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    whole, rest = Table(), Table()
    fit(whole, TASK, RECIPE)
    job = fit(rest, TASK, RECIPE, folder=place)
    assert len(job.history.train_loss) == 4
    assert torch.equal(whole.table, rest.table)


def test_a_handler_of_the_user_s_is_called_once_the_state_is_saved(tmp_path, handlers):
    seen = []
    signal.signal(signal.SIGTERM, lambda *_: seen.append((tmp_path / STATE).exists()))
    mine = signal.getsignal(signal.SIGTERM)
    job = fit(Table(), TASK, RECIPE, folder=tmp_path, callbacks=[raising(signal.SIGTERM)])
    assert (seen, job.stopped, job.step) == ([True], "interrupted", 2)
    assert signal.getsignal(signal.SIGTERM) is mine


def test_by_default_the_process_exits(handlers):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit) as stop:
        fit(Table(), TASK, RECIPE, callbacks=[raising(signal.SIGTERM)])
    assert stop.value.code == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_process_ignores_is_ignored(number, handlers):
    signal.signal(number, signal.SIG_IGN)
    assert fit(Table(), TASK, RECIPE, callbacks=[raising(number)]).stopped == "steps"


def test_a_handler_of_a_c_library_is_left_alone(monkeypatch):
    known = []
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # what Python says of such a one
    monkeypatch.setattr(signal, "signal", lambda number, handler: known.append(handler))
    assert fit(Table(), TASK, RECIPE).stopped == "steps"
    assert not known
