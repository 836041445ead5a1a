"""Fields of tasks have the types that they say."""

import subprocess
import sys

TRIED = """
from mechinterp.tasks import DigitAddition, LinearRegression, ModularAddition, RegexLanguage, TextModular
for task, fields in [
    (ModularAddition, {"p": 5.0}),
    (ModularAddition, {"train_fraction": "half"}),
    (LinearRegression, {"d": 2.5}),
    (LinearRegression, {"noise": None}),
    (DigitAddition, {"base": "x"}),
    (DigitAddition, {"reverse": 1}),
    (RegexLanguage, {"pattern": "a+", "max_len": "8"}),
    (TextModular, {"k": True}),
    (TextModular, {"seed": 1.0}),
]:
    try:
        task(**fields)
    except TypeError as error:
        print(error)
print(LinearRegression(noise=1).noise)
"""


def test_a_field_of_another_type_is_refused():
    """In a process of its own: here types are checked before a task is asked."""
    told = subprocess.run([sys.executable, "-c", TRIED], capture_output=True, text=True, check=True).stdout
    *refused, whole = told.splitlines()
    assert len(refused) == 9
    assert all("of type" in line and line.endswith("; convert it") for line in refused)
    assert whole == "1"
