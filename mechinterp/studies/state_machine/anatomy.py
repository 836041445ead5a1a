"""What one seed's networks are found to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechinterp.analysis.codes import MEASURES, Codes, code_alignment
from mechinterp.analysis.probes import Simplex, probe
from mechinterp.analysis.steering import code_steering
from mechinterp.result import Result
from mechinterp.studies.networks import Trained, network_scores, score_curves, stream_hooks, streams
from mechinterp.studies.seeds import SeedFindings
from mechinterp.studies.state_machine.networks import ANNEALED, MESS3, ONE_CODE, PUBLISHED, SHARED, SOFT, WARM
from mechinterp.tasks.base import Batch
from mechinterp.tasks.state_machine import StateMachine
from mechinterp.training.fit import Fit

SURE = 0.999
"""The belief from which a state counts as known."""
WINDOW = 8
"""Tokens, of which a linear reader of beliefs is the baseline."""
ALIGNED = {
    "code_alignment": ONE_CODE,
    "code_alignment_published": PUBLISHED,
    "code_alignment_shared": SHARED,
    "code_alignment_annealed": ANNEALED,
    "code_alignment_soft": SOFT,
    "code_alignment_warm": WARM,
}
STEERED = {"code_steering": ONE_CODE, "code_steering_shared": SHARED}
TRACKED = {"codebook_training": SHARED, "codebook_training_published": PUBLISHED}


@dataclass(frozen=True, kw_only=True)
class Anatomy(SeedFindings):
    """One seed's findings.

    Args:
        task: with tokens of their own.
        scores: of each on held-out sequences; and before training.
        chosen: by result, the site with the highest adjusted mutual information on the validation split.
    """

    task: StateMachine
    scores: Mapping[str, float]
    untrained: Mapping[str, float]
    chosen: Mapping[str, str]

    @classmethod
    def of(cls, networks: Mapping[str, Trained], n: int = 400) -> Anatomy:
        """Take the networks of a seed apart; claims say which did not learn.

        Args:
            n: sequences on which codes are compared with states.
        """
        scores, untrained = (
            {
                name: one.task.score(one.task.answers(model(one), batch := one.task.dataset("test")), batch)
                for name, one in networks.items()
            }
            for model in (lambda one: one.model, lambda one: one.untrained)
        )
        found = {name: aligned(networks[of], n, name) for name, of in ALIGNED.items()}
        chosen = {name: chosen_site(networks[of], n) for name, of in ALIGNED.items()}
        results = [
            machine(networks[SHARED].task),
            of_ceiling(score_curves(networks, units="share of the ceiling"), networks),
            network_scores(
                networks, scores, untrained, n=networks[SHARED].task.n_test,
                units="how often the likeliest token comes",
            ),
            *(tracked(networks[of], name) for name, of in TRACKED.items()),
            *found.values(),
            *(steered(networks[of], name) for name, of in STEERED.items()),
            by_position(networks[SHARED]),
            beliefs(networks[MESS3], n),
        ]  # fmt: skip
        return cls(
            task=networks[ONE_CODE].task, networks=networks, scores=scores, untrained=untrained,
            chosen=chosen, results={result.name: result for result in results},
        )  # fmt: skip


def of_ceiling(curves: Result, networks: Mapping[str, Trained]) -> Result:
    """Scores as shares of what each network's machine lets be known."""
    ceilings = xr.DataArray([one.task.ceiling for one in networks.values()], dims="network")
    values = (curves.values / ceilings.values[:, None]).assign_attrs(curves.values.attrs)
    assert curves.control is not None
    return replace(
        curves,
        values=values,
        control=curves.control / ceilings.values,
        trivial=curves.trivial / float(ceilings[0]),
    )


def known(batch: Batch) -> Tensor:
    """Where the state can be known, ``[batch, pos]``."""
    return batch.variables["belief"].amax(-1) >= SURE


def chosen_site(one: Trained, n: int) -> str:
    """The site whose codes agree best with states on validation sequences."""
    batch = one.task.dataset("val")[slice(0, n)]
    at = known(batch)
    agreement = Codes.of(one.model, batch.inputs, at).agreement(batch.variables["state"][at].numpy())
    return max(agreement, key=lambda site: agreement[site][MEASURES.index("ami")])


def aligned(one: Trained, n: int, name: str) -> Result:
    """Codes beside states, at tokens after which the state can be known."""
    batch = one.task.dataset("test")[slice(0, n)]
    found = code_alignment(
        one.model, batch.inputs, batch.variables["state"], where=known(batch), untrained=one.untrained,
        gate=one.gate,
    )  # fmt: skip
    own = {"split": "test", "network": one.name}
    return replace(found, name=name, provenance={**found.provenance, **own})


def steered(one: Trained, name: str) -> Result:
    """Codes of other states put in, at the last token of sequences after which the state is known."""
    batch = one.task.dataset("test")
    batch = batch[known(batch)[:, -1]]
    found = code_steering(
        one.model, batch.inputs, batch.variables["state"][:, -1], one.task.machine.emission, gate=one.gate
    )
    return replace(found, name=name, provenance={**found.provenance, "network": one.name})


