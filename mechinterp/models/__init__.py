"""Networks made to be taken apart, and a factory for each task."""

from mechinterp.models.config import EncoderDecoderConfig, TransformerConfig
from mechinterp.models.decoder import Decoder
from mechinterp.models.encoder_decoder import HookedEncoderDecoder
from mechinterp.models.factories import (
    deep_linear_regression,
    digit_addition,
    linear_regression,
    modular_addition,
    regex_language,
    sortedness,
    state_machine,
    text_arithmetic,
)
from mechinterp.models.generation import generate
from mechinterp.models.transformer import HookedTransformer

__all__ = [
    "Decoder",
    "EncoderDecoderConfig",
    "HookedEncoderDecoder",
    "HookedTransformer",
    "TransformerConfig",
    "deep_linear_regression",
    "digit_addition",
    "generate",
    "linear_regression",
    "modular_addition",
    "regex_language",
    "sortedness",
    "state_machine",
    "text_arithmetic",
]
