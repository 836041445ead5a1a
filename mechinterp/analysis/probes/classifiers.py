"""Probes from scikit-learn: logistic regression and a small perceptron, one fit a cell, draw and target."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mechinterp.analysis.probes.kinds import Probe
from mechinterp.analysis.probes.layout import Layout
from mechinterp.analysis.probes.scale import one_scale
from mechinterp.analysis.probes.scores import Score, accuracy
from mechinterp.analysis.probes.targets import Targets, classes, numbers
from mechinterp.analysis.randomness import global_generators_kept


@dataclass(frozen=True, kw_only=True)
class Classifier(Probe):
    """The base of probes that tell classes apart, on activations scaled to a mean variance of 1.

    One scale serves all features, since a stream has no axes of its own; see ``one_scale``. Results depend
    on the seed alone, and in their last bits on the number of threads.
    """

    units: ClassVar[str] = "accuracy, held out"
    score: ClassVar[Score] = staticmethod(accuracy)

    def estimator(self, seed: int) -> Any:
        """An unfitted classifier of scikit-learn."""
        raise NotImplementedError

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Classes, one-hot; see ``targets.classes``."""
        return classes(variable, layout)

    def predict(
        self,
        train_x: Float[Tensor, "#cell n d"],
        train_y: Float[Tensor, "#cell draw n target component"],
        test_x: Float[Tensor, "#cell m d"],
        seed: int = 0,
    ) -> tuple[Float[Tensor, "cell draw m target component"], dict[str, Float[Tensor, "cell target"]]]:
        """The class that each fit gives, one-hot."""
        kinds = train_y.shape[-1]

        def fit(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
            labels = y.argmax(-1)
            if len(labels.unique()) == 1:  # of a control task, say; scikit-learn refuses to fit it
                return torch.eye(kinds, dtype=torch.float64)[labels[:1].expand(len(new))]
            x, new = one_scale(x, new)
            answers = self.estimator(seed).fit(x.cpu().numpy(), labels.numpy()).predict(new.cpu().numpy())
            return torch.eye(kinds, dtype=torch.float64)[torch.from_numpy(answers)]

        return _each(fit, train_x, train_y, test_x), {}

    def trivial(
        self,
        train_y: Float[Tensor, "cell n target component"],
        test_y: Float[Tensor, "cell m target component"],
    ) -> Float[Tensor, "cell target"]:
        """The accuracy of always giving the training examples' most frequent class."""
        most = train_y.mean(1).argmax(-1, keepdim=True)
        return test_y.mean(1).gather(-1, most).squeeze(-1)


@dataclass(frozen=True, kw_only=True)
class Logistic(Classifier):
    """Multinomial logistic regression; ``C`` is the inverse of the penalty on squared weights."""

    name: ClassVar[str] = "logistic_probe"
    shuffles: ClassVar[int] = 5

    C: float = 1.0

    def estimator(self, seed: int) -> Any:
        """``LogisticRegression``."""
        with global_generators_kept():
            from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.C, max_iter=1000, random_state=seed % 2**32)


@dataclass(frozen=True, kw_only=True)
class MLP(Classifier):
    """A perceptron with hidden layers of ReLUs that tells classes apart."""

    name: ClassVar[str] = "mlp_probe"

    hidden: Sequence[int] = (64,)
    weight_decay: float = 1e-2
    """scikit-learn's ``alpha``."""

    steps: int = 200
    """Epochs of Adam at the most."""

    def estimator(self, seed: int) -> Any:
        """``MLPClassifier``."""
        with global_generators_kept():
            from sklearn.neural_network import MLPClassifier

        return MLPClassifier(random_state=seed % 2**32, **_perceptron(self))


@dataclass(frozen=True, kw_only=True)
class MLPRegression(Probe):
    """A perceptron with hidden layers of ReLUs that regresses on numbers, on activations of ``one_scale``."""

    name: ClassVar[str] = "mlp_regression_probe"

    hidden: Sequence[int] = (64,)
    weight_decay: float = 1e-2
    """scikit-learn's ``alpha``."""

    steps: int = 200
    """Epochs of Adam at the most."""

    def encode(self, variable: Any, layout: Layout) -> Targets:
        """Each variable as the number that it is; see ``targets.numbers``."""
        return numbers(variable, layout)

    def predict(
        self,
        train_x: Float[Tensor, "#cell n d"],
        train_y: Float[Tensor, "#cell draw n target component"],
        test_x: Float[Tensor, "#cell m d"],
        seed: int = 0,
    ) -> tuple[Float[Tensor, "cell draw m target component"], dict[str, Float[Tensor, "cell target"]]]:
        """One fit for each cell, draw and target, of targets scaled to unit variance."""
        with global_generators_kept():
            from sklearn.compose import TransformedTargetRegressor
            from sklearn.neural_network import MLPRegressor
            from sklearn.preprocessing import StandardScaler

        def fit(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
            x, new = one_scale(x, new)
            perceptron = MLPRegressor(random_state=seed % 2**32, **_perceptron(self))
            model = TransformedTargetRegressor(perceptron, transformer=StandardScaler())
            answers = model.fit(x.cpu().numpy(), y.numpy().ravel()).predict(new.cpu().numpy())
            return torch.from_numpy(answers).double().view(len(new), -1)

        return _each(fit, train_x, train_y, test_x), {}


def _each(fit: Callable, train_x: Tensor, train_y: Tensor, test_x: Tensor) -> Tensor:
    """``fit`` of every cell, draw and target, ``[cell, draw, m, target, component]``."""
    cells, (draws, _, targets, _) = max(len(train_x), len(train_y)), train_y.shape[1:]
    given = [x if len(x) == cells else x.expand(cells, *x.shape[1:]) for x in (train_x, train_y, test_x)]
    with warnings.catch_warnings():
        # A perceptron's epochs are a setting here, not a failure to converge.
        warnings.filterwarnings("ignore", "Stochastic Optimizer")
        answers = [
            fit(x, y[draw, :, target], new)
            for x, y, new in zip(*given) for draw in range(draws) for target in range(targets)
        ]  # fmt: skip
    return torch.stack(answers).unflatten(0, (cells, draws, targets)).movedim(2, 3)


def _perceptron(settings: MLP | MLPRegression) -> dict[str, Any]:
    return {
        "hidden_layer_sizes": tuple(settings.hidden), "alpha": settings.weight_decay,
        "max_iter": settings.steps, "n_iter_no_change": settings.steps,
    }  # fmt: skip
