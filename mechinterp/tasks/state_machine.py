"""The next token of a machine with hidden states: which one can be known, and how well?"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechinterp.automata import NAMED, HiddenMarkov, Optimum, language, mess3
from mechinterp.devices import cpu_default
from mechinterp.tasks.base import Batch, Split, Task, predicted

KINDS = ("cycle", "deterministic", "stochastic", "mess3")
CONCENTRATION = 0.3
"""Of the Dirichlet distribution that rows of a stochastic machine are drawn from: few next states are
likely."""


@cpu_default
@dataclass(frozen=True, kw_only=True)
class StateMachine(Task):
    """Predict the next token of a machine that goes from state to state and emits a token at each step.

    With ``emission="disjoint"`` every state has tokens of its own, so that the token tells where the machine
    is and no memory is needed; a cycle of states that choose among three tokens alike, as published, can
    be predicted right in a third of cases. With ``"shared"`` every token belongs to several states, and the
    state must be followed.

    ``transition`` is ``"cycle"``: one state after another; ``"stochastic"``: the next state is drawn, from
    rows that the seed draws; both then emit from the state they have come to. ``"deterministic"``: the state
    and its token say the next, by a table that the seed draws; so do automata, by a pattern or a name such as
    ``"S3"``, whose symbols are tokens: these begin in their first state, and emit before they move.
    ``"mess3"`` is the process of Marzen & Crutchfield (2017) with three states; and rows of probabilities are
    a machine of their own.

    Inputs and targets ``[batch, length]`` are the same sequence, one token on. Variables: ``state`` of the
    machine after each input token ``[batch, length]``, and ``belief`` ``[batch, length, state]``: what all
    tokens so far leave to be known of it.

    The score is how often the token that the network holds most likely comes, worked out from the belief
    rather than counted, which is the same on average; ``ceiling`` is that of the best predictor.

    Raises:
        ValueError: machines that cannot be.
    """

    name: ClassVar[str] = "state_machine"
    score_name: ClassVar[str] = "expected_accuracy"
    samples: ClassVar[bool] = True
    watched: ClassVar[Split] = "val"

    n_states: int = 8
    """How many states; automata and mess3 have their own."""

    tokens_per_state: int = 3
    """Tokens that a state chooses among, each as likely; automata have their symbols."""

    n_tokens: int | None = None
    """How many tokens there are; by default as many as disjoint states need, or half of that if shared."""

    emission: str = "disjoint"
    """Whether states have tokens of their own: disjoint or shared."""

    transition: str | tuple[tuple[float, ...], ...] = "cycle"
    """How the machine moves."""

    alphabet: str | None = None
    """Symbols of a pattern, one character each; by default ``ab``, or the named machine's own."""

    length: int = 32
    """Tokens that are read."""

    n_test: int = 1000
    """Sequences of the test split; of val a fifth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.emission not in ("disjoint", "shared"):
            raise ValueError(f"expected emission disjoint or shared, got {self.emission!r}; choose one")
        for field, least in (("n_states", 1), ("tokens_per_state", 1), ("length", 2), ("n_test", 10)):
            if getattr(self, field) < least:
                raise ValueError(f"expected {field} >= {least}, got {getattr(self, field)}; raise it")
        if self.seed < 0:
            raise ValueError(f"expected seed >= 0, got {self.seed}; raise it")
        if self.alphabet is not None and (not isinstance(self.transition, str) or self.transition in KINDS):
            raise ValueError(
                f"expected no alphabet for {self.transition!r}, which is no pattern, got {self.alphabet!r}; "
                "leave it out"
            )
        if isinstance(self.transition, str) and self.transition not in (
            "cycle",
            "deterministic",
            "stochastic",
        ):
            own = {"n_states": 8, "tokens_per_state": 3, "n_tokens": None}
            given = [name for name, default in own.items() if getattr(self, name) != default]
            if given:
                raise ValueError(
                    f"expected no {', '.join(given)} for {self.transition!r}, which has states and tokens of "
                    "its own; leave them out"
                )
        assert self.machine  # what cannot be is refused here

    # ---- the machine -----------------------------------------------------------------------

    @cached_property
    def machine(self) -> HiddenMarkov:
        """States, tokens and how they follow one another."""
        if self.transition == "mess3":
            return mess3()
        generator = torch.Generator().manual_seed(self.seed)
        if isinstance(self.transition, str) and self.transition not in KINDS:
            return self._of_automaton(self.transition)
        rows = self._rows(generator)
        emission = self._emission(len(rows), generator)
        if self.transition == "deterministic":
            return HiddenMarkov.leaving(emission, self._table(emission, generator))
        return HiddenMarkov.arriving(rows, emission)

    def _rows(self, generator: torch.Generator) -> Float[Tensor, "state next"]:
        n = self.n_states
        if isinstance(self.transition, tuple):
            lengths = {len(row) for row in self.transition}
            if lengths != {len(self.transition)} or len(self.transition) != n:
                raise ValueError(
                    f"expected {n} rows of {n} probabilities for {n} states, got {len(self.transition)} rows "
                    f"of {sorted(lengths)}; set n_states"
                )
            return torch.tensor(self.transition, dtype=torch.float64)
        if self.transition == "stochastic":
            drawn = np.random.default_rng(self.seed).dirichlet(np.full(n, CONCENTRATION), size=n)
            return torch.from_numpy(drawn)
        return torch.eye(n, dtype=torch.float64).roll(1, 1)

    def _emission(self, n: int, generator: torch.Generator) -> Float[Tensor, "state token"]:
        """Each state's tokens, alike; shared ones are dealt out so that no two states have the same."""
        k, slots = self.tokens_per_state, n * self.tokens_per_state
        shared = self.emission == "shared"
        count = self.n_tokens if self.n_tokens is not None else max(k, -(-slots // 2)) if shared else slots
        if not shared and count != slots:
            raise ValueError(
                f"expected {slots} tokens for {n} states with {k} of their own each, got n_tokens={count}; "
                "leave it out, or share them"
            )
        if not k <= count <= slots:
            raise ValueError(
                f"expected {k} to {slots} tokens to be shared by {n} states with {k} each, got {count}; "
                "change n_tokens"
            )
        for _ in range(1000):
            order = torch.randperm(count, generator=generator) if shared else torch.arange(count)
            own = order.repeat(-(-slots // count))[:slots].view(n, k)
            if shared:
                own = own.flatten()[torch.randperm(slots, generator=generator)].view(n, k)
            hot = torch.zeros(n, count, dtype=torch.float64).scatter_(1, own, 1.0)
            if bool((hot.sum(1) == k).all()) and len(hot.unique(dim=0)) == n:
                return hot / k
        raise ValueError(
            f"expected tokens that tell {n} states with {k} each apart, got {count}; raise n_tokens, or "
            "change tokens_per_state"
        )

    def _table(
        self, emission: Float[Tensor, "state token"], generator: torch.Generator
    ) -> Int[Tensor, "state token"]:
        """The next state by state and token: any, but one token of each leads round all states."""
        n, count = emission.shape
        table = torch.randint(n, (n, count), generator=generator)
        order = torch.randperm(n, generator=generator)
        table[order, emission.argmax(1)[order]] = order.roll(-1)
        return table

    def _of_automaton(self, pattern: str) -> HiddenMarkov:
        """Symbols are likely by turns: what one state emits half of the time, the next emits less often."""
        try:
            dfa = language(pattern, self.alphabet)
        except ValueError as error:
            near = difflib.get_close_matches(pattern, [*KINDS, *NAMED], n=2)
            raise ValueError(
                f"expected transition {', '.join(KINDS)}, rows of probabilities, a machine of "
                f"{sorted(NAMED)} or a pattern, got {pattern!r}"
                + (f"; did you mean {' or '.join(near)}?" if near else f": {error}")
            ) from error
        n, k = dfa.table.shape
        turns = (torch.arange(k) - torch.arange(n)[:, None]) % k
        own = 0.5 ** turns.double()
        own = own / own.sum(1, keepdim=True)
        if self.emission == "shared":
            return HiddenMarkov.leaving(own, dfa.table, start=0)
        emission = torch.zeros(n, n * k, dtype=torch.float64)
        table = torch.zeros(n, n * k, dtype=torch.long)
        at = torch.arange(n * k).view(n, k)
        return HiddenMarkov.leaving(emission.scatter_(1, at, own), table.scatter_(1, at, dfa.table), start=0)

    @property
    def d_vocab(self) -> int:
        """How many tokens there are."""
        return self.machine.n_tokens

    @cached_property
    def optimum(self) -> Optimum:
        """What the best predictor does, by position."""
        return self.machine.optimum(self.length)

    @property
    def ceiling(self) -> float:  # type: ignore[override]
        """The score of the best predictor."""
        return float(self.optimum.accuracy.mean())

    @property
    def learned_at(self) -> float:  # type: ignore[override]
        """98 % of the way from the trivial score to the ceiling."""
        return self.trivial + 0.98 * (self.ceiling - self.trivial)

    @cached_property
    def trivial(self) -> float:  # type: ignore[override]
        """Always the token that is most frequent."""
        return self.machine.constant(self.length)

    # ---- sequences -------------------------------------------------------------------------

    def sample(self, n: int, generator: torch.Generator, variables: bool = True) -> Batch:
        """n sequences."""
        tokens, states = self.machine.sample(n, self.length + 1, generator)
        inputs = tokens[:, :-1].contiguous()
        known = {"state": states[:, :-1], "belief": self.machine.beliefs(inputs)} if variables else {}
        return Batch(
            inputs=inputs, targets=tokens[:, 1:].contiguous(), read=tuple(range(self.length)), variables=known
        )

    def dataset(self, split: Split) -> Batch:
        """Fixed sequences, other ones for each split.

        Raises:
            ValueError: no such split.
        """
        place = {"train": 1, "val": 2, "test": 3}.get(split, 0)
        if not place:
            raise ValueError(f"expected split train, val or test, got {split!r}; there is no other")
        generator = torch.Generator().manual_seed(self.seed + 10**6 * place)
        return self.sample(self.n_test if split == "test" else max(1, self.n_test // 5), generator)

    def following(self, batch: Batch) -> Float[Tensor, "batch pos token"]:
        """The distribution of the next token, given all so far."""
        return batch.variables["belief"] @ self.machine.emission.to(batch.variables["belief"])

    @torch.no_grad()
    def score(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> float:
        """How often the token that is held most likely comes."""
        chosen = predicted(outputs)[..., None]
        odds = self.following(batch).gather(2, chosen.clamp_min(0))
        return torch.where(chosen < 0, 0.0, odds.double()).mean().item()

    @torch.no_grad()
    def measures(self, outputs: Float[Tensor, "batch read out"], batch: Batch) -> dict[str, float]:
        """How often the token held most likely came in these sequences, which may be more often than the best
        predictor can expect; and how far the distributions are from the best, in nats (Kullback-Leibler)."""
        best = self.following(batch)
        logs = outputs.double().log_softmax(-1)
        apart = (torch.special.xlogy(best, best) - torch.where(best > 0, best * logs, 0.0)).sum(-1)
        return {"counted_accuracy": super().score(outputs, batch), "divergence": float(apart.mean())}
