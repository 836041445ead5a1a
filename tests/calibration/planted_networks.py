"""Random networks that hold nothing, and networks in which it is known what carries what.

The planted ones keep tokens, positions, what heads tell each other and answers in subspaces of a stream
that is turned at random: nothing stands along an axis, and what is 0 in truth is rounding in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mechinterp.models import HookedTransformer, TransformerConfig

WORDS = 7
KINDS = (
    {},
    {"normalization_type": "LN"},
    {"positional_embedding_type": "rotary"},
    {"attention_dir": "bidirectional"},
)
CONCEPTS, LENGTH = 4, 3
"""Tokens 0 to 3 are concepts and stand first; 4 to 7 say nothing and stand at the other two positions."""


def random_network(seed: int, **changes) -> HookedTransformer:
    """Two layers of two heads, biases and scales away from 0 and 1; the kind goes round with the seed."""
    sizes = {"d_model": 8, "d_head": 4, "n_layers": 2, "n_ctx": 6, "d_mlp": 6, "d_vocab": WORDS}
    model = HookedTransformer(
        TransformerConfig(**sizes | {"seed": seed} | KINDS[seed % len(KINDS)] | changes)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def unread_head(seed: int) -> HookedTransformer:
    """One layer of four heads without MLP; the first writes where nobody reads, up to rounding."""
    model = random_network(seed * len(KINDS), d_model=16, n_heads=4, n_layers=1, attn_only=True)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))).Q
    read, aside = basis[:, :8] @ basis[:, :8].mT, basis[:, 8:] @ basis[:, 8:].mT
    with torch.no_grad():
        model.unembed.W_U.copy_(read @ model.unembed.W_U)
        model.blocks[0].attn.W_O[0] = model.blocks[0].attn.W_O[0] @ aside
    return model


def tokens(seed: int, n: int = 16, length: int = 4, low: int = 0, high: int = WORDS) -> Tensor:
    """Random ids in [low, high)."""
    return torch.randint(low, high, (n, length), generator=torch.Generator().manual_seed(seed))


def first_two(outputs: Tensor) -> Tensor:
    """How much token 1 is preferred to token 2: of an untrained network, a number that means nothing."""
    return outputs[:, -1, 1] - outputs[:, -1, 2]


def preferring(right: Tensor, wrong: Tensor) -> Callable[[Tensor], Tensor]:
    """How much each example's right answer is preferred to its wrong one."""
    rows = torch.arange(len(right))
    return lambda outputs: outputs[rows, -1, right] - outputs[rows, -1, wrong]


def random_answers(seed: int, n: int = 16, words: int = WORDS) -> Callable[[Tensor], Tensor]:
    """A right and a wrong answer drawn for each example, whatever it says."""
    order = torch.rand(n, words, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return preferring(order[:, 0], order[:, 1])


def concepts(seed: int, n: int = 16) -> tuple[Tensor, Tensor]:
    """Clean and corrupted inputs: another concept, and all else drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    clean, corrupted = torch.randint(CONCEPTS, 2 * CONCEPTS, (2, n, LENGTH), generator=generator)
    clean[:, 0] = torch.randint(CONCEPTS, (n,), generator=generator)
    corrupted[:, 0] = (clean[:, 0] + torch.randint(1, CONCEPTS, (n,), generator=generator)) % CONCEPTS
    return clean, corrupted


class Stream:
    """Orthonormal directions of a stream, turned at random: tokens, positions, between heads, answers."""

    def __init__(self, generator: torch.Generator) -> None:
        sizes = (2 * CONCEPTS, LENGTH, CONCEPTS, CONCEPTS)
        self.width = sum(sizes)
        turned = torch.linalg.qr(torch.randn(self.width, self.width, generator=generator)).Q
        self.token, self.position, self.between, self.answer = turned.split(sizes)


def relay(
    seed: int,
    planted: set[tuple[int, int]],
    strength: float,
    *,
    noise: float = 1.0,
    layers: int = 2,
    to: str = "answer",
    saturating: bool = False,
) -> tuple[HookedTransformer, Stream]:
    """A network of four heads a layer in which some heads, as (layer, head), read the concept, and all noise.

    Every head looks at fixed positions; a planted one half at the concept and half at a token that says
    nothing, and writes ``strength`` for the concept and random numbers for the other. The rest write random
    numbers for tokens that say nothing. Neither depends on the other: nothing but attention.

    Args:
        noise: the standard deviation of those numbers.
        to: where planted heads write.
        saturating: add an MLP that brings ``min(x, 1)`` of each number between heads to the answers.
    """  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    stream = Stream(generator)
    cfg = TransformerConfig(
        d_model=stream.width, d_head=CONCEPTS, n_heads=4, n_layers=layers, n_ctx=LENGTH,
        d_vocab=2 * CONCEPTS, d_vocab_out=CONCEPTS, d_mlp=2 * CONCEPTS, act_fn="relu",
        attn_only=not saturating, use_attn_scale=False,
    )  # fmt: skip
    model = HookedTransformer(cfg).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E.copy_(stream.token)
        model.pos_embed.W_pos.copy_(stream.position)
        model.unembed.W_U.copy_(stream.answer.mT)
        for layer, block in enumerate(model.blocks):
            for head in range(4):
                reads = noise * torch.randn(2 * CONCEPTS, CONCEPTS, generator=generator)
                if (layer, head) in planted:
                    reads[:CONCEPTS] = strength * torch.eye(CONCEPTS)
                place = int(torch.randint(1, LENGTH, (1,), generator=generator))
                look(block.attn, head, stream, {0, place} if (layer, head) in planted else {place})
                block.attn.W_V[head] = stream.token.mT @ reads * (1 + ((layer, head) in planted))
                block.attn.W_O[head] = getattr(stream, to if (layer, head) in planted else "answer")
            if saturating:
                saturate(block.mlp, stream)
    return model, stream


def look(attn: torch.nn.Module, head: int, stream: Stream, at: set[int]) -> None:
    """Make the last position look at some positions, and at nothing else."""
    attn.W_Q[head, :, 0] = stream.position[-1] * 40
    attn.W_K[head, :, 0] = stream.position[sorted(at)].sum(0)


def saturate(mlp: torch.nn.Module, stream: Stream) -> None:
    """``min(x, 1)`` for x > 0, of each number between heads, to the answer of the same name."""
    mlp.W_in.copy_(torch.cat((stream.between, stream.between)).mT)
    mlp.b_in[CONCEPTS:] = -1.0
    mlp.W_out.copy_(torch.cat((stream.answer, -stream.answer)))
