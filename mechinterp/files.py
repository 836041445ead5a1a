"""Files that are either whole or not there, read without trust, and JSON that any reader takes."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import numpy as np

try:
    import fcntl
except ImportError:  # elsewhere than on Unix
    fcntl = None

LARGEST_JSON = 2**26
"""Bytes of the largest JSON file that is read."""
MOST_VALUES = 5_000_000
"""The most values that a JSON file may hold; in memory each takes some forty bytes."""
MOST_OBJECTS = 1_000_000
"""The most lists, objects and keys that a JSON file may hold; each takes some two hundred bytes."""
DEEPEST = 100
"""How deeply the lists and objects of a JSON file may be nested."""

_LOCK = ".lock"


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, never meets half of it.

    The content goes to a temporary file in the same folder, is flushed to disk, and takes the
    file's name in one step.

    Raises:
        ValueError: the folder is not there, or a folder has the file's name.
    """
    path = Path(path)
    temporary = _write_aside(path, content)
    try:
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and path.is_dir():
            raise ValueError(f"expected to write a file {path}, got a folder there; move it away") from None
        raise


def write_new(path: str | Path, content: bytes | str) -> bool:
    """Write a file as ``write_atomic`` does, if there is none yet; of several at once one writes.

    Returns:
        Whether this call wrote it.

    Raises:
        ValueError: the folder is not there.
    """
    path = Path(path)
    temporary = _write_aside(path, content)
    try:
        os.link(temporary, path)  # in one step, also on NFS, and refused where the name is taken
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return True


def _write_aside(path: Path, content: bytes | str) -> str:
    """Write content, flushed to disk, to a temporary file beside a path; return its name."""
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
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def leftovers(path: str | Path) -> set[Path]:
    """What writes of a file left behind that were killed before they could clean up."""
    path = Path(path)
    return set(path.parent.glob(f".{path.name}.*"))


@contextmanager
def folder_lock(path: str | Path | None) -> Iterator[None]:
    """Keep a folder to oneself, and make it where there is none.

    The lock is the kernel's, so that it ends with the process, however that ends. ``None`` locks nothing, and
    where the system has no such locks, or the folder cannot be written to, neither does a path.

    Raises:
        ValueError: somebody else has the lock, or the path is no folder's.
    """
    if path is None:
        yield
        return
    place = Path(path)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"expected a folder at {path}, got {error.strerror}; choose another place") from None
    descriptor = _lock(place)
    try:
        yield
    finally:
        with suppress(OSError):
            if descriptor is not None and _is_open_at(descriptor, place / _LOCK):
                (place / _LOCK).unlink()
        if descriptor is not None:
            os.close(descriptor)


def _lock(place: Path) -> int | None:
    """A descriptor that holds a folder's lock; ``None`` where locks cannot be had."""
    if fcntl is None:
        return None
    file, flags = place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(100):
        try:
            descriptor = os.open(file, flags, 0o644)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between our opening it and locking it.
            if _is_open_at(descriptor, file):
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return descriptor
        except BlockingIOError:
            raise ValueError(
                f"expected no other training in {place}, got that of {_holder(descriptor)}; wait for its "
                "end, or choose another folder"
            ) from None
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)
    return None


def _is_open_at(descriptor: int, file: Path) -> bool:
    """Whether a file of that name is the one that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Who wrote a lock's file, which is closed."""
    written = b""
    with suppress(OSError):
        written = os.pread(descriptor, 16, 0)
    os.close(descriptor)
    number = re.match(rb"\d{1,9}", written)
    return f"process {int(number[0])}" if number else "another process"


def lock_of(path: str | Path) -> Path:
    """The file by which ``folder_lock`` locks a folder; it is there while somebody works, or was killed."""
    return Path(path) / _LOCK


@contextmanager
def open_regular(path: str | Path, at_most: int) -> Iterator[BinaryIO]:
    """Open a file to read, if it is one: neither a folder nor a pipe or a device, which have no end.

    Args:
        at_most: bytes of the largest file that is taken.

    Raises:
        FileNotFoundError, OSError: there is none, or it cannot be opened.
        ValueError: something that is no regular file, or a larger one.
    """
    try:
        # A pipe that nobody writes to would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a null character
        raise ValueError(f"expected a file at {path!r}, got a name that no file has ({error})") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe or device"
            raise ValueError(f"expected a file {path}, got a {kind}; put a file there")
        if found.st_size > at_most:
            raise ValueError(
                f"expected a file {path} of at most {at_most:,} bytes, got {found.st_size:,}; name another, "
                "or allow more where that is an argument"
            )
        yield file


