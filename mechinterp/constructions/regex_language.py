"""Automata in weights: one value matrix a symbol, and a transformer of logarithmic depth.

Two constructions. As a recurrence, a state is a row vector and every symbol a matrix that it is
multiplied by: exact, but nothing is attended to. As a transformer, every token starts as the map from
states to states that its symbol makes; each layer composes the map at t, which spans 2^l tokens, with
the one at t - 2^l, so that ceil(log2 T) layers give the map of every whole prefix at once (Liu et al.
2023, "Transformers learn shortcuts to automata", theorem 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechinterp.automata import CLASSES, DFA
from mechinterp.automata.dfa import check_ids
from mechinterp.devices import cpu_default
from mechinterp.models.config import TransformerConfig
from mechinterp.models.transformer import HookedTransformer
from mechinterp.tasks.regex_language import RegexLanguage

MOST_STATES = 16
"""A layer has n_states ** 3 neurons and more, on a stream of twice n_states ** 2."""
SHARPNESS = 64.0
"""How far the attended key's score is above every other: e^-64 is what leaks."""


@dataclass(frozen=True, eq=False)
class ValueMatrices:
    """An automaton as a recurrence of matrices.

    Args:
        matrices: ``V[h, i, j] = 1`` just if symbol h leads from state i to state j.
    """

    matrices: Float[Tensor, "head state next"]

    @classmethod
    def of(cls, dfa: DFA) -> ValueMatrices:
        """One matrix, the published construction's head, for each symbol of the alphabet."""
        return cls(dfa.matrices)

    def __call__(self, ids: Int[Tensor, "word length"]) -> Float[Tensor, "word prefix state"]:
        """``s_t = s_{t-1} V[x_t]`` from state 0: the state after every prefix; ``PAD`` changes nothing.

        Raises:
            ValueError: a number that is no symbol's.
        """
        check_ids(ids, len(self.matrices))
        state = torch.zeros(len(ids), self.matrices.shape[1])
        state[:, 0] = 1.0
        trace, stays = [state], torch.eye(self.matrices.shape[1])[None]  # PAD, -1, is the last matrix
        matrices = torch.cat((self.matrices, stays))
        for symbol in ids.T:
            trace.append((trace[-1][:, None] @ matrices[symbol])[:, 0])
        return torch.stack(trace, 1)


@cpu_default
def log_depth(dfa: DFA, max_len: int, scale: float = 10.0) -> HookedTransformer:
    """A transformer that answers, after every symbol, which state the automaton is in.

    It reads ids as ``tasks.RegexLanguage`` writes them: symbols 0 to n - 1, and n at the beginning.
    After layer l (from 1) the first n_states ** 2 dimensions of the stream hold the map ``f[q', q]`` of
    the last 2^l symbols: 1 just if they lead from state q to state q'.

    Args:
        max_len: symbols of the longest word.
        scale: the logit of the right state; that of all others is 0.

    Raises:
        ValueError: more than ``MOST_STATES`` states, or a length below 1.
    """
    n = dfa.n_states
    model = _composer(dfa, max_len, dfa.n_symbols + 2, n)
    with torch.no_grad():
        model.unembed.W_U[torch.arange(n) * n, torch.arange(n)] = scale
    return model


@cpu_default
def regex_language(task: RegexLanguage, scale: float = 10.0) -> HookedTransformer:
    """The same network with the task's outputs: the class of the state, and what tends to come next.

    Logits of the next symbol are the logarithms of how often it comes after the state, over all
    lengths; the end depends on the length as well, which this network does not heed.

    Raises:
        ValueError: as ``log_depth``.
    """
    dfa, n = task.dfa, task.dfa.n_states
    model = _composer(dfa, 2 * task.max_len, task.d_vocab, task.d_vocab)
    batch = task.dataset("train")
    odds, states = task.next_symbol(batch)[batch.mask], batch.variables["state"][batch.mask]
    per_state = torch.zeros(n, odds.shape[1], dtype=odds.dtype).index_add_(0, states, odds)
    with torch.no_grad():
        rows = model.unembed.W_U[torch.arange(n) * n]
        rows[:, task.next_columns] = _logs(per_state)
        rows[:, task.class_columns] = scale * torch.nn.functional.one_hot(dfa.classes, len(CLASSES)).float()
        model.unembed.W_U[torch.arange(n) * n] = rows
    return model


def _logs(counts: Float[Tensor, "state next"]) -> Float[Tensor, "state next"]:
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1e-9)
    return shares.clamp(min=1e-4).log().float()


