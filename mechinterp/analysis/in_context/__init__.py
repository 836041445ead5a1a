"""What a network does with the examples in its prompt: which method it answers like, and by which weights."""

from mechinterp.analysis.in_context.attending import attention_similarity
from mechinterp.analysis.in_context.effective import EffectiveHead, effective_step
from mechinterp.analysis.in_context.errors import error_by_context
from mechinterp.analysis.in_context.flops import flops
from mechinterp.analysis.in_context.kernel import kernel_smoother
from mechinterp.analysis.in_context.layers import layer_steps
from mechinterp.analysis.in_context.methods import method_agreement, sensitivities

__all__ = [
    "EffectiveHead",
    "attention_similarity",
    "effective_step",
    "error_by_context",
    "flops",
    "kernel_smoother",
    "layer_steps",
    "method_agreement",
    "sensitivities",
]
