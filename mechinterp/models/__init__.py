"""Networks made to be taken apart, and a factory for each task."""

from mechinterp.models.config import TransformerConfig
from mechinterp.models.factories import (
    deep_linear_regression,
    linear_regression,
    modular_addition,
    regex_language,
)
from mechinterp.models.transformer import HookedTransformer

__all__ = [
    "HookedTransformer",
    "TransformerConfig",
    "deep_linear_regression",
    "linear_regression",
    "modular_addition",
    "regex_language",
]
