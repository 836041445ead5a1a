"""Files of problems as text, ``text<TAB>answer`` a line: written, and read with every line checked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


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
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"expected a file of problems at {path}, got {error}") from error


def read_problems(task: Any, path: str | Path) -> Int[Tensor, "n 2"]:
    """The numbers of a file's problems.

    Raises:
        ValueError: no such file, or lines that are no problems of the task with their answers; it names the
            first ones.
    """
    try:
        whole = Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a file of problems in UTF-8 at {path}, got {error}") from error
    pattern, pairs, wrong = _pattern(task.template), [], []
    for number, line in enumerate(whole.split("\n") if whole else [], 1):
        text, *answers = line.removesuffix("\r").split("\t")
        found = pattern.fullmatch(text)
        if found is None or len(answers) != 1:
            wrong.append(f"line {number}: {line!r} is not {task.template!r}, a tab and an answer")
            continue
        x, y = int(found["x"]), int(found["y"])
        if text != task.written(x, y):
            wrong.append(f"line {number}: {text!r} is written {task.written(x, y)!r} by this task")
        elif max(x, y) > task.max_operand:
            wrong.append(f"line {number}: {text!r} has a number above max_operand {task.max_operand}")
        elif answers[0].strip() != (right := str(int(task.answer(torch.tensor([x + y]))))):
            wrong.append(f"line {number}: {text!r} has the answer {answers[0]!r}, expected {right}")
        pairs.append((x, y))
    if wrong or not pairs:
        shown = "; ".join(wrong[:5]) + f"; and {len(wrong) - 5} more" * (len(wrong) > 5)
        raise ValueError(
            f"expected problems such as {task.written(1, 2)!r}, a tab and the answer in each line of {path}, "
            f"got {shown or 'none'}; mend the file, or change template or max_operand"
        )
    return torch.tensor(pairs)


def _pattern(template: str) -> re.Pattern[str]:
    """What a problem's text matches, with groups x and y."""
    before, between, after = (re.escape(part) for part in re.split(r"\{[xy]\}", template))
    first, second = re.findall(r"\{([xy])\}", template)
    return re.compile(rf"{before}(?P<{first}>\d+){between}(?P<{second}>\d+){after}")
