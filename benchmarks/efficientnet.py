"""EfficientNet-Lite0 features (Tan & Le 2019) and the kernel distance on them (KID, Binkowski et al. 2018)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 224
# repeats, stride of the first: of each stage of inverted residual blocks
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


class Features:
    """Pooled 1280-d features of pictures; `weights` is the state dict of the published checkpoint."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights

    def _norm(self, x: Tensor, name: str) -> Tensor:
        mean, variance, scale, shift = (
            self.weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-3)

    def _conv(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolution with TensorFlow's SAME padding."""
        weight = self.weights[f"{name}.weight"]
        pads = [max((-(-side // stride) - 1) * stride + weight.shape[2] - side, 0) for side in (x.shape[3], x.shape[2])]
        x = F.pad(x, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def _block(self, x: Tensor, name: str, stride: int) -> Tensor:
        y = x
        if f"{name}._expand_conv.weight" in self.weights:
            y = F.relu6(self._norm(self._conv(y, f"{name}._expand_conv"), f"{name}._bn0"))
        y = F.relu6(self._norm(self._conv(y, f"{name}._depthwise_conv", stride, y.shape[1]), f"{name}._bn1"))
        y = self._norm(self._conv(y, f"{name}._project_conv"), f"{name}._bn2")
        return x + y if y.shape == x.shape else y

    @torch.inference_mode()
    def __call__(self, pictures: Tensor) -> np.ndarray:
        """uint8 [N, H, W, 3] to float64 [N, 1280]."""
        x = pictures.permute(0, 3, 1, 2).float()
        x = (F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255) - 127) / 128
        x = F.relu6(self._norm(self._conv(x, "_conv_stem", 2), "_bn0"))
        index = 0
        for repeats, stride in STAGES:
            for repeat in range(repeats):
                x, index = self._block(x, f"_blocks.{index}", 1 if repeat else stride), index + 1
        return F.relu6(self._norm(self._conv(x, "_conv_head"), "_bn1")).mean((2, 3)).double().numpy()


def kid(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD of feature sets [N, D] and [M, D] with kernel (x.y / D + 1)^3. May be slightly negative."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()
