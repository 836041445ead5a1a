"""A trained network taken apart: every measurement, none of the verdicts."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.analysis import modular
from mechinterp.analysis.clusters import cluster_effects, clusters_by_frequency
from mechinterp.analysis.fourier import (
    frequency_power,
    gini,
    key_frequencies,
    pair_frequency_share,
    trigonometric_share,
)
from mechinterp.analysis.gates import Gate, gated
from mechinterp.analysis.progress import excluded, pair_loss, random_frequencies, restricted
from mechinterp.models.transformer import HookedTransformer
from mechinterp.result import NotLearned, Result
from mechinterp.studies.base import training_curves
from mechinterp.tasks.modular_addition import ModularAddition
from mechinterp.training.checkpoint import load_into
from mechinterp.training.fit import Fit


@dataclass(frozen=True)
class Activations:
    """What a network does on all pairs, at the position read."""

    logits: Float[Tensor, "p p p"]
    neurons: Float[Tensor, "p p neuron"]
    embedding: Float[Tensor, "p d_model"]
    readout: Float[Tensor, "p neuron"]

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedTransformer, task: ModularAddition) -> Activations:
        """Run the network on all pairs."""
        p, hook = task.p, "blocks.0.mlp.hook_post"
        logits, cache = model.run_with_cache(task.everything.inputs, names_filter=hook)
        return cls(
            logits=logits[:, -1].unflatten(0, (p, p)),
            neurons=cache[hook][:, -1].unflatten(0, (p, p)),
            embedding=model.W_E[:p].clone(),
            readout=(model.W_out[0] @ model.W_U).T.clone(),
        )


@dataclass(frozen=True)
class Anatomy:
    """The trained network and its controls.

    Args:
        job, control: the training, and as many steps without weight decay.
        keys: the frequencies that carry the trained network's logits.
        gate: whether the network knows the task.
    """

    model: HookedTransformer
    task: ModularAddition
    job: Fit
    control: Fit
    trained: Activations
    untrained: Activations
    keys: Int[Tensor, " k"]
    gate: Gate

    @classmethod
    def of(cls, untrained: HookedTransformer, job: Fit, control: Fit) -> Anatomy:
        """Run both networks on everything and find the key frequencies."""
        model, task = job.model.eval(), job.task
        assert isinstance(model, HookedTransformer)
        assert isinstance(task, ModularAddition)
        trained = Activations.of(model, task)
        keys = key_frequencies(trigonometric_share(trained.logits))
        before, gate = Activations.of(untrained, task), Gate.of(model, task)
        return cls(model, task, job, control, trained, before, keys, gate)

    @property
    def targets(self) -> Int[Tensor, "p p"]:
        """The right answers."""
        return self.task.everything.targets.view(self.task.p, self.task.p)

    @property
    def score(self) -> float:
        """Accuracy on the test split."""
        return self.gate.score

    @property
    def learned(self) -> bool:
        """Whether the network knows the task."""
        return self.gate.learned

    @property
    def uniform_loss(self) -> float:
        """The loss of a uniform guess, in nats."""
        return math.log(self.task.p)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the results come from."""
        about = {
            "model": "HookedTransformer, 1 layer",
            "operation": f"{self.task.operation} mod {self.task.p}",
            "seed": self.task.seed,
            "steps": self.job.step,
            "split": "all pairs",
            "n": self.task.p**2,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotLearned)  # the claims say so, once
            return gated(self.gate, about)

    @torch.no_grad()
    def untrained_score(self) -> float:
        """Accuracy of the untrained network on the test split."""
        rows = self.task.rows("test")
        guesses = self.untrained.logits.flatten(0, 1)[rows].argmax(-1)
        return (guesses == self.targets.flatten()[rows]).double().mean().item()

    def outputs_of(self, vectors: Float[Tensor, "n 2 d_model"]) -> Float[Tensor, "n p"]:
        """Logits from the embedding vectors of a and b."""
        equals = self.model.W_E[self.task.p].expand(len(vectors), 1, -1)
        resid = torch.cat([vectors, equals], dim=1) + self.model.W_pos
        return self.model(resid, start_at_layer=0, read=(-1,))[:, 0]

    def results(self) -> dict[str, Result]:
        """Every analysis, by name."""
        new, old, about = self.trained, self.untrained, self.provenance
        found = [
            training_curves(self.job, self.uniform_loss, about),
            modular.spectrum(new.embedding, old.embedding, "embedding_spectrum", about),
            modular.spectrum(new.readout, old.readout, "readout_spectrum", about),
            modular.circles(new.embedding, old.embedding, self.keys, about),
            modular.neuron_frequencies(new.neurons, old.neurons, about),
            modular.logit_frequencies(new.logits, old.logits, about),
            modular.sufficiency(
                new.logits, self.targets, self.keys, self.task.rows("train"), self.task.rows("test"), about
            ),
            self.progress(),
        ]
        clusters = clusters_by_frequency(pair_frequency_share(new.neurons), self.keys)
        if all(len(cluster) for cluster in clusters):
            found.append(self.clusters(clusters))
        return {result.name: result for result in found}

    def clusters(self, clusters: list[Tensor], most: int = 2000) -> Result:
        """Ablate and patch each frequency's neurons, on at most ``most`` random pairs."""
        generator = torch.Generator().manual_seed(self.task.seed)
        rows = torch.randperm(self.task.p**2, generator=generator)[:most]
        batch = self.task.everything[rows]
        about = {**self.provenance, "split": "random pairs", "n": len(rows)}
        return cluster_effects(self.model, batch.inputs, batch.targets[:, 0], clusters, self.keys, about)

    @torch.no_grad()
    def progress(self) -> Result:
        """Progress measures at every checkpoint, for the trained network's key frequencies."""
        p, series = self.task.p, self.job.checkpoints
        null = random_frequencies(p, len(self.keys), self.keys.tolist(), 1)
        model = copy.deepcopy(self.model)  # of the same sizes, whatever the factory's
        rows = [(chosen, []) for chosen in (self.keys, *null)]
        for step in series:
            load_into(model, series[step], f"the checkpoint of step {step}")
            for chosen, measured in rows:
                measured.append(self._measures(model, chosen))
        names = ("train_loss", "test_loss", "restricted_loss", "excluded_loss", "gini", "weight_norm")
        arrays = [
            xr.DataArray(
                np.array(values).T,
                dims=("measure", "step"),
                coords={"measure": list(names), "step": series.steps},
                attrs={"units": "nats, Gini, norm"},
            )
            for _, values in rows
        ]
        return Result(
            name="progress",
            values=arrays[0],
            trivial=self.uniform_loss,
            control=arrays[1] if null else None,
            control_kind="as many random other frequencies" if null else "no other frequency left",
            provenance=self.provenance,
        )

    def _measures(self, model: HookedTransformer, frequencies: Tensor) -> list[float]:
        p, targets = self.task.p, self.targets
        train, test = self.task.rows("train"), self.task.rows("test")
        logits = model(self.task.everything.inputs, read=(-1,))[:, 0].unflatten(0, (p, p))
        return [
            pair_loss(logits, targets, train),
            pair_loss(logits, targets, test),
            pair_loss(restricted(logits, frequencies), targets, test),
            pair_loss(excluded(logits, frequencies), targets, train),
            gini(frequency_power(model.W_E[:p]).sum(1).sqrt()).item(),
            math.sqrt(sum(weight.square().sum().item() for weight in model.parameters())),
        ]
