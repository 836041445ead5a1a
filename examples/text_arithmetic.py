"""A network answers "12 + 345 = ?"; where can the sum be read, and does that direction cause the answer?"""

import sys
from dataclasses import replace

from mechinterp import fit, models, tasks
from mechinterp.analysis.erasure import erasure_effect
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.probes import probe
from mechinterp.hooks import Site, run_with_cache
from mechinterp.training.recipes import TEXT_ARITHMETIC


def main(steps: int = 600, n: int = 2000, max_operand: int = 999) -> None:
    """Train, probe every character after every layer, and erase the sum where it can be looked for again."""
    task = tasks.TextSum(max_operand=int(max_operand), n_test=int(n))
    model = models.text_arithmetic(task)
    fit(model, task, replace(TEXT_ARITHMETIC["fast"], steps=int(steps)))
    gate, batch = Gate.of(model.eval(), task), task.dataset("test")
    print(gate, task.measures(task.answers(model, batch), batch))
    total, given = batch.variables["sum"].double(), {"attention_mask": batch.mask}
    _, cache = run_with_cache(model, batch.inputs, names="blocks.*.hook_resid_post", **given)
    print(probe(cache, total, mask=batch.mask, inputs=batch.inputs, gate=gate))
    found = erasure_effect(
        model, batch.inputs, Site.at("blocks.0.hook_resid_post", position=-1), total,
        lambda outputs: (outputs - batch.targets).square()[:, 0, 0], read=(-1,), gate=gate, **given,
    )  # fmt: skip
    print(found)
    found.figure()


if __name__ == "__main__":
    main(*sys.argv[1:])
