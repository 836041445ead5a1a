"""What the heads of a network that adds mod p look at, and what they write, each beside its control."""

import sys

from mechinterp import Recipe, constructions, fit, models, tasks
from mechinterp.analysis.attention import attention_entropy, attention_patterns
from mechinterp.analysis.attention_scores import attention_scores
from mechinterp.analysis.circuits import ov_circuit, qk_circuit
from mechinterp.analysis.gates import Gate
from mechinterp.training.recipes import FAST


def main(p: int = 113, recipe: Recipe = FAST, hand_built: bool = False) -> None:
    """Train (or build) the network, and print what its heads do."""
    task = tasks.ModularAddition(p=p)
    model = constructions.modular_addition(task) if hand_built else models.modular_addition(task)
    if not hand_built:
        fit(model, task, recipe)
    gate, inputs = Gate.of(model, task), task.dataset("test").inputs
    untrained = type(model)(model.cfg)
    for measure in (attention_patterns, attention_entropy, attention_scores):
        print(measure(model, inputs, untrained=untrained, gate=gate))
    for circuit in (qk_circuit, ov_circuit):
        print(circuit(model, untrained=untrained, gate=gate))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
