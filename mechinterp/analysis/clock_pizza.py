"""Clock or pizza: two measures that tell apart two ways to add on a circle.

Zhong et al. (2023), "The Clock and the Pizza", section 4. A clock multiplies the
embeddings' angles together and its logits depend on a + b alone; a pizza adds the embeddings,
so its logits fade when a and b are opposite. Their pizzas have gradient symmetricity .99 and
distance irrelevance .17-.29, their clocks .33-.50 and .80-.85; where the boundary lies is disputed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def distance_irrelevance(logits: Float[Tensor, "p p p"], targets: Int[Tensor, "p p"]) -> float:
    """How little the right answer's logit depends on a - b: 1 for not at all, 0 for on nothing else.

    With L[s, d] the logit of the right answer at a + b = s and a - b = d mod p, this is the mean
    over d of the standard deviation over s, over the standard deviation of all of L.

    Raises:
        ValueError: an even p, for which (s, d) does not fix (a, b); or constant logits.
    """
    p = len(logits)
    if p % 2 == 0:
        raise ValueError(f"expected an odd p, got {p}; a + b and a - b fix a pair only then")
    right = logits.double().gather(-1, targets[..., None]).squeeze(-1)
    half = (p + 1) // 2  # the inverse of 2
    s, d = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    table = right[((s + d) * half) % p, ((s - d) * half) % p]
    spread = table.std(unbiased=False)
    if spread == 0:
        raise ValueError("expected logits that vary, got constant ones; the measure is undefined")
    return (table.std(0, unbiased=False).mean() / spread).item()


def gradient_symmetricity(
    outputs_of: Callable[[Float[Tensor, "n 2 d_model"]], Float[Tensor, "n p"]],
    embedding: Float[Tensor, "p d_model"],
    n: int = 100,
    seed: int = 0,
) -> Float[Tensor, " n"]:
    """Cosine between the gradients of an output by the embeddings of a and of b.

    Args:
        outputs_of: logits from the two number vectors of each example.
        embedding: the numbers' vectors.
        n: how many random triples (a, b, c) to take.

    Returns:
        One cosine a triple; Zhong et al. take the mean of 100.
    """
    p = len(embedding)
    a, b, c = torch.randint(p, (3, n), generator=torch.Generator().manual_seed(seed))
    vectors = torch.stack([embedding[a], embedding[b]], dim=1).detach().requires_grad_()
    chosen = outputs_of(vectors).gather(1, c[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, vectors)
    return torch.nn.functional.cosine_similarity(gradient[:, 0], gradient[:, 1], dim=-1)
