"""Signals that ask a training to end: Ctrl-C, and SIGTERM, by which clusters end a job."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""The exit status of a process that SIGTERM ended, as shells have it."""


class Held:
    """The signals that have been held back so far; true once there is one."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.signals)

    def __call__(self, number: int, frame: Any) -> None:
        """Hold a signal back; the second acts at once."""
        if self.signals:
            raise SystemExit(TERMINATED) if number == signal.SIGTERM else KeyboardInterrupt
        self.signals.append(number)


@contextmanager
def between_steps() -> Iterator[Held]:
    """Hold back Ctrl-C and SIGTERM until asked for, so that no step is left half taken.

    A SIGTERM that was held back acts at the end: by the handler that the process had for it, and by default
    with exit status 143. Signals that the process ignores, and those with a handler of a C library, which
    Python could not put back, are left alone. Elsewhere than in the main thread signals cannot be held back,
    and this does nothing.
    """
    held, before = Held(), {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, held)
    try:
        yield held
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGTERM in held.signals:
        if callable(before[signal.SIGTERM]):
            signal.raise_signal(signal.SIGTERM)
        else:
            sys.exit(TERMINATED)