def machine(task: StateMachine) -> Result:
    """The machine with shared tokens: how it moves and what it emits."""
    own = task.machine
    return Result(
        name="state_machine",
        values=xr.DataArray(
            own.transition.numpy(), dims=("state", "next"), attrs={"units": "probability"},
            coords={"state": range(own.n_states), "next": range(own.n_states)},
        ),
        trivial=1 / own.n_states,
        provenance={"tokens": own.n_tokens, "seed": task.seed, "ceiling": round(task.ceiling, 6)},
        extra={"emission": xr.DataArray(own.emission.numpy(), dims=("state", "token"))},
    )  # fmt: skip


def tracked(one: Trained, name: str) -> Result:
    """``training_so_far`` of one of the study's networks."""
    found = training_so_far(one.job)
    own = {"network": one.name, "learned": one.gate.learned}
    return replace(found, name=name, provenance={**found.provenance, **own})


def training_so_far(job: Fit) -> Result:
    """How loss, score, temperature and entropy went along a training that ``TrackCodes`` has followed.

    Dims ``measure``, ``step``. ``extra``: ``entropy``, ``dead`` (site, step), the ``ceiling`` of the score
    and the ``least_loss`` there is.
    """
    history, task = job.history, job.task
    steps = [int(step) for step in history.tracked["step"]]
    at = np.searchsorted(history.steps, steps)
    sites = [key.removesuffix(" entropy") for key in history.tracked if key.endswith(" entropy")]
    measures = {
        "loss": np.array(history.test_loss)[at],
        "score": np.array(history.test_score)[at],
        "temperature": history.tracked[f"{sites[0]} temperature"],
        "entropy": np.mean([history.tracked[f"{site} entropy"] for site in sites], axis=0),
    }
    coords = {"site": sites, "step": steps}

    def by_site(measure: str) -> xr.DataArray:
        rows = [history.tracked[f"{site} {measure}"] for site in sites]
        return xr.DataArray(np.array(rows), dims=list(coords), coords=coords)

    return Result(
        name="codebook_training",
        values=xr.DataArray(
            np.array(list(measures.values())), dims=("measure", "step"),
            coords={"measure": list(measures), "step": steps},
            attrs={"units": "nats, share, temperature, nats"},
        ),
        trivial=task.trivial,
        provenance={"network": task.name, "seed": task.seed, "seconds": round(history.seconds, 1)},
        extra={
            "entropy": by_site("entropy"),
            "dead": by_site("dead"),
            "ceiling": xr.DataArray(task.ceiling),
            "least_loss": xr.DataArray(float(task.optimum.entropy.mean())),
        },
    )  # fmt: skip


def dashboard(job: Fit) -> Any:
    """The figure of a training so far, for ``training.progress.LiveFigure``."""
    return training_so_far(job).figure()


def by_position(one: Trained) -> Result:
    """The score by position beside that of the best predictor, and of one that knows the last token only."""
    task, batch = one.task, one.task.dataset("test")
    following = task.following(batch)

    def share(model: object) -> np.ndarray:
        chosen = task.answers(model, batch).argmax(-1, keepdim=True)  # type: ignore[arg-type]
        return following.gather(2, chosen)[..., 0].double().mean(0).numpy()

    last_only = task.machine.optimum(1).accuracy[0]
    of = {
        "network": share(one.model), "best predictor": task.optimum.accuracy.numpy(),
        "best from the last token": np.full(task.length, float(last_only)),
    }  # fmt: skip
    return Result(
        name="score_by_position",
        values=xr.DataArray(
            np.array(list(of.values())), dims=("of", "position"),
            coords={"of": list(of), "position": range(task.length)},
            attrs={"units": "how often the likeliest token comes"},
        ),
        trivial=task.trivial,
        control=xr.DataArray(share(one.untrained), dims="position", coords={"position": range(task.length)}),
        control_kind="untrained network",
        provenance={
            "n": len(batch), "network": one.name, "seed": task.seed, "exact": task.optimum.exact,
            "learned": one.gate.learned,
        },
    )  # fmt: skip


def beliefs(one: Trained, n: int) -> Result:
    """Beliefs as points of the simplex, read off the stream after each layer, at all positions together; and
    off the last ``WINDOW`` tokens, from which much of them follows."""
    batch = one.task.dataset("test")[slice(0, n)]
    hooks = ["hook_embed", *stream_hooks(one.model)]
    window = {f"last {WINDOW} tokens": last_tokens(batch.inputs, one.task.d_vocab)}
    caches = [streams(model, batch, hooks) | window for model in (one.model, one.untrained)]
    return probe(
        caches[0],
        batch.variables["belief"],
        Simplex(),
        pool=True,
        untrained=caches[1],
        permutations=100,
        gate=one.gate,
    )


def last_tokens(inputs: Tensor, d_vocab: int) -> Tensor:
    """The last ``WINDOW`` tokens at each position, one-hot, ``[n, pos, WINDOW * d_vocab]``; none is zeros."""
    hot = torch.nn.functional.one_hot(inputs, d_vocab).float()
    before = torch.cat((torch.zeros_like(hot[:, :1]).expand(-1, WINDOW - 1, -1), hot), 1)
    return before.unfold(1, WINDOW, 1).flatten(2)
