"""What is to be learned."""

from mechinterp.tasks.base import Batch, Task
from mechinterp.tasks.linear_regression import LinearRegression
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.tasks.regex_language import RegexLanguage

__all__ = ["Batch", "LinearRegression", "ModularAddition", "RegexLanguage", "Task"]
