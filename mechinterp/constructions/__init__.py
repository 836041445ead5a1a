"""Networks built by hand that solve a task exactly: the ground truth for every analysis."""

from mechinterp.constructions.digit_addition import digit_addition
from mechinterp.constructions.linear_regression import Steps, best_steps, linear_regression
from mechinterp.constructions.modular_addition import modular_addition
from mechinterp.constructions.regex_language import ValueMatrices, log_depth, regex_language
from mechinterp.constructions.sortedness import sortedness
from mechinterp.constructions.state_machine import state_machine
from mechinterp.constructions.text_arithmetic import text_arithmetic

__all__ = [
    "Steps",
    "ValueMatrices",
    "best_steps",
    "digit_addition",
    "linear_regression",
    "log_depth",
    "modular_addition",
    "regex_language",
    "sortedness",
    "state_machine",
    "text_arithmetic",
]
