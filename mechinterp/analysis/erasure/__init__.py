"""Take a concept out of activations, so that no linear reader finds it, and see what the network loses."""

from mechinterp.analysis.erasure.curve import erasure_curve
from mechinterp.analysis.erasure.effect import erasure_effect
from mechinterp.analysis.erasure.erasers import (
    Eraser,
    leace,
    mean_projection,
    probe_projection,
    random_erasers,
)
from mechinterp.analysis.erasure.readout import decodability

__all__ = [
    "Eraser",
    "decodability",
    "erasure_curve",
    "erasure_effect",
    "leace",
    "mean_projection",
    "probe_projection",
    "random_erasers",
]
