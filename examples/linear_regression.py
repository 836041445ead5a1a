"""A layer that regresses in context: trained in seconds, beside the gradient step that it should be."""

import sys
from dataclasses import replace

from mechinterp import fit, models, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.in_context import effective_step, kernel_smoother, method_agreement
from mechinterp.training.recipes import ONE_LAYER


def main(d: int = 5, n_context: int = 10, recipe=ONE_LAYER) -> None:
    """Train a linear and a softmax layer, and ask each what it is."""
    task = tasks.LinearRegression(d=int(d), n_context=int(n_context), n_queries=8)
    asked = replace(task, n_queries=1)
    batch = asked.dataset("test")
    for attention in ("linear", "softmax"):
        model, before = (models.linear_regression(task, attention=attention) for _ in range(2))
        fit(model, task, recipe)
        gate = Gate.of(model.eval(), asked)
        error = asked.measures(asked.outputs(model, batch), batch)["mse"]
        print(f"{attention}: error {error:.3f}; least of a linear layer {task.one_layer_loss:.3f}; {gate}")
        print(method_agreement(model, batch, {"gd": batch.variables["w_gd"]}, untrained=before, gate=gate))
        print(kernel_smoother(model, batch, untrained=before, gate=gate))
        if attention == "linear":
            print(effective_step(model, task.preconditioner, untrained=before, gate=gate))


if __name__ == "__main__":
    main(*sys.argv[1:])
