"""Networks made to be taken apart, and a factory for each task."""

from mechinterp.models.config import TransformerConfig
from mechinterp.models.factories import modular_addition, regex_language
from mechinterp.models.transformer import HookedTransformer

__all__ = ["HookedTransformer", "TransformerConfig", "modular_addition", "regex_language"]