@cpu_default
def near_construction(
    model: HookedTransformer, dfa: DFA, noise: float = 0.0, seed: int = 0
) -> HookedTransformer:
    """Set the first layer's heads to the value matrices: head h carries symbol h's in its OV circuit.

    The leading n_states dimensions of the stream stand for the states, as in the published comparison;
    heads beyond the symbols, queries and keys stay as they are.

    Args:
        model: changed in place.
        noise: standard deviation of what is added to the values and outputs set.

    Returns:
        The model.

    Raises:
        ValueError: fewer heads than symbols, or heads or a stream narrower than there are states.
    """
    n, attn = dfa.n_states, model.blocks[0].attn
    if model.cfg.n_heads < dfa.n_symbols or min(model.cfg.d_head, model.cfg.d_model) < n:
        raise ValueError(
            f"expected a head for each of {dfa.n_symbols} symbols, each at least as wide as {n} states, got "
            f"{model.cfg.n_heads} heads of d_head={model.cfg.d_head} and d_model={model.cfg.d_model}; raise "
            "n_heads or d_model"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for head, matrix in enumerate(dfa.matrices):
            for weight, block in ((attn.W_V, matrix), (attn.W_O, torch.eye(n))):
                fresh = noise * torch.randn(weight[head].shape, generator=generator)
                fresh[:n, :n] += block
                weight[head] = fresh.to(weight)
    return model


@cpu_default
def off_construction(model: HookedTransformer, dfa: DFA) -> Float[Tensor, ""]:
    """How far the first layer's heads are from the value matrices: the mean squared difference.

    For ``fit(..., penalty=lambda model: weight * off_construction(model, dfa))``, which pulls the leading
    block of each head's OV circuit to its symbol's matrix.

    Raises:
        ValueError: a stream narrower than there are states, or fewer heads than symbols.
    """
    n, heads = dfa.n_states, dfa.n_symbols
    if model.cfg.d_model < n or model.cfg.n_heads < heads:
        raise ValueError(
            f"expected d_model >= {n} states and a head for each of {heads} symbols, got d_model="
            f"{model.cfg.d_model} and {model.cfg.n_heads} heads; raise them"
        )
    attn = model.blocks[0].attn
    blocks = attn.W_V[:heads, :n] @ attn.W_O[:heads, :, :n]
    return ((blocks - dfa.matrices.to(blocks)) ** 2).mean()


def _composer(dfa: DFA, max_len: int, d_vocab: int, d_vocab_out: int) -> HookedTransformer:
    """All but the readout. The stream: map f, map g fetched from 2^l before, position code, flag of start."""
    n, bits = dfa.n_states, max(1, max_len.bit_length())
    if n > MOST_STATES or max_len < 1:
        raise ValueError(
            f"expected at most {MOST_STATES} states and words of at least 1 symbol, got {n} and {max_len}; "
            "take a smaller automaton"
        )
    square, code = n * n, 2 * bits + 1
    model = HookedTransformer(
        TransformerConfig(
            d_model=2 * square + code, n_heads=1, d_head=max(square, code), d_mlp=n * square + square,
            n_layers=max(1, math.ceil(math.log2(max_len))), act_fn="relu", n_ctx=max_len + 1,
            d_vocab=d_vocab, d_vocab_out=d_vocab_out, use_attn_scale=False, readout="classes",
        )
    )  # fmt: skip
    f, g = torch.arange(square).view(n, n), torch.arange(square, 2 * square).view(n, n)
    rates = math.pi / 2.0 ** torch.arange(bits)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E[: dfa.n_symbols, :square] = dfa.matrices.mT.flatten(1)
        model.embed.W_E[dfa.n_symbols, f.diagonal()] = 1.0
        angles = torch.arange(1, max_len + 1)[:, None] * rates
        model.pos_embed.W_pos[1:, 2 * square : -1] = torch.cat((angles.cos(), angles.sin()), 1)
        model.pos_embed.W_pos[0, -1] = 1.0
        for layer, block in enumerate(model.blocks):
            _look_back(block.attn, 2**layer * rates, square)
            _compose(block.mlp, f, g)
    return model


def _look_back(attn: nn.Module, angles: Float[Tensor, " bit"], square: int) -> None:
    """Fetch f from so many positions before into g; from the start, the identity, where that is too far.

    Position codes of up to 2^bits - 1 apart agree in at most bits - 2 of ``bits``, and the start counts as
    bits - 1: less than the position sought, more than all others.
    """
    bits, code = len(angles), torch.arange(2 * square, 2 * square + 2 * len(angles) + 1)
    cos, sin = torch.arange(bits), torch.arange(bits, 2 * bits)
    query, key = attn.W_Q[0], attn.W_K[0]
    query[code[cos], cos] = query[code[sin], sin] = SHARPNESS * angles.cos()
    query[code[sin], cos], query[code[cos], sin] = SHARPNESS * angles.sin(), -SHARPNESS * angles.sin()
    attn.b_Q[0, 2 * bits] = SHARPNESS * (bits - 1)
    key[code, torch.arange(2 * bits + 1)] = 1.0
    entries = torch.arange(square)
    attn.W_V[0, entries, entries] = attn.W_O[0, entries, square + entries] = 1.0


def _compose(mlp: nn.Module, f: Int[Tensor, "n n"], g: Int[Tensor, "n n"]) -> None:
    """Replace f by f after g, and g by nothing.

    Neuron (q2, q1, q) is on just if g leads q to q1, and f leads q1 to q2.
    """
    n = len(f)
    q2, q1, q = torch.cartesian_prod(*3 * [torch.arange(n)]).T
    neuron, clear = torch.arange(n**3), n**3 + torch.arange(n * n)
    mlp.W_in[f[q2, q1], neuron] = mlp.W_in[g[q1, q], neuron] = 1.0
    mlp.b_in[neuron] = -1.0
    mlp.W_out[neuron, f[q2, q]] = 1.0
    mlp.W_out[neuron, g[q1, q]] = -1.0  # over all q2, of which one is on, this adds up to g
    mlp.W_in[f.flatten(), clear] = 1.0
    mlp.W_out[clear, f.flatten()] = -1.0
