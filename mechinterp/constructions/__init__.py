"""Networks built by hand that solve a task exactly: the ground truth for every analysis."""

from mechinterp.constructions.modular_addition import modular_addition
from mechinterp.constructions.regex_language import ValueMatrices, log_depth, regex_language

__all__ = ["ValueMatrices", "log_depth", "modular_addition", "regex_language"]
