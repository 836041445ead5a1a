"""A sweep on a cluster of this machine: a worker dies midway, and every run is done all the same, once."""

import subprocess
import sys
from collections import Counter
from contextlib import contextmanager

import pytest
from distributed import Client

from mechinterp.files import read_json
from mechinterp.runs import Run
from mechinterp.studies.text_arithmetic import TextGrid, grid

CONFIG = TextGrid(n_layers=(1,), d_model=(8, 16), n_heads=2, seeds=3, steps=20, max_operand=60, n_test=100)


@contextmanager
def started(name, *words):
    process = subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{name}", *words])
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers on the loopback: its address, and the workers' processes."""
    file = tmp_path / "scheduler.json"
    here = ("--scheduler-file", str(file), "--no-dashboard")
    one = ("worker", *here, "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path))
    scheduler = started("scheduler", *here, "--host", "127.0.0.1", "--port", "0")
    with scheduler, started(*one) as first, started(*one) as second:
        with Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        yield read_json(file)["address"], (first, second)


def test_a_worker_that_dies_leaves_no_run_undone(cluster, tmp_path):
    address, (victim, other) = cluster
    told = []

    def after_each(name, done, of):
        told.append(name)
        if done == 1:
            victim.kill()
            victim.wait(timeout=30)

    found = grid(CONFIG, tmp_path / "grid", cluster=address, told=after_each)
    assert other.poll() is None
    assert Counter(told) == dict.fromkeys(CONFIG.settings(), 1)
    assert all(Run.open(tmp_path / "grid" / name).metrics["steps"] == 20 for name in CONFIG.settings())
    assert found == grid(CONFIG, tmp_path / "here")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "grid").rglob("metrics.json")}
    again = grid(CONFIG, tmp_path / "grid", cluster=address, told=lambda *_: pytest.fail("all was done"))
    assert again == found
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "grid").rglob("metrics.json")} == times
