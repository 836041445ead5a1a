"""Machines with hidden states that emit tokens: what can be known of the state, and of the next token.

A machine is one matrix for each token, of the probability to emit it and move on: ``P(token, next | state)``.
The belief after some tokens is the distribution over states that they leave; it is what an optimal predictor
must know (Shai et al. 2024, "Transformers represent belief state geometry in their residual stream").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

CLOSE = 1e-9
"""Beliefs nearer to one another than this are one."""


@dataclass(frozen=True)
class Optimum:
    """What the best predictor of the next token does, which knows the machine and all tokens so far.

    Args:
        accuracy: by position, of tokens 0 to that one read: how often its most likely token comes.
        entropy: by position, of the next token given those read, in nats: the least loss there is.
        exact: whether all beliefs were followed; otherwise these are means over sequences drawn.
    """

    accuracy: Float[Tensor, " pos"]
    entropy: Float[Tensor, " pos"]
    exact: bool


@dataclass(frozen=True, eq=False)
class HiddenMarkov:
    """A machine that emits tokens as it moves from state to state.

    Args:
        matrices: ``P(token, next | state)``; all entries for a state sum to 1.
        initial: the distribution of the state before the first token.

    Raises:
        ValueError: no states or tokens, probabilities that cannot be, or states that are never reached.
    """

    matrices: Float[Tensor, "token state next"]
    initial: Float[Tensor, " state"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", self.matrices.double())
        object.__setattr__(self, "initial", self.initial.double())
        n = len(self.initial)
        if self.matrices.ndim != 3 or self.matrices.shape[1:] != (n, n) or self.matrices.numel() == 0:
            raise ValueError(
                f"expected matrices [token, {n}, {n}] for {n} states, at least one state and token, got "
                f"{list(self.matrices.shape)}"
            )
        for name, entries, rows in (
            ("each state", self.matrices, self.transition),
            ("the start", self.initial, self.initial[None]),
        ):
            wrong = entries[~((entries >= 0) & entries.isfinite())]
            if len(wrong):
                raise ValueError(
                    f"expected probabilities of at least 0 for {name}, got {wrong[0].item():.4g}; change that"
                )
            if not torch.allclose(rows.sum(1), torch.ones(len(rows)).double()):
                raise ValueError(
                    f"expected probabilities that sum to 1 for {name}, got sums {rows.sum(1).tolist()}; "
                    "divide each row by its sum"
                )
        lost = [state for state, there in enumerate(self._reached.tolist()) if not there]
        if lost:
            raise ValueError(
                f"expected states that can all be reached, got {lost} that never are; add transitions into "
                "them, or leave them out"
            )

    @classmethod
    def arriving(
        cls, transition: Float[Tensor, "state next"], emission: Float[Tensor, "state token"]
    ) -> HiddenMarkov:
        """A machine that moves and then emits from the state it has come to; it starts where it is found in
        the long run."""
        matrices = transition.double()[None] * emission.double().T[:, None]
        return cls(matrices, stationary(transition.double()))

    @classmethod
    def leaving(
        cls,
        emission: Float[Tensor, "state token"],
        table: Int[Tensor, "state token"],
        start: int | None = None,
    ) -> HiddenMarkov:
        """A machine that emits from its state and moves as the token says.

        Args:
            table: the next state; it does not matter where nothing is emitted.
            start: the first state; ``None``: where the machine is found in the long run.

        Raises:
            ValueError: states that there are not.
        """
        n_states = len(emission)
        if start is not None and not 0 <= start < n_states:
            raise ValueError(f"expected a start in [0, {n_states}), got {start}")
        there = emission > 0
        if bool((there & ((table < 0) | (table >= n_states))).any()):
            raise ValueError(
                f"expected next states in [0, {n_states}) where a token can be emitted, got "
                f"{table[there].unique().tolist()}"
            )
        table = torch.where(there, table, 0)
        moves = torch.nn.functional.one_hot(table, n_states).double() * emission.double()[..., None]
        first = (
            stationary(moves.sum(1))
            if start is None
            else torch.nn.functional.one_hot(torch.tensor(start), n_states).double()
        )
        return cls(moves.transpose(0, 1).contiguous(), first)

    @property
    def n_states(self) -> int:
        """How many states there are."""
        return len(self.initial)

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return len(self.matrices)

    @cached_property
    def emission(self) -> Float[Tensor, "state token"]:
        """The distribution of the next token in each state."""
        return self.matrices.sum(2).T.contiguous()

    @cached_property
    def transition(self) -> Float[Tensor, "state next"]:
        """The distribution of the next state in each state."""
        return self.matrices.sum(0)

    @cached_property
    def _reached(self) -> Tensor:
        """The states that it begins in or enters at some time."""
        step, seen = (self.transition > 0).double(), self.initial > 0
        for _ in range(len(seen)):
            seen = seen | ((seen.double() @ step) > 0)
        return seen

    def sample(
        self, n: int, length: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length"]]:
        """Tokens, and the state after each."""
        state = torch.multinomial(self.initial, n, replacement=True, generator=generator)
        joint = self.matrices.permute(1, 0, 2).flatten(1).cumsum(1)
        joint = joint / joint[:, -1:]  # 1 from the last that can come on, so that none that cannot is drawn
        tokens, states = torch.empty(2, length, n, dtype=torch.long)
        draws = torch.rand(length, n, 1, generator=generator, dtype=torch.float64)
        for t in range(length):
            which = torch.searchsorted(joint[state], draws[t], right=True)[:, 0].clamp_max(joint.shape[1] - 1)
            tokens[t], states[t] = which // self.n_states, which % self.n_states
            state = states[t]
        return tokens.T.contiguous(), states.T.contiguous()

    def beliefs(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n length state"]:
        """The distribution over states after each token, given the tokens up to it: the forward algorithm.

        Raises:
            ValueError: tokens that there are not, or that this machine cannot emit one after another.
        """
        if tokens.ndim != 2 or bool(((tokens < 0) | (tokens >= self.n_tokens)).any()):
            raise ValueError(
                f"expected tokens [n, length] within [0, {self.n_tokens}), got "
                f"{tokens.unique()[:8].tolist()} of shape "
                f"{list(tokens.shape)}; check them"
            )
        belief = self.initial.expand(len(tokens), -1)
        found = []
        for t in range(tokens.shape[1]):
            belief = torch.bmm(belief[:, None], self.matrices[tokens[:, t]])[:, 0]
            total = belief.sum(1, keepdim=True)
            if not bool((total > 0).all()):
                raise ValueError(
                    f"expected tokens that this machine emits, got {tokens[int(total.argmin())].tolist()}, "
                    f"of which number {t} cannot follow"
                )
            belief = belief / total
            found.append(belief)
        return torch.stack(found, 1) if found else belief[:, None][:, :0]

    def optimum(self, length: int, most: int = 4096, draws: int = 4096, seed: int = 0) -> Optimum:
        """How well the next token can be predicted after 1 to ``length`` tokens.

        Args:
            most: so many different beliefs are followed; with more, the last positions are means over
                ``draws`` sequences.
        """
        beliefs, weights = self.initial[None], torch.ones(1, dtype=torch.float64)
        accuracy, entropy = [], []
        for _ in range(length):
            beliefs, weights = self._onward(beliefs, weights)
            if len(weights) > most:
                break
            following = beliefs @ self.emission
            accuracy.append(float(weights @ following.amax(1)))
            entropy.append(float(weights @ torch.special.entr(following).sum(1)))
        exact = len(accuracy) == length
        if not exact:
            tokens, _ = self.sample(draws, length, torch.Generator().manual_seed(seed))
            following = self.beliefs(tokens)[:, len(accuracy) :] @ self.emission
            accuracy += following.amax(2).mean(0).tolist()
            entropy += torch.special.entr(following).sum(2).mean(0).tolist()
        return Optimum(
            torch.tensor(accuracy, dtype=torch.float64), torch.tensor(entropy, dtype=torch.float64), exact
        )

    def constant(self, length: int) -> float:
        """How often the best constant answer is right, as the next token after 1 to ``length`` tokens."""
        state, total = self.initial, torch.zeros(self.n_tokens, dtype=torch.float64)
        for _ in range(length):
            state = state @ self.transition
            total += state @ self.emission
        return float(total.max() / length)

    def _onward(self, beliefs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The beliefs after one more token, each once, and how likely they are."""
        ahead = torch.einsum("bs,tsn->btn", beliefs, self.matrices).flatten(0, 1)
        chance = ahead.sum(1)
        weight = weights.repeat_interleave(self.n_tokens) * chance
        there = chance > 0
        normed = (ahead[there] / chance[there, None]).numpy()
        _, first, of = np.unique(
            np.round(normed / CLOSE).astype(np.int64), axis=0, return_index=True, return_inverse=True
        )
        merged = torch.zeros(len(first), dtype=torch.float64)
        return torch.from_numpy(normed[first]), merged.index_add(
            0, torch.from_numpy(of.ravel()), weight[there]
        )


