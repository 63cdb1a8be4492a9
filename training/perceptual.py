"""LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924) on VGG16: a loss for training and a score for the benchmarks.

With the weights of the first stages only it is a cheaper loss of the same kind; scores always use all five.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

STAGES = (2, 2, 3, 3, 3)  # convolutions of VGG16 between its poolings


class LPIPS(nn.Module):
    """Distance of image batches [N, 3, H, W] in -1..1, as [N]; sides of at least 16 px. Differentiable in both images.

    `weights`: conv<i>.weight [out, in, 3, 3], conv<i>.bias, and head<s> [C] for each stage s that is there.
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.stages = STAGES[: sum(name.startswith("head") for name in weights)]
        for name, tensor in weights.items():
            self.register_buffer(name.replace(".", "_"), tensor.float())
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The last activation of each VGG16 stage, unit length over channels."""
        x, index, outputs = (image - self.shift) / self.scale, 0, []
        for stage, count in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if stage else x
            for _ in range(count):
                weight, bias = getattr(self, f"conv{index}_weight"), getattr(self, f"conv{index}_bias")
                x, index = F.relu(F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=1)), index + 1
            outputs.append(x * torch.rsqrt(x.square().sum(1, keepdim=True) + 1e-10))
        return outputs

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(a.shape[0], device=a.device)
        for index, (fa, fb) in enumerate(zip(self.features(a), self.features(b), strict=True)):
            cells = (fa - fb).square().permute(0, 2, 3, 1).flatten(1, 2)  # [N, H * W, C]
            total = total + (cells @ getattr(self, f"head{index}").to(cells.dtype)).float().mean(1)
        return total


def load(path: Path) -> LPIPS:
    """The frozen network from a safetensors file, fit for gradients also when called in inference mode."""
    with torch.inference_mode(False):
        return LPIPS(load_file(path)).eval().requires_grad_(False)
