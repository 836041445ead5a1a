"""What can be named after ``mechinterp study`` and ``mechinterp train``, and what the commands share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, is_dataclass, make_dataclass
from importlib import import_module
from typing import Any
from urllib.parse import quote

STUDIES = {
    "digit-addition": ("digit_addition", "DigitAdditionStudy"),
    "linear-regression": ("linear_regression", "LinearRegressionStudy"),
    "modular-addition": ("modular_addition", "ModularAdditionStudy"),
    "regex-language": ("regex_language", "RegexLanguageStudy"),
    "sortedness": ("sortedness", "SortednessStudy"),
    "state-machine": ("state_machine", "StateMachineStudy"),
    "text-arithmetic": ("text_arithmetic", "TextArithmeticStudy"),
}
"""Module and options of each study."""
TRAININGS = {
    "digit-addition": ("DigitAddition", "digit_addition", "DIGIT_ADDITION"),
    "modular-addition": ("ModularAddition", "modular_addition", "MODULAR_ADDITION"),
    "linear-regression": ("LinearRegression", "linear_regression", "LINEAR_REGRESSION"),
    "sortedness": ("Sortedness", "sortedness", "SORTEDNESS"),
    "state-machine": ("StateMachine", "state_machine", "STATE_MACHINE"),
    "text-sum": ("TextSum", "text_arithmetic", "TEXT_ARITHMETIC"),
    "text-modular": ("TextModular", "text_arithmetic", "TEXT_ARITHMETIC"),
}
"""Task, factory and recipes, whose fields are the options."""
RECIPES = {"text-modular": "residue"}
"""Recipes that are taken by default, where it is not ``fast``."""
SCRIPTS = {"regex-language": ("regex_language", "RegexLanguageOptions")}
"""Trainings whose options are a class of their study's."""
SWEEPS = {"text-arithmetic": ("text_arithmetic", "TextGrid")}
"""Module and options of each sweep."""

LONGEST_NAME = 100
"""Of a run folder that was not named."""


def name_of(words: list[str], known: Iterable[str], command: str) -> str:
    """The first word, which must be a known name.

    Raises:
        ValueError: it is not, or there is none.
    """
    name = words[0].replace("_", "-") if words else "nothing"
    if name not in known:
        raise ValueError(
            f"expected one of {sorted(known)} after mechinterp {command}, got {name}; see mechinterp --help"
        )
    return name


def _with_output(config_class: type, output_class: type) -> type:
    """A class of options: those of a config, and where its output goes."""
    both = [
        ("config", config_class, field(default_factory=config_class)),
        ("output", output_class, field(default_factory=output_class)),
    ]
    return make_dataclass("Options", both, namespace={"__doc__": config_class.__doc__}, frozen=True)


def options_of(
    command: str, words: list[str], known: Mapping[str, tuple[str, str]], output_class: type
) -> tuple[str, Any, Any, Any]:
    """What a command was asked: the first word names a study's module and its class of options.

    Returns:
        The name, the module, the config, and where its output goes.

    Raises:
        ValueError: no such name.
    """
    import tyro

    name = name_of(words, known, command)
    room, config_class = known[name]
    module = import_module(f"mechinterp.studies.{room}")
    both = tyro.cli(
        tyro.conf.OmitArgPrefixes[_with_output(getattr(module, config_class), output_class)],
        args=words[1:],
        prog=f"mechinterp {command} {name}",
    )
    check_numbers(both.config)
    check_numbers(both.output)
    return name, module, both.config, both.output


def check_numbers(options: Any, prefix: str = "--") -> None:
    """Refuse numbers that no option can mean, in a dataclass of options and those in it.

    Raises:
        ValueError: a number that is not finite, or that no machine counts to.
    """
    for each in fields(options):
        value, name = getattr(options, each.name), prefix + each.name.replace("_", "-")
        if is_dataclass(value):
            check_numbers(value, name + ".")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(
                    f"expected a finite number for {name}, got {number}; give one, or leave it out"
                )
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError(f"expected a number below 2**63 for {name}, got {number}; make it smaller")


def changes(given: Any, default: Any) -> dict[str, Any]:
    """The fields of a config that differ from the default's, but for who does the work."""
    values = {f.name: getattr(given, f.name) for f in fields(given) if f.name != "workers"}
    return {key: value for key, value in values.items() if value != getattr(default, key)}


def folder_name(name: str, config: Any) -> str:
    """A run folder's name: whose it is, and what differs from the defaults of its config."""
    return named_after(name, changes(config, type(config)()))


def named_after(name: str, changed: Mapping[str, Any]) -> str:
    """The same of given differences."""
    parts = [name, *(f"{key}-{value}" for key, value in changed.items())]
    whole = quote("_".join(parts), safe="")  # a pattern may have what no file name can
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{whole[:LONGEST_NAME]}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def watch(label: str) -> Any:
    """A line on the terminal that follows a training."""
    return import_module("mechinterp.training.progress").LiveLine(label)
