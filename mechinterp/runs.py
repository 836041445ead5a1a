"""The run folder: what a training or a study leaves behind.

::

    config.json        task, model, recipe or study, and the version that wrote them
    environment.json   where and with what it ran
    history.json       losses and scores along training
    checkpoints/       weights along training;  weights.safetensors: the last
    results/           one Result a file
    claims.json        the table of claims
    report.html        all of it, readable without a network
    metrics.json       headline numbers, written last: a folder with it is finished
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mechinterp.files import read_json, write_atomic, write_json
from mechinterp.result import Claim, Result

_MARK = "mechinterp"


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
        run, record = cls(Path(path)), {_MARK: metadata.version("mechinterp"), **config}
        if run.path.is_dir() and any(run.path.iterdir()):
            found = cls.open(path).config
            if {**found, _MARK: None} != {**_jsonable(record), _MARK: None}:
                raise ValueError(
                    f"expected {path} to be empty or to hold this run, got a run of another config; "
                    "choose another folder"
                )
            return run
        (run.path / "results").mkdir(parents=True, exist_ok=True)
        write_json(run.path / "environment.json", environment())
        write_json(run.path / "config.json", record)
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """A run that was saved.

        Raises:
            ValueError: the folder is missing, is not a run, or is damaged.
        """
        if not Path(path).is_dir():
            raise ValueError(f"expected a run folder at {path}, found none; see `mechinterp runs list`")
        run = cls(Path(path))
        if not isinstance(run.config, dict) or _MARK not in run.config:
            raise ValueError(
                f"expected {path}/config.json to be of mechinterp, got another file; name a run folder"
            )
        return run

    @property
    def config(self) -> dict[str, Any]:
        """What was run."""
        return read_json(self.path / "config.json")

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "metrics.json").exists()

    @property
    def metrics(self) -> dict[str, Any]:
        """The headline numbers; empty while unfinished."""
        return read_json(self.path / "metrics.json") if self.finished else {}

    @property
    def history(self) -> dict[str, Any]:
        """Losses and scores along training."""
        return read_json(self.path / "history.json")

    @property
    def claims(self) -> list[Claim]:
        """The table of claims."""
        return [Claim.from_json(record) for record in read_json(self.path / "claims.json")]

    @property
    def results(self) -> dict[str, Result]:
        """All results, by name."""
        files = sorted((self.path / "results").glob("*.json"))
        return {file.stem: Result.from_json(read_json(file)) for file in files}

    def save_results(self, results: Iterable[Result]) -> None:
        """Write each result to a file of its name."""
        for result in results:
            write_json(self.path / "results" / f"{result.name}.json", result.to_json())

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


def list_runs(root: str | Path = "runs", **wanted: Any) -> list[Run]:
    """The runs below a folder, oldest first.

    Args:
        root: where to look, at any depth.
        wanted: what the config must say anywhere inside it, such as ``p=97``.

    Raises:
        ValueError: no such folder.
    """
    if not Path(root).is_dir():
        raise ValueError(f"expected a folder of runs at {root}, found none; train or study something first")
    runs = []
    for file in sorted(Path(root).rglob("config.json"), key=lambda file: file.stat().st_mtime):
        try:
            run = Run.open(file.parent)
        except ValueError:
            continue  # another program's config.json
        if all(str(value) in map(str, _find(run.config, key)) for key, value in wanted.items()):
            runs.append(run)
    return runs


def best_run(runs: Iterable[Run], metric: str, *, smallest: bool = False) -> Run:
    """The finished run with the largest (or smallest) value of a metric.

    Raises:
        ValueError: no finished run has that metric; the message names those that exist.
    """
    finished = [run for run in runs if run.finished]
    having = [run for run in finished if isinstance(run.metrics.get(metric), (int, float))]
    if not having:
        known = sorted({name for run in finished for name in run.metrics})
        raise ValueError(f"expected a finished run with the metric {metric!r}, found metrics {known}")
    return (min if smallest else max)(having, key=lambda run: run.metrics[metric])


def environment() -> dict[str, Any]:
    """Where and with what: versions, processor, threads and time."""
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


def _find(record: Any, key: str) -> list[Any]:
    """Every value that a nested record has under a key."""
    if not isinstance(record, Mapping):
        return []
    below = [value for inner in record.values() for value in _find(inner, key)]
    return [record[key], *below] if key in record else below


def _jsonable(record: Any) -> Any:
    if isinstance(record, Mapping):
        return {key: _jsonable(value) for key, value in record.items()}
    return [_jsonable(value) for value in record] if isinstance(record, (list, tuple)) else record
