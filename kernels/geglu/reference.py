"""GEGLU as it is written down (Shazeer 2020, arXiv 2002.05202, equation 6, after its projection), for any dtype."""

import torch
from torch import Tensor


def geglu_reference(x: Tensor) -> Tensor:
    """[..., 2 C], values before gates, to [..., C]; the exact GELU."""
    values, gates = x.chunk(2, -1)
    return values * gates * (1 + torch.erf(gates * 0.5**0.5)) / 2
