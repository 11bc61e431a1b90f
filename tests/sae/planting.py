"""Rows with a known dictionary."""

import torch
from torch import Tensor


def planted(
    *, n_rows: int, d: int, p: int, k: int, seed: int = 0, noise: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Rows that are sums of k of p unit atoms with weights from 0.5 to 1.5, and the atoms."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.randn(p, d, generator=generator)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    chosen = torch.rand(n_rows, p, generator=generator).topk(k, dim=1).indices
    weights = torch.rand(n_rows, k, generator=generator) + 0.5
    codes = torch.zeros(n_rows, p).scatter_(1, chosen, weights)
    rows = codes @ atoms
    return rows + noise * torch.randn(n_rows, d, generator=generator), atoms


def matched_cosine(learned: Tensor, true: Tensor) -> float:
    """Mean over true atoms of the largest |cosine| with a learned one."""
    learned = learned / learned.norm(dim=1, keepdim=True).clamp_min(1e-12)
    true = true / true.norm(dim=1, keepdim=True)
    return float((true @ learned.t()).abs().amax(1).mean())
