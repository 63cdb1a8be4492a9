"""Instance norm as it is written down (Ulyanov et al. 2016, arXiv 1607.08022, equation 6), with scale and shift."""

from torch import Tensor


def instance_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
