"""The run folder: what a training or a study leaves behind.

::

    config.json        task, model, recipe or study, and the version that wrote them
    environment.json   where and with what it ran
    history.json       losses and scores along training
    checkpoints/       weights along training;  weights.safetensors: the last
    state.safetensors  what training goes on from;  network.json: which model the weights are of
    results/           one Result a file
    claims.json        the table of claims
    report.html        all of it, readable without a network
    metrics.json       headline numbers, written last: a folder with it is finished
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

from mechinterp.files import (
    json_text,
    leftovers,
    lock_of,
    plain,
    read_json,
    read_object,
    write_atomic,
    write_json,
    write_new,
)
from mechinterp.result import Claim, Result

_MARK = "mechinterp"
FIT = "fit"
"""The kind of a run that ``training.fit`` left in a folder in which there was none."""


@dataclass(frozen=True)
class Run:
    """One run folder. Make one with ``Run.create``, read one with ``Run.open``."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> Run:
        """Make a folder, or go on in one that holds the same config.

        Args:
            config: plain JSON values; at least ``"kind"``, such as ``"train"`` or ``"study"``.

        Raises:
            ValueError: the folder holds something else, or a run of another config.
        """
        run, record = cls(Path(path)), plain({_MARK: metadata.version("mechinterp"), **config})
        file = run.path / "config.json"
        if os.path.lexists(run.path) and not os.path.isdir(run.path):
            raise ValueError(f"expected a folder at {path}, got a file; choose another place")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"expected a folder at {path}, got {error}; choose another place") from None
        strange = set(run.path.iterdir()) - leftovers(file) - {lock_of(run.path)}
        # Of several that make it at the same moment one writes; the others find what it wrote.
        if strange or not write_new(file, json_text(record)):
            found = cls.open(path).config
            changed = sorted(k for k in {*found, *record} - {_MARK} if found.get(k) != record.get(k))
            if changed:
                raise ValueError(
                    f"expected {path} to be empty or to hold this run, got a run with another {changed}; "
                    "choose another folder"
                )
        if not (run.path / "environment.json").exists():
            write_json(run.path / "environment.json", environment())
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run that was saved.

        Raises:
            ValueError: the folder is missing, is not a run, or is damaged.
        """
        if not os.path.isdir(path):
            raise ValueError(f"expected a run folder at {path}, found none; see `mechinterp runs list`")
        run = cls(Path(path))
        if _MARK not in run.config:
            raise ValueError(
                f"expected {path}/config.json to be of mechinterp, got another file; name a run folder"
            )
        return run

    @property
    def config(self) -> dict[str, Any]:
        """What was run."""
        return read_object(self.path / "config.json")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return os.path.exists(self.path / "metrics.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """The headline numbers; empty while unfinished."""
        return read_object(self.path / "metrics.json") if self.finished else {}

    def numbers(self, *names: str) -> list[float]:
        """Headline numbers by name; NaN where one is undefined.

        Raises:
            ValueError: one is missing, or no number.
        """
        found = self.metrics
        for name in names:
            value = found.get(name, "nothing")
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(
                    f"in {self.path / 'metrics.json'}: expected a number {name!r}, got {value!r:.80}; the "
                    "file is damaged"
                )
        return [math.nan if found[name] is None else float(found[name]) for name in names]

    @property
    def history(self) -> dict[str, Any]:
        """Losses and scores along training."""
        return read_object(self.path / "history.json")

    @property
    def claims(self) -> list[Claim]:
        """The table of claims."""
        records = read_json(self.path / "claims.json")
        try:
            if not isinstance(records, list):
                raise ValueError(f"expected a list, got a {type(records).__name__}; the file is damaged")
            return [Claim.from_json(record) for record in records]
        except ValueError as error:
            raise ValueError(f"in {self.path / 'claims.json'}: {error}") from None

    @property
    def results(self) -> dict[str, Result]:
        """All results, by the names of their files."""
        files = sorted((self.path / "results").glob("*.json"))
        return {file.stem: Result.load(file) for file in files}

    def save_results(self, results: Iterable[Result]) -> None:
        """Write each result to a file of its name; of several of one name, the later ones are numbered.

        Raises:
            ValueError: a name that cannot be a file's; nothing is written.
        """
        every = list(results)
        for name in {result.name for result in every}:
            if Path(name).name != name or not name.strip("."):
                raise ValueError(f"expected a result's name that a file can have, got {name!r}; rename it")
        (self.path / "results").mkdir(exist_ok=True)
        taken = {result.name for result in every}
        first = set()
        for result in every:
            name = result.name
            if name in first:
                name = next(new for i in count(2) if (new := f"{result.name}_{i}") not in taken)
            first.add(result.name)
            taken.add(name)
            result.save(self.path / "results" / f"{name}.json")

    def save_claims(self, claims: Iterable[Claim]) -> None:
        """Write the table of claims."""
        write_json(self.path / "claims.json", [claim.to_json() for claim in claims])

    def save_report(self, html: str) -> Path:
        """Write the report and say where it is."""
        write_atomic(self.path / "report.html", html)
        return self.path / "report.html"

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the headline numbers, which marks the run as finished."""
        write_json(self.path / "metrics.json", dict(metrics))