def read_bytes(path: str | Path, at_most: int) -> bytes:
    """What a regular file holds; as ``open_regular``."""
    with open_regular(path, at_most) as file:
        data = file.read(at_most + 1)  # it may have grown, or be one of the system's, whose size is 0
    if len(data) > at_most:
        raise ValueError(f"expected a file {path} of at most {at_most:,} bytes, got more; name another")
    return data


def plain(record: Any) -> Any:
    """A record as JSON has it: lists for tuples and arrays, null for numbers that are not finite."""
    if isinstance(record, Mapping):
        return {str(key): plain(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [plain(value) for value in record]
    if isinstance(record, (np.ndarray, np.generic)):
        return plain(record.tolist())
    return None if isinstance(record, float) and not math.isfinite(record) else record


def json_text(record: Any) -> str:
    """A record as indented JSON; numbers that are not finite become null."""
    return json.dumps(plain(record), indent=1, allow_nan=False) + "\n"


def write_json(path: str | Path, record: Any) -> None:
    """Write a record as indented JSON, atomically; numbers that are not finite become null."""
    write_atomic(path, json_text(record))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is missing, cannot be read, is too large or is not JSON.
    """
    try:
        data = read_bytes(path, LARGEST_JSON)
    except FileNotFoundError:
        raise ValueError(f"expected a file {path}, found none; is this a run folder?") from None
    except OSError as error:
        raise ValueError(f"expected a file {path}, got {error.strerror}; is this a run folder?") from None
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got {error}; the file is damaged") from None


def parse_json(data: bytes) -> Any:
    """The record that JSON spells, of bounded size and depth.

    Raises:
        ValueError: it is none, or too large; the message says what was got.
    """
    values = data.count(b",")
    objects = data.count(b"[") + data.count(b"{") + data.count(b":")
    if values > MOST_VALUES or objects > MOST_OBJECTS:
        raise ValueError(f"some {values:,} values in {objects:,} lists, objects and keys, which are too many")
    try:
        record = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("lists or objects that are nested too deeply") from None
    if _SPELT_SURROGATE.search(data) and _SURROGATE.search(json.dumps(record, ensure_ascii=False)):
        raise ValueError("half a character, which no text has")
    level, depth = [record], 0
    while level := [each for held in level for each in _held(held) if isinstance(each, (dict, list))]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("lists or objects that are nested too deeply")
    return record


_SPELT_SURROGATE, _SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]"), re.compile("[\ud800-\udfff]")


def _held(record: Any) -> Any:
    return record.values() if isinstance(record, dict) else record if isinstance(record, list) else ()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number of JSON")


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


def from_record(cls: type, record: Any, make: Callable[[Any], Any], path: str | Path) -> Any:
    """A dataclass made of a JSON record, whose fields and their types are checked before.

    Args:
        make: makes it, such as ``cls.from_json``.
        path: the file that the record is of, for messages.

    Raises:
        ValueError: the record is not that of a ``cls``.
    """
    if not isinstance(record, dict):
        raise ValueError(f"in {path}: expected a {cls.__name__}, got a {type(record).__name__}")
    hints = get_type_hints(cls)
    named = {each.name for each in fields(cls)}
    for name, value in record.items():
        if name in named and not _is_of(value, hints[name]):
            raise ValueError(
                f"in {path}: expected {name} of a {cls.__name__} of type {_spelt(hints[name])}, got "
                f"{_short(value)}; the file is damaged"
            )
    try:
        return make(record)
    except MemoryError:
        raise
    except Exception as error:  # what else cannot be shows in many kinds of errors
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        expected = said if said.startswith("expected") else f"expected the record of a {cls.__name__}"
        got = "" if said.startswith("expected") else f", got {_short(said)}; the file is damaged"
        raise ValueError(f"in {path}: {expected}{got}") from None


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is of a type; whole numbers are floats, too, and lists are tuples."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is_of(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (tuple, list):
        if not isinstance(value, list):
            return False
        each = [inner[0]] * len(value) if origin is list or inner[1:] == (...,) else inner
        return len(each) == len(value) and all(map(_is_of, value, each))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (int, str, bool, NoneType):
        return type(value) is hint
    return True  # other types have a spelling of their own, which the maker reads


def _spelt(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
