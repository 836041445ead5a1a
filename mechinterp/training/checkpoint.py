"""Weights and training state on disk: safetensors for weights, nothing that runs code."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from mechinterp.files import write_atomic


def save_weights(path: str | Path, weights: nn.Module | Mapping[str, Tensor]) -> None:
    """Write a module's or a mapping's tensors as safetensors, atomically."""
    tensors = weights.state_dict() if isinstance(weights, nn.Module) else weights
    write_atomic(path, save_tensors({name: x.detach().cpu().contiguous() for name, x in tensors.items()}))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read tensors that ``save_weights`` wrote.

    Raises:
        ValueError: the file is missing, or is not a whole safetensors file.
    """
    try:
        return load_tensors(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"expected weights at {path}, found no file; name another checkpoint") from None
    except (OSError, SafetensorError) as error:
        raise ValueError(f"expected a safetensors file at {path}, got {error}; it is damaged") from None


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a training state (tensors and plain values), atomically."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getvalue())


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state; code in the file is refused, not run.

    Raises:
        ValueError: the file is damaged or holds more than tensors and plain values.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        got = "" if isinstance(state, dict) else f"a {type(state).__name__}"
    except Exception as error:  # torch raises many kinds for a damaged file
        got = f"a damaged file, or one that would run code ({type(error).__name__})"
    if got:
        raise ValueError(
            f"expected a training state at {path}, got {got}; delete the file to train from the start"
        )
    return state


@dataclass
class CheckpointSeries:
    """Weights along training, by step: in memory, or in a folder if one is given."""

    folder: Path | None = None
    _kept: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step_{step:08d}.safetensors"

    @property
    def steps(self) -> list[int]:
        """The steps kept, in order."""
        if self.folder is None:
            return sorted(self._kept)
        names = (path.stem.removeprefix("step_") for path in self.folder.glob("step_*.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    def add(self, step: int, model: nn.Module) -> None:
        """Keep a copy of the model's weights."""
        if self.folder is None:
            self._kept[step] = {name: x.detach().cpu().clone() for name, x in model.state_dict().items()}
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_weights(self._path(step), model)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        if step not in self.steps:
            raise KeyError(f"expected a step of the series, one of {self.steps}, got {step}")
        return self._kept[step] if self.folder is None else load_weights(self._path(step))

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
                self._path(later).unlink()
