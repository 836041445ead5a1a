"""Networks built by hand that solve a task exactly: the ground truth for every analysis."""

from mechinterp.constructions.modular_addition import modular_addition

__all__ = ["modular_addition"]
