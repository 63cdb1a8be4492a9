"""Residual and layer norm (Ba et al. 2016, arXiv 1607.06450, equation 4) as they are written down, for any dtype."""

from torch import Tensor


def add_layer_norm_reference(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Shapes as in `api.add_layer_norm`."""
    total = x + residual
    centred = total - total.mean(-1, keepdim=True)
    return total, centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias
