"""Many runs of one kind, each into a folder of its own: here in processes, or on a cluster; each run once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from mechinterp.files import plain
from mechinterp.runs import Run

One = Callable[[Any, Path], None]
"""Does one run of given settings in a folder, and finishes it; at the top level of a module."""
Told = Callable[[str, int, int], None]
"""Told the name of each finished run, how many are, and of how many."""


def sweep(
    one: One,
    settings: Mapping[str, Any],
    out: str | Path,
    *,
    workers: int = 1,
    cluster: str | None = None,
    told: Told = lambda name, done, of: None,
) -> dict[str, Run]:
    """Do every run that is not finished yet.

    A run that was interrupted, or whose worker died, goes on from its saved state. Ctrl-C ends the sweep;
    the same call goes on with what is left.

    Args:
        settings: what ``one`` is given, by name; the names are those of the folders below ``out``.
        workers: processes here; the processor's cores are shared out among them.
        cluster: address of a dask scheduler, such as ``tcp://10.0.0.5:8786``, whose workers do the runs
            instead; they must see ``out`` under the same path.

    Returns:
        The finished runs by name, in the order of ``settings``.

    Raises:
        ValueError: no settings, fewer than one worker, names that cannot be folders, or a folder with a run
            of other settings.
        ImportError: a cluster is asked for without the extra ``cluster``.
        Exception: that of the first run that fails, once the others under way have ended.
    """
    place = Path(out)
    if not settings or workers < 1:
        raise ValueError(
            f"expected at least one run and one worker, got {len(settings)} and {workers}; give more"
        )
    for name in settings:
        if Path(name).name != name or not name.strip("."):
            raise ValueError(f"expected names that folders can have, got {name!r}; change it")
    for name, given in settings.items():
        _check_same(Run(place / name), given)
    left = {name: given for name, given in settings.items() if not Run(place / name).finished}
    done = len(settings) - len(left)
    for name in (
        _by_cluster(one, left, place, cluster) if cluster else side_by_side(one, left, place, workers)
    ):
        done += 1
        told(name, done, len(settings))
    return {name: Run.open(place / name) for name in settings}


def _check_same(run: Run, given: Any) -> None:
    """Refuse a folder that holds a run of other settings, where these are a record."""
    if not run.finished or not is_dataclass(given):
        return
    config, wanted = run.config, plain(asdict(given))
    other = {name: config[name] for name, value in wanted.items() if config.get(name, value) != value}
    if other:
        raise ValueError(
            f"expected {run.path} to hold a run of these settings, got one of {other}; choose another folder"
        )


def _key(folder: Path, given: Any) -> str:
    """A name on the cluster that is this run's alone."""
    return f"mechinterp-{folder.name}-{hashlib.sha256(f'{folder} {given}'.encode()).hexdigest()[:16]}"


def side_by_side(one: One, left: Mapping[str, Any], place: Path, workers: int) -> Iterator[str]:
    """Do runs in processes of this machine that share its cores; a single one is this process.

    Where this process ends before them, killed say, their runs are interrupted.

    Returns:
        The name of each run, once it is done.
    """
    if workers == 1:
        for name, given in left.items():
            one(given, place / name)
            yield name
        return
    from joblib import Parallel, delayed

    threads = max(1, (os.cpu_count() or 1) // workers)
    jobs = (
        delayed(_threaded)(one, given, place / name, name, threads, os.getpid())
        for name, given in left.items()
    )
    yield from Parallel(n_jobs=workers, return_as="generator_unordered")(jobs)


def _threaded(one: One, given: Any, folder: Path, name: str, threads: int, parent: int) -> str:
    torch.set_num_threads(threads)
    if os.getpid() != parent:
        _end_with(parent)
        if os.getppid() != parent:  # this run was handed out before
            raise KeyboardInterrupt
    one(given, folder)
    return name


@functools.cache
def _end_with(parent: int) -> None:
    """Interrupt this process once the one that began it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # inherited, in the background of a shell say
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()


def _by_cluster(one: One, left: Mapping[str, Any], place: Path, cluster: str) -> Iterator[str]:
    """On the workers of a dask cluster; runs of a worker that dies are done by another."""
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise ImportError(
            "expected the package distributed for a cluster, got none; install mechinterp[cluster]"
        ) from error
    place = place.resolve()
    with Client(cluster) as client:
        names = {
            client.submit(one, given, place / name, key=_key(place / name, given), retries=2): name
            for name, given in left.items()
        }
        try:
            for future in as_completed(list(names)):
                future.result()
                yield names[future]
        finally:
            with contextlib.suppress(Exception):  # the scheduler may be gone
                client.cancel([future for future in names if not future.done()])
