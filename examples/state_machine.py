"""A network with codebooks predicts a state machine: codes beside states, and other states' codes put in."""

import sys
from dataclasses import replace

from mechinterp import fit, models, tasks
from mechinterp.analysis.codes import code_alignment
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.steering import code_steering
from mechinterp.training.codebooks import CodebookPenalty
from mechinterp.training.recipes import STATE_MACHINE


def main(steps: int = 300, length: int = 16, n: int = 400) -> None:
    """Train at a low temperature, compare codes with states, and put other states' codes in."""
    task = tasks.StateMachine(emission="shared", length=int(length), n_test=int(n))
    model, before = (models.state_machine(task).eval() for _ in range(2))
    recipe = replace(STATE_MACHINE["fast"], steps=int(steps))
    fit(model, task, recipe, penalty=CodebookPenalty())
    gate, batch = Gate.of(model.eval(), task), task.dataset("test")
    print(gate, f"ceiling {task.ceiling:.4f}", task.measures(task.answers(model, batch), batch))
    known = batch.variables["belief"].amax(-1) > 0.999
    states = batch.variables["state"]
    aligned = code_alignment(model, batch.inputs, states, where=known, untrained=before, gate=gate)
    print(aligned)
    ends = known[:, -1]
    steered = code_steering(model, batch.inputs[ends], states[ends, -1], task.machine.emission, gate=gate)
    print(steered, steered.extra["success"])
    aligned.figure(), steered.figure()


if __name__ == "__main__":
    main(*sys.argv[1:])