def list_runs(root: str | Path = "runs", /, **wanted: Any) -> list[Run]:
    """The runs below a folder, oldest first.

    Networks that ``fit`` left below another run, as those of a study, are parts of that run and left out.

    Args:
        root: where to look, at any depth.
        wanted: what the config must say anywhere inside it, such as ``p=97``; text is read as the
            number, list or null that it spells.

    Raises:
        ValueError: no such folder, or a key that none of its runs has.
    """
    if not os.path.isdir(root):
        raise ValueError(f"expected a folder of runs at {root}, found none; train or study something first")
    every: dict[Path, tuple[float, Run, dict[str, Any]]] = {}
    for file in Path(root).rglob("config.json"):
        try:
            run = Run.open(file.parent)
            every[file.parent] = (file.stat().st_mtime, run, run.config)
        except (OSError, ValueError):
            continue  # another program's config.json
    whole = [
        each
        for place, each in every.items()
        if each[2].get("kind") != FIT or every.keys().isdisjoint(place.parents)
    ]
    found = [(run, config) for _, run, config in sorted(whole, key=lambda each: each[0])]
    known = {name for _, config in found for name, _ in _items(config)}
    for key, value in wanted.items():
        if known and key not in known:
            raise ValueError(f"expected a key of some run's config, {sorted(known)}, got {key!r}; name one")
        found = [(run, config) for run, config in found if _says(config, key, value)]
    return [run for run, _ in found]


def best_run(runs: Iterable[Run], metric: str, *, smallest: bool = False) -> Run:
    """The finished run with the largest (or smallest) value of a metric.

    Raises:
        ValueError: no finished run has that metric; the message names those that exist.
    """
    finished = [
        (run, {k: v for k, v in run.metrics.items() if _is_number(v)}) for run in runs if run.finished
    ]
    having = [(run, metrics[metric]) for run, metrics in finished if metric in metrics]
    if not having:
        known = sorted({name for _, metrics in finished for name in metrics})
        raise ValueError(
            f"expected a finished run with the metric {metric!r}, found {len(finished)} finished "
            f"with metrics {known}; name one of them"
        )
    return (min if smallest else max)(having, key=lambda pair: pair[1])[0]


def environment() -> dict[str, Any]:
    """Where and with what: versions, processor, cores and time."""
    packages = ("mechinterp", "torch", "transformer-lens", "numpy", "plotly")
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _items(record: Any) -> list[tuple[str, Any]]:
    """Every key and value of a nested record."""
    if not isinstance(record, Mapping):
        return []
    return [*record.items(), *(item for inner in record.values() for item in _items(inner))]


def _says(config: Any, key: str, wanted: Any) -> bool:
    """Whether a config has a value under a key: itself, or what its text spells."""
    values = [value for name, value in _items(config) if name == key]
    if plain(wanted) in values or str(wanted) in map(str, values):
        return True
    try:
        return isinstance(wanted, str) and json.loads(wanted) in values
    except (ValueError, RecursionError):
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not math.isnan(value)
