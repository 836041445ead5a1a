"""Several symbols at a time: one look-up walks an automaton over a whole stride of every word.

A table holds, for each state and each stride of symbols, the state at its end and, packed into one
64-bit number, a label of each state on the way. It pays for many words; for few, a step a symbol is as
quick.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

_LARGEST = 2**14
"""How many entries a table may have: it should stay in the processor's nearest memory."""
_LEAST = 2**16
"""How many symbols must be read before a table pays."""
_PACKED = 8


def stride(n_states: int, n_symbols: int, ids: Int[Tensor, "word length"]) -> int:
    """How many symbols to take at a time; 0 if one by one is as quick, or labels do not fit into a byte."""
    if n_states > 256 or ids.numel() < _LEAST:
        return 0
    steps = [k for k in range(1, _PACKED + 1) if n_states * (n_symbols + 1) ** k <= _LARGEST]
    return steps[-1] if len(steps) > 1 else 0


def labels_along(
    after: NDArray[np.int64], labels: NDArray[np.uint8], ids: Int[Tensor, "word length"], k: int
) -> Int[Tensor, "word prefix"]:
    """The label of the state after every prefix, the empty one included, k symbols at a time.

    Args:
        after: the next state by state and symbol plus 1; symbol 0 stands behind the end, and stays.
        labels: of states.
        ids: symbols, -1 behind the end.
    """
    n, length = ids.shape
    base, strides = after.shape[1], -(-length // k)
    packed, ends = _table(after, labels, k)
    places = torch.arange(length)
    # As numbers of k digits, which float32 holds exactly, whatever torch's default dtype is.
    weights = torch.zeros(length, strides, dtype=torch.float32)
    weights[places, places // k] = torch.tensor(float(base), dtype=torch.float32) ** (k - 1 - places % k)
    digits = _fresh(ids.shape, np.float32).copy_(ids)
    codes = torch.addmm(weights.sum(0)[:, None], weights.T, digits.T).long().numpy()
    found, at = np.empty((strides, n), dtype=np.uint64), codes[0]
    for number, out in enumerate(found):
        packed.take(at, out=out, mode="clip")
        if number + 1 < strides:
            at = ends.take(at, mode="clip") + codes[number + 1]
    bytes_ = torch.from_numpy(found.view(np.uint8).reshape(strides, n, _PACKED))
    result = _fresh((n, length + 1), np.int64)
    result[:, 0] = int(labels[0])
    for number, each in enumerate(bytes_):
        part = result[:, 1 + number * k : 1 + (number + 1) * k]
        part.copy_(each[:, : part.shape[1]])
    return result


def _fresh(shape: Sequence[int], dtype: type) -> Tensor:
    """Memory not yet written to: numpy asks the system for large pages, which torch does not."""
    return torch.from_numpy(np.empty(tuple(shape), dtype))


def _table(
    after: NDArray[np.int64], labels: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """By state and stride: labels on the way, packed, and where the end state's rows begin."""
    n_states, base = after.shape
    codes = np.arange(base**k)
    state = np.repeat(np.arange(n_states)[:, None], len(codes), 1)
    packed = np.zeros((*state.shape, _PACKED), dtype=np.uint8)
    for place in range(k):
        state = after[state, codes // base ** (k - 1 - place) % base]
        packed[..., place] = labels[state]
    return packed.reshape(-1, _PACKED).view(np.uint64)[:, 0], (state * len(codes)).ravel()
