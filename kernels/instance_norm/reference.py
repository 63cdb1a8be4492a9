"""Instance norm as it is written down (Ulyanov et al. 2016, arXiv 1607.08022, equation 6), with scale and shift."""

from torch import Tensor


def instance_norm_reference(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """[B, C, H, W] with `scale` and `shift` [1, C] or [B, C]."""
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * scale[:, :, None, None] + shift[:, :, None, None]
