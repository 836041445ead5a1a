"""Files that are either whole or not there, and JSON that any reader takes."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, never meets half of it.

    The content goes to a temporary file in the same folder, is flushed to disk, and takes the
    file's name in one step.

    Raises:
        ValueError: the folder is not there.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"expected a folder {path.parent} to write {path.name} to, found none; make it first"
        )
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def leftovers(path: str | Path) -> set[Path]:
    """What writes of a file left behind that were killed before they could clean up."""
    path = Path(path)
    return set(path.parent.glob(f".{path.name}.*"))


def plain(record: Any) -> Any:
    """A record as JSON has it: lists for tuples and arrays, null for numbers that are not finite."""
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [plain(value) for value in record]
    if isinstance(record, (np.ndarray, np.generic)):
        return plain(record.tolist())
    return None if isinstance(record, float) and not math.isfinite(record) else record


def write_json(path: str | Path, record: Any) -> None:
    """Write a record as indented JSON, atomically; numbers that are not finite become null."""
    write_atomic(path, json.dumps(plain(record), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"expected a file {path}, found none; is this a run folder?") from None
    except OSError as error:
        raise ValueError(f"expected a file {path}, got {error.strerror}; is this a run folder?") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path}, got {error}; the file is damaged") from None


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        ValueError: as ``read_json``, or the file holds something else.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(
            f"expected a JSON object in {path}, got a {type(record).__name__}; the file is damaged"
        )
    return record
