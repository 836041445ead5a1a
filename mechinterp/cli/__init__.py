"""The command line: ``mechinterp study``, ``train``, ``sweep``, ``runs``, ``compare-weights``.

The first words choose what is imported, so that ``mechinterp --help`` answers at once; the
options of a command are the fields of its config, read by tyro.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from mechinterp.cli.names import SCRIPTS, STUDIES, SWEEPS, TRAININGS

COMMANDS = {
    "study": ("study", "study"),
    "train": ("train", "train"),
    "sweep": ("sweep", "sweep"),
    "runs": ("runs", "runs"),
    "compare-weights": ("runs", "compare_weights"),
}
"""Module and function of each command."""

HELP = f"""usage: mechinterp COMMAND ...

  study NAME [options]       train, take apart and judge; ends in a table of claims
                             names: {", ".join(STUDIES)}
  train NAME [options]       train one network; leaves a run folder
                             names: {", ".join([*TRAININGS, *SCRIPTS])}
  sweep NAME [options]       train and analyse networks of many sizes, each once
                             names: {", ".join(SWEEPS)}
  compare-weights RUN        a regular language's network beside its automaton
  runs list [options]        the runs below a folder, the best one by a metric
  runs show PATH             one run: config, metrics and claims

mechinterp COMMAND NAME --help lists the options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0, 2 for a mistake of the user's, 130 after Ctrl-C, 141 where nobody reads on, 143
        after SIGTERM.
    """
    _never_fail_to_print()
    words = list(sys.argv[1:] if argv is None else argv)
    named = words[:1] if words[:1] == ["compare-weights"] else words[:2]  # it has options of its own alone
    if not words or {"-h", "--help"} & set(named):
        print(HELP, end="")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise ValueError(
                f"expected a command of {sorted(COMMANDS)}, got {words[0]!r}; see mechinterp --help"
            )
        room, command = COMMANDS[words[0]]
        return getattr(import_module(f"mechinterp.cli.{room}"), command)(words[1:])
    except SystemExit as stop:  # tyro has printed help, or what is wrong with an option; or SIGTERM came
        if stop.code == 143:
            print("terminated; the same command goes on from the state it saved", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the state it saved", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if not _is_the_users(error):
            raise
        print(f"mechinterp: {error}", file=sys.stderr)
        return 2


def _never_fail_to_print() -> None:
    """Signs that the console lacks become question marks, rather than an error after hours of training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _is_the_users(error: Exception) -> bool:
    """Whether an error is a mistake that its message tells how to mend; others keep their traceback."""
    # Diverged and torch's own by name: their modules would bring torch to every command.
    missing = isinstance(error, ImportError) and str(error).startswith("expected")
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    memory |= isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, (ValueError, OSError)) or missing or memory or type(error).__name__ == "Diverged"
