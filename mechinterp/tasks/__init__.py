"""What is to be learned."""

from mechinterp.tasks.base import Batch, Task
from mechinterp.tasks.digit_addition import DigitAddition
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.tasks.regex_language import RegexLanguage
from mechinterp.tasks.sortedness import Sortedness
from mechinterp.tasks.state_machine import StateMachine
from mechinterp.tasks.text_arithmetic import TextModular, TextSum

__all__ = [
    "Batch",
    "DigitAddition",
    "LinearRegression",
    "ModularAddition",
    "RegexLanguage",
    "Sortedness",
    "StateMachine",
    "Task",
    "TextModular",
    "TextSum",
]
