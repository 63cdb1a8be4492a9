"""Instance norm (Ulyanov et al. 2016, arXiv 1607.08022, equation 6) with scale and shift, a sum and ReLU, as they are written down."""

from torch import Tensor


def instance_norm_act_reference(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool = True,
    residual: Tensor | None = None,
    gain: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shapes as in `api.instance_norm_act`, any dtype."""
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    y = (x - mean) / (variance + eps).sqrt() * scale[:, :, None, None] + shift[:, :, None, None]
    if residual is not None:
        y = y + (residual if gain is None else residual * gain[:, :, None, None])
    return y.relu() if relu else y
