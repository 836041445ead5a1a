"""An encoder-decoder learns to add three digits in a minute; then which heads it needs, and which not."""

import sys
from dataclasses import replace

from mechinterp import fit, models, tasks
from mechinterp.analysis.components import component_ablation, exact_match
from mechinterp.analysis.gates import Gate
from mechinterp.training.recipes import DIGIT_ADDITION


def main(n_digits: int = 3, steps: int = 1000, n: int = 500) -> None:
    """Train, write a few sums, ablate every head, and draw what it costs."""
    task = tasks.DigitAddition(n_digits=int(n_digits))
    model = models.digit_addition(task)
    fit(model, task, replace(DIGIT_ADDITION["fast"], steps=int(steps)))
    gate = Gate.of(model.eval(), task)
    print(gate)
    for prompt in task.prompts(["95+7=", "38+61="])[0]:
        new = models.generate(model, prompt[None], task.n_target, end=task.end)[0]
        print(f"{task.text(prompt)} {task.text(new)}, so {task.value(new)}")
    batch, others = task.dataset("test")[slice(0, int(n))], task.dataset("val")
    found = component_ablation(
        model, batch.inputs, batch.targets, held_out=others.inputs, read=batch.read, gate=gate
    )
    result = found.effect(exact_match, "head_exact_match")
    print(result)
    result.figure()


if __name__ == "__main__":
    main(*sys.argv[1:])
