"""Functions on the integers mod p, and on pairs of them, in the Fourier basis.

Frequencies run from 1 to p // 2 inclusive; frequency k is the pair cos(2 pi k x / p),
sin(2 pi k x / p). Everything here takes plain tensors and returns plain tensors: what they
mean for a network, with controls, is said in ``mechinterp.analysis.modular``.

Source: Nanda et al. (2023), "Progress measures for grokking via mechanistic
interpretability", sections 4 and 5 and appendix.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def fourier_basis(p: int) -> Float[Tensor, "p p"]:
    """Orthonormal rows: constant, cos 1, sin 1, cos 2, sin 2, ... (even p ends in cos p/2)."""
    if p < 2:
        raise ValueError(f"expected p >= 2, got {p}; the basis has one function a residue")
    x = torch.arange(p, dtype=torch.float64)
    rows = [torch.ones(p, dtype=torch.float64)]
    for k in range(1, p // 2 + 1):
        angle = 2 * torch.pi * k * x / p
        rows += [angle.cos()] if 2 * k == p else [angle.cos(), angle.sin()]
    basis = torch.stack(rows)
    return basis / basis.norm(dim=1, keepdim=True)


def frequency_power(x: Float[Tensor, " p *rest"]) -> Float[Tensor, " frequency *rest"]:
    """The energy of each frequency 1 .. p // 2 along the first axis.

    With the constant's, these energies sum to ``(x ** 2).sum(0)`` (Parseval).
    """
    p = len(x)
    power = torch.fft.rfft(x.double(), dim=0, norm="ortho").abs() ** 2
    twice = torch.full((len(power),), 2.0, dtype=torch.float64)
    if p % 2 == 0:
        twice[-1] = 1.0
    return (power * twice.view(-1, *[1] * (x.ndim - 1)))[1:]


def gini(x: Float[Tensor, " n *rest"]) -> Float[Tensor, "*rest"]:
    """Gini coefficient along the first axis, of numbers >= 0: 0 if all equal, 1 - 1/n if one holds all.

    Raises:
        ValueError: a negative number, or nothing but zeros.
    """
    if bool((x < 0).any()) or bool((x.sum(0) == 0).any()):
        raise ValueError("expected numbers >= 0, not all zero, for a Gini coefficient; give norms or powers")
    n = len(x)
    ordered = x.sort(dim=0).values
    rank = torch.arange(1, n + 1, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))
    return ((2 * rank - n - 1) * ordered).sum(0) / (n * ordered.sum(0))


def pair_frequency_share(
    activations: Float[Tensor, "p p unit"],
) -> Float[Tensor, "frequency unit"]:
    """The share of each unit's variance over pairs (a, b) that one frequency accounts for.

    That is the energy in the products of {1, cos k, sin k} of a with the same of b, without the
    constant, over the energy without the constant. A unit that does not vary has share 0.
    """
    p = len(activations)
    energy = torch.fft.fft2(activations.double(), dim=(0, 1)).abs() ** 2
    constant, energy[0, 0] = energy[0, 0].clone(), 0.0
    total = energy.sum((0, 1))
    # Of a unit that does not vary only rounding is left: that counts as no share of anything.
    total = torch.where(total <= 1e-20 * constant, torch.inf, total)
    shares = []
    for k in range(1, p // 2 + 1):
        at = sorted({0, k, p - k})
        shares.append(energy[at][:, at].sum((0, 1)))
    return torch.stack(shares) / total


def mean_by_sum(logits: Float[Tensor, "p p c"]) -> Float[Tensor, "p c"]:
    """The mean over all pairs with the same a + b mod p, indexed by that sum."""
    p = len(logits)
    a = torch.arange(p)
    s = torch.arange(p)[:, None]
    return logits.double()[a, (s - a) % p].mean(1)


def trigonometric_share(logits: Float[Tensor, "p p p"]) -> Float[Tensor, " frequency"]:
    """The share of the logits' variance that each alpha_k cos(2 pi k (a + b - c) / p) explains.

    Logits are centred over answers c first: a constant added to all of them changes nothing.
    """
    p = len(logits)
    centred = logits.double() - logits.double().mean(-1, keepdim=True)
    by_sum = mean_by_sum(centred)
    c = torch.arange(p)
    by_difference = by_sum[(c + torch.arange(p)[:, None]) % p, c].mean(1)  # index: a + b - c
    cosine = torch.fft.rfft(by_difference).real[1:] * 2 / p  # alpha_k
    if p % 2 == 0:
        cosine[-1] /= 2
    energy = cosine**2 * p**3 / 2
    if p % 2 == 0:
        energy[-1] *= 2
    return energy / (centred**2).sum()


def project_sum_frequencies(
    logits: Float[Tensor, "p p c"], frequencies: Int[Tensor, " k"]
) -> Float[Tensor, "p p c"]:
    """For each answer, the part of the logits in the span of cos and sin of w_k (a + b)."""
    p = len(logits)
    spectrum = torch.fft.fft(mean_by_sum(logits), dim=0)
    keep = torch.zeros(p, dtype=torch.bool)
    keep[frequencies % p] = keep[-frequencies % p] = True
    kept = torch.fft.ifft(torch.where(keep[:, None], spectrum, 0), dim=0).real
    a = torch.arange(p)
    return kept[(a[:, None] + a) % p].to(logits.dtype)


def key_frequencies(shares: Float[Tensor, " frequency"]) -> Int[Tensor, " k"]:
    """The frequencies that hold at least half of what each would if all shared alike."""
    threshold = shares.sum() / (2 * len(shares))
    return (shares >= threshold).nonzero().squeeze(-1) + 1
