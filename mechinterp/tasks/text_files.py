"""Files of problems as text, ``text<TAB>answer`` a line: written, and read with every line checked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechinterp.files import read_bytes

LARGEST = 2**24
"""Bytes of the largest file of problems."""
MOST_WRONG = 1000
"""Lines that are wrong from which on no further ones are read."""


def write_problems(task: Any, path: str | Path, pairs: Int[Tensor, "n 2"]) -> None:
    """Write problems of a ``TextArithmetic`` task with their answers."""
    answers = task.answer(pairs.sum(1)).tolist()
    lines = (f"{task.written(x, y)}\t{z}\n" for (x, y), z in zip(pairs.tolist(), answers))
    Path(path).write_text("".join(lines), encoding="utf-8")


def hash_of(path: str | Path) -> str:
    """SHA-256 of a file.

    Raises:
        ValueError: no such file.
    """
    return hashlib.sha256(_read(path)).hexdigest()


def _read(path: str | Path) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except OSError as error:
        raise ValueError(f"expected a file of problems at {path}, got {error}") from error


def read_problems(task: Any, path: str | Path) -> Int[Tensor, "n 2"]:
    """The numbers of a file's problems.

    Raises:
        ValueError: no such file, or lines that are no problems of the task with their answers; it names the
            first ones.
    """
    try:
        whole = _read(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a file of problems in UTF-8 at {path}, got {error.reason}") from error
    pattern, pairs, given, wrong = _pattern(task.template), [], [], []
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        text, *answers = line.split("\t")
        found = pattern.fullmatch(text)
        if found is None or len(answers) != 1:
            wrong.append((number, f"{line[:80]!r} is not {task.template!r}, a tab and an answer"))
        elif text != (spelt := task.written(x := int(found["x"]), y := int(found["y"]))):
            wrong.append((number, f"{text!r} is written {spelt!r} by this task"))
        elif max(x, y) > task.max_operand:
            wrong.append((number, f"{text!r} has a number above max_operand {task.max_operand}"))
        else:
            pairs.append((x, y))
            given.append((number, text, answers[0]))
        if len(wrong) == MOST_WRONG:
            break
    rights = task.answer(torch.tensor(pairs).sum(1)).tolist() if pairs else []
    for (number, text, answer), right in zip(given, rights):
        if answer.strip() != str(int(right)):
            wrong.append((number, f"{text!r} has the answer {answer[:80]!r}, expected {int(right)}"))
    if wrong or not pairs:
        shown = "; ".join(f"line {number}: {said}" for number, said in sorted(wrong)[:5])
        shown += f"; and {len(wrong) - 5} more" * (len(wrong) > 5)
        raise ValueError(
            f"expected problems such as {task.written(1, 2)!r}, a tab and the answer in each line of {path}, "
            f"got {shown or 'none'}; mend the file, or change template or max_operand"
        )
    return torch.tensor(pairs)


def _pattern(template: str) -> re.Pattern[str]:
    """What a problem's text matches, with groups x and y."""
    before, between, after = (re.escape(part) for part in re.split(r"\{[xy]\}", template))
    first, second = re.findall(r"\{([xy])\}", template)
    digits = r"\d{1,18}"  # of numbers that a tensor can have
    return re.compile(rf"{before}(?P<{first}>{digits}){between}(?P<{second}>{digits}){after}")
