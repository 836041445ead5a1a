"""Weights and training state on disk: safetensors for both, nothing that runs code.

A state's plain values are JSON in the file's header, so that all of it is one file, whole or not there.
Files are read without trust: the header is checked against the file's size before memory is asked for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mechinterp.files import LARGEST_JSON, open_regular, parse_json, write_atomic

LARGEST_WEIGHTS = 2**29
"""Bytes of the largest file of weights that is read where nothing else is said."""

STATE = "state.safetensors"
"""What a training's folder calls its state."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The dtypes of safetensors."""

_STATE = "mechinterp_state"
"""Under which name a state's plain values are in the header."""


def save_weights(path: str | Path, weights: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a module's or a mapping's tensors as safetensors, atomically.

    Raises:
        ValueError: a tensor that safetensors has no form for, such as a sparse one.
    """
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    write_atomic(path, save_tensors(_separate(tensors)))


def check_savable(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what safetensors has no form for, such as sparse tensors.

    Raises:
        ValueError: the first that is.
    """
    for name, x in tensors.items():
        whole = isinstance(x, Tensor) and x.layout == torch.strided and not x.is_quantized and not x.is_meta
        if not whole or x.dtype not in _DTYPES.values():
            got = f"one of {x.dtype}, {x.layout} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"expected a dense tensor {name!r} to save, got {got}; convert it")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, as safetensors wants them."""
    check_savable(tensors)
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, given in tensors.items():
        x = given.detach().cpu().contiguous()
        storage = x.untyped_storage()
        found[name] = x.clone() if storage.data_ptr() in seen or storage.nbytes() > x.nbytes else x
        seen.add(storage.data_ptr())
    return found


def load_weights(path: str | Path, at_most: int = LARGEST_WEIGHTS) -> dict[str, Tensor]:
    """Read tensors that ``save_weights`` wrote.

    Args:
        at_most: bytes of the largest file that is read.

    Raises:
        ValueError: the file is missing, is not a whole safetensors file, or is a larger one.
    """
    with _opened(path, at_most) as (file, described, _):
        return {name: _read(file, x) for name, x in described.items()}


def describe_weights(path: str | Path, at_most: int = LARGEST_WEIGHTS) -> dict[str, Tensor]:
    """Shapes and dtypes of a file's tensors, as tensors on torch's device ``meta``, which hold nothing.

    Raises:
        ValueError: as ``load_weights``.
    """
    with _opened(path, at_most) as (_, described, _):
        return described


def load_into(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Give a module weights, once they are seen to have its names, shapes and dtypes.

    Args:
        path: the file that they are of, for messages.

    Raises:
        ValueError: they do not; the module is as it was.
    """
    check_like(module.state_dict(), weights, path)
    module.load_state_dict(weights)


def check_like(expected: Any, found: Any, path: str | Path, within: str = "") -> None:
    """Refuse a nested record that has not the keys, types, shapes and dtypes of another.

    Args:
        path: the file that ``found`` is of, and ``within`` where in it, for messages.

    Raises:
        ValueError: the first difference.
    """
    at = f"in {path}: expected {within or 'its content'}"
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor):
            raise ValueError(f"{at} to be a tensor, got a {type(found).__name__}; the file is damaged")
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            raise ValueError(
                f"{at} of {_kind(expected)}, got {_kind(found)}; the file is damaged or of another network"
            )
    elif isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or expected.keys() != found.keys():
            keys = set(found) if isinstance(found, Mapping) else set()
            missing, strange = (
                sorted(map(str, side))[:3] for side in (expected.keys() - keys, keys - expected.keys())
            )
            raise ValueError(
                f"{at} to have {len(expected)} entries, got one without {missing} and with {strange} "
                "besides; the file is damaged or of another network"
            )
        for key, value in expected.items():
            check_like(value, found[key], path, f"{within}.{key}".lstrip("."))
    elif isinstance(expected, (list, tuple)):
        if type(found) is not type(expected) or len(found) != len(expected):
            raise ValueError(
                f"{at} to be {len(expected)} values, got a {type(found).__name__}; the file is damaged"
            )
        for number, value in enumerate(expected):
            check_like(value, found[number], path, f"{within}.{number}".lstrip("."))
    elif type(found) is not type(expected) and {type(expected), type(found)} != {int, float}:
        raise ValueError(
            f"{at} to be a {type(expected).__name__}, got a {type(found).__name__}; the file is damaged"
        )


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


@contextmanager
def _opened(
    path: str | Path, at_most: int, what: str = "weights", remedy: str = "name another checkpoint"
) -> Iterator[tuple[BinaryIO, dict[str, Tensor], dict[str, str]]]:
    """A safetensors file at its data; its tensors by name, in the order of the data; and its metadata."""
    try:
        with open_regular(path, at_most + LARGEST_JSON) as file:
            try:
                described, metadata = _header(file)
            except ValueError as error:
                raise ValueError(
                    f"expected a safetensors file at {path}, got {error}; it is damaged"
                ) from None
            if (size := sum(x.nbytes for x in described.values())) > at_most:
                raise ValueError(
                    f"expected {what} of at most {at_most:,} bytes at {path}, got {size:,}; {remedy}, or "
                    "allow more where that is an argument"
                )
            yield file, described, metadata
    except FileNotFoundError:
        raise ValueError(f"expected {what} at {path}, found no file; {remedy}") from None
    except OSError as error:
        raise ValueError(f"expected {what} at {path}, got {error.strerror or error}; {remedy}") from None


def _header(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the header says, which must account for every byte that follows.

    Raises:
        ValueError: it does not; the message says what was got.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, LARGEST_JSON):
        raise ValueError(f"a header of {length:,} bytes in {size:,}")
    record = parse_json(file.read(length))
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__} for a header")
    metadata = record.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("metadata that is no text")
    entries = sorted((_entry(name, each) for name, each in record.items()), key=lambda entry: entry[0])
    begin = 0
    for (start, end), name, _ in entries:
        if start != begin:
            raise ValueError(f"{name!r} at byte {start:,} rather than {begin:,}")
        begin = end
    if begin != size - 8 - length:
        raise ValueError(f"{size - 8 - length:,} bytes of tensors that take {begin:,}")
    return {name: x for _, name, x in entries}, metadata


def _entry(name: str, record: Any) -> tuple[tuple[int, int], str, Tensor]:
    keys = ("dtype", "shape", "data_offsets")
    dtype, shape, span = (record.get(key) for key in keys) if isinstance(record, dict) else (None,) * 3
    sizes = [*shape, *span] if isinstance(shape, list) and isinstance(span, list) else [None]
    if not (
        isinstance(dtype, str)
        and dtype in _DTYPES
        and all(type(size) is int and 0 <= size < 2**60 for size in sizes)
        and len(span) == 2
        and span[1] - span[0] == math.prod(shape) * _DTYPES[dtype].itemsize
        and len(shape) <= 64
        and math.prod(max(1, size) for size in shape) < 2**60
    ):
        raise ValueError(f"{name!r} of dtype {dtype!r}, shape {shape!r} at {span!r}"[:200])
    return (span[0], span[1]), name, torch.empty(shape, dtype=_DTYPES[dtype], device="meta")


def _read(file: BinaryIO, like: Tensor) -> Tensor:
    """The next tensor of a file."""
    x = torch.empty_like(like, device="cpu")
    view = memoryview(x.reshape(-1).view(torch.uint8).numpy()) if x.nbytes else b""
    if len(view) and file.readinto(view) != len(view):
        raise ValueError(f"expected a whole file {file.name}, got one that was cut while read; read it again")
    return x


def state_file(folder: Path) -> Path | None:
    """The state that a folder holds, if it holds one.

    Raises:
        ValueError: the folder holds that of an earlier version, which may run code.
    """
    old = folder / "state.pt"
    if os.path.lexists(folder / STATE):
        return folder / STATE
    if os.path.lexists(old):
        raise ValueError(
            f"expected a training state in {folder / STATE}, got one of an earlier version in {old.name}; "
            "choose another folder, or delete the file to train from the start"
        )
    return None


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training state, atomically: tensors and plain values in dicts, lists and tuples.

    Raises:
        ValueError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(dict(state), tensors, "state"), allow_nan=False)
    write_atomic(path, save_tensors(_separate(tensors), {_STATE: structure}))


def load_state(path: str | Path, at_most: int = LARGEST_WEIGHTS) -> dict[str, Any]:
    """Read a training state.

    Args:
        at_most: bytes of the largest one that is read.

    Raises:
        ValueError: the file is missing, damaged or holds something else.
    """
    try:
        with _opened(path, at_most, "a training state", "delete the file") as (file, described, metadata):
            if _STATE not in metadata:
                raise ValueError("a file of something else")
            structure = parse_json(metadata[_STATE].encode())
            state = _restore(structure, {name: _read(file, x) for name, x in described.items()})
            if not isinstance(state, dict):
                raise ValueError(f"a {type(state).__name__}")
            return state
    except ValueError as error:
        got = str(error).removeprefix("expected a training state at ")
        raise ValueError(
            f"expected a training state at {path}, got: {got}; delete the file to train from the start"
        ) from None


LONG = 16
"""Lists of at least so many numbers are kept as tensors, to the bit."""


def _flatten(value: Any, tensors: dict[str, Tensor], at: str) -> Any:
    """A value as JSON, in which an object stands for what JSON has not; tensors are put aside by name."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return _flatten(value.tolist(), tensors, at)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        # Moments of a weight that lies transposed in memory must lie as it does.
        turned = value.layout == torch.strided and not value.is_contiguous()
        order = sorted(range(value.ndim), key=lambda dim: (-value.stride(dim), dim)) if turned else []
        if order == sorted(order):
            return {"tensor": _put(value, tensors, at)}
        return {"tensor": _put(value.permute(order), tensors, at), "order": order}
    if isinstance(value, list):
        kinds = set(map(type, value)) if len(value) >= LONG else set()
        if kinds == {float} or (kinds == {int} and max(map(abs, value)) < 2**63):
            dtype = torch.float64 if kinds == {float} else torch.int64
            return {"list": _put(torch.tensor(value, dtype=dtype, device="cpu"), tensors, at)}
        return [_flatten(each, tensors, f"{at}.{number}") for number, each in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_flatten(each, tensors, f"{at}.{number}") for number, each in enumerate(value)]}
    if isinstance(value, Mapping):
        if strange := [key for key in value if type(key) not in (str, int)]:
            raise ValueError(f"expected keys of text or whole numbers in {at}, got {strange[0]!r}; rename it")
        return {"dict": [[key, _flatten(each, tensors, f"{at}.{key}")] for key, each in value.items()]}
    raise ValueError(
        f"expected tensors and plain values to save, got a {type(value).__name__} at {at}; convert it"
    )


def _put(x: Tensor, tensors: dict[str, Tensor], at: str) -> str:
    name = at if at not in tensors else f"{at}#{len(tensors)}"
    tensors[name] = x
    return name


def _restore(record: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A value from ``_flatten``'s record.

    Raises:
        ValueError: the record is none; the message says what was got.
    """
    if isinstance(record, list):
        return [_restore(each, tensors) for each in record]
    if not isinstance(record, dict):
        return record
    match record:
        case {"float": "inf" | "-inf" | "nan" as word, **rest} if not rest:
            return float(word)
        case {"tensor": str(name), **rest} if name in tensors and not rest:
            return tensors[name]
        case {"tensor": str(name), "order": list(order), **rest} if name in tensors and not rest:
            if order and sorted(order, key=repr) == sorted(range(tensors[name].ndim), key=repr):
                return tensors[name].permute([order.index(dim) for dim in range(len(order))])
        case {"list": str(name), **rest} if name in tensors and not rest and tensors[name].ndim == 1:
            if tensors[name].dtype in (torch.float64, torch.int64):
                return tensors[name].tolist()
        case {"tuple": list(values), **rest} if not rest:
            return tuple(_restore(each, tensors) for each in values)
        case {"dict": list(pairs), **rest} if not rest:
            if all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                keys = [key for key, _ in pairs]
                if all(type(key) in (str, int) for key in keys) and len(set(keys)) == len(keys):
                    return {key: _restore(each, tensors) for key, each in pairs}
    raise ValueError(f"values that no state has, {sorted(record)[:3]}")


@dataclass
class CheckpointSeries:
    """Weights along training, by step: in memory, or in a folder if one is given."""

    folder: Path | None = None
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    _largest: int = field(default=LARGEST_WEIGHTS, repr=False)

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step_{step:08d}.safetensors"

    @property
    def steps(self) -> list[int]:
        """The steps kept, in order."""
        if self.folder is None:
            return sorted(self._kept)
        names = (path.stem.removeprefix("step_") for path in self.folder.glob("step_*.safetensors"))
        numbers = {int(name): name for name in names if name.isascii() and name.isdecimal()}
        return sorted(step for step, name in numbers.items() if name == f"{step:08d}")

    def add(self, step: int, model: nn.Module) -> None:
        """Keep a copy of the model's weights."""
        if self.folder is None:
            self._kept[step] = {name: x.detach().cpu().clone() for name, x in model.state_dict().items()}
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"expected a folder {self.folder} for checkpoints, got {error.strerror}; move it away"
                ) from None
            save_weights(self._path(step), model)
            self._largest = max(self._largest, self._path(step).stat().st_size)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        if step not in self.steps:
            raise KeyError(f"expected a step of the series, one of {self.steps}, got {step}")
        return self._kept[step] if self.folder is None else load_weights(self._path(step), self._largest)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def drop_after(self, step: int) -> None:
        """Forget checkpoints of later steps, as when training resumes from this one."""
        for later in [kept for kept in self.steps if kept > step]:
            if self.folder is None:
                del self._kept[later]
            else:
                try:
                    self._path(later).unlink()
                except OSError as error:
                    raise ValueError(
                        f"expected a checkpoint at {self._path(later)} to remove, got {error.strerror}"
                    ) from None
