"""Guidance that is an input of the network (LCM's UNet) as a shift of one bias, so that any host can apply it as a patch."""

import torch
from torch import Tensor


def scale_embedding(scale: float, width: int) -> Tensor:
    """Sine and cosine features [width] of a guidance scale, 1 being off, as arXiv 2310.04378 feeds them to the network."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000 * (scale - 1) * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))


def bias_shift(projection: Tensor, first_weight: Tensor, scale: float) -> Tensor:
    """What the embedded scale adds to the bias of the time embedding's first layer [out].

    projection [in, width] maps the features onto that layer's input, first_weight [out, in] is the layer:
    W (t + P e) + b = W t + (b + W P e), constant over a run.
    """
    features = scale_embedding(scale, projection.shape[1])
    return first_weight.float().cpu() @ (projection.float().cpu() @ features)
