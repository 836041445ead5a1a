"""A network that adds mod p: how many dimensions it fills, how alike its stages and positions are."""

import sys

from mechinterp import constructions, models, run_with_cache, tasks
from mechinterp.analysis.gates import Gate
from mechinterp.analysis.geometry import spectrum
from mechinterp.analysis.rank_collapse import rank_collapse
from mechinterp.analysis.similarity import similarity


def main(p: int = 29, draws: int = 100) -> None:
    """The hand-built network, beside the one that training would start from."""
    task = tasks.ModularAddition(p=p)
    model, start, inputs = (
        constructions.modular_addition(task),
        models.modular_addition(task),
        task.everything.inputs,
    )
    gate, names = Gate.of(model, task), ["*resid_mid", "*hook_post", "*resid_post"]
    print(spectrum(model.W_E[:p].detach(), sampled=False, draws=draws, gate=gate))
    built, untrained = (run_with_cache(network, inputs, names=names)[1] for network in (model, start))
    print(similarity(built, draws=draws, gate=gate))
    print(similarity(built, untrained, measure="procrustes", draws=draws, gate=gate))
    print(rank_collapse(model, inputs, untrained=start, gate=gate))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
