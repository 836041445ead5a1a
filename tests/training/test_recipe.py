"""Whatever a recipe is given, it is right or refused; types are tried where no checker of tests is on."""

import json
import subprocess
import sys

import pytest

TRIED = """
import json, math
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints
from mechinterp.training.recipe import NOT_NEGATIVE, POSITIVE, Recipe

def wrong(name, kind):
    options = get_args(kind)
    optional = type(None) in options
    kind = options[0] if optional else kind
    yield from () if optional else (None,)
    yield from ([1], {}, object(), "", "3", b"3", 1j)
    if get_origin(kind) is Literal:
        for choice in options:
            yield from (choice[:-1], choice.upper(), choice + " ", 3, True)
    elif kind is bool:
        yield from (0, 1, "yes", 1.0)
    elif get_origin(kind) is tuple:
        yield from (0.9, (0.9,), (0.9,) * 3, ("a", "b"), (math.nan, 0.9), (0.9, 1.0), (-0.1, 0.9))
        yield (True, 0.9)
    else:
        yield from (True, False, math.nan, math.inf, -math.inf)
        yield from (2.5, 10.0, 2**63, -(2**63) - 1) if kind is int else (10**400, -(10**400))
        yield from (0, -1) if name in POSITIVE else (-1,) if name in NOT_NEGATIVE else ()

found = []
for name, kind in get_type_hints(Recipe).items():
    for value in wrong(name, kind):
        try:
            Recipe(**{name: value})
            found.append([name, repr(value)[:30], "taken"])
        except (ValueError, TypeError) as error:
            found.append([name, repr(value)[:30], str(error)])
import numpy as np
given = Recipe(steps=np.int64(7), lr=np.float32(0.5), betas=[0.5, 0.75], weight_decay=1)
plain = Recipe(steps=7, lr=0.5, betas=(0.5, 0.75), weight_decay=1)
print(json.dumps([found, given == plain and json.dumps(given.to_json()) == json.dumps(plain.to_json())]))
"""


@pytest.fixture(scope="module")
def tried():
    return json.loads(subprocess.run([sys.executable, "-c", TRIED], capture_output=True, check=True).stdout)


def test_wrong_values_of_every_field_are_refused_in_words(tried):
    found = tried[0]
    silent = [each for each in found if not each[2].startswith(f"expected {each[0]} ") or "; " not in each[2]]
    assert not silent
    assert len(found) > 300
    assert max(len(message) for *_, message in found) < 220


def test_a_typo_names_the_nearest_choice(tried):
    said = {(name, given): message for name, given, message in tried[0]}
    for name, given, nearest in (
        ("schedule", "cosin", "cosine"),
        ("optimizer", "adam", "adamw"),
        ("checkpoint_spacing", "linea", "linear"),
    ):
        assert f"did you mean {nearest!r}?" in said[name, repr(given)]


def test_numbers_of_numpy_become_plain_ones(tried):
    assert tried[1]