def stationary(transition: Float[Tensor, "state next"]) -> Float[Tensor, " state"]:
    """The distribution over states that moving on leaves as it is; of several, the one that states drawn
    evenly come to."""
    n = len(transition)
    if n == 0:
        return torch.zeros(0, dtype=torch.float64)
    # Half a step at a time converges where machines go round in cycles, too.
    power = (transition + torch.eye(n, dtype=torch.float64)) / 2
    for _ in range(100):  # 2^100 steps
        after = power @ power
        after = after / after.sum(1, keepdim=True)
        if torch.equal(after, power):  # exactly: states that are left for good must have nothing
            break
        power = after
    found = power.mean(0)
    return found / found.sum()


def mess3(a: float = 0.85, x: float = 0.05) -> HiddenMarkov:
    """Three states and three tokens, all shared: a state emits its own token with probability ``a``, and
    moves to each of the others with probability ``x``; its beliefs are a fractal (Marzen & Crutchfield
    2017).

    Raises:
        ValueError: numbers that are no probabilities.
    """
    if not (0 <= a <= 1 and 0 <= x <= 0.5):
        raise ValueError(f"expected a within [0, 1] and x within [0, 1/2], got a={a} and x={x}; change them")
    own = torch.eye(3, dtype=torch.float64)
    return HiddenMarkov.arriving(own * (1 - 2 * x) + (1 - own) * x, own * a + (1 - own) * (1 - a) / 2)
