"""VGG-19 and NIN as plain lists of layers, cut where a style loss looks.

VGG-19: Simonyan and Zisserman, arXiv 1409.1556, configuration E, up to conv5_1. NIN: Lin, Chen and Yan, arXiv 1312.4400, in the
form its authors published for ImageNet: four "mlpconv" blocks of one wide convolution and two of 1 x 1. Speed does not depend on
the values of weights, so they are random, from a seed.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Conv:
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Pool:
    kernel: int = 2
    stride: int = 2
    ceil: bool = False


@dataclass(frozen=True)
class Segment:
    """Layers up to a place where the style is read (its Gram matrix); `content` where the content is read as well."""

    layers: tuple[Conv | Pool, ...]
    content: bool = False


@dataclass(frozen=True)
class Layout:
    name: str
    segments: tuple[Segment, ...]

    def geometry(self) -> tuple[list[int], int]:
        """(px between neighbouring features at the end of each segment, px that a last feature sees: its receptive field)."""
        stride, sees, strides = 1, 1, []
        for segment in self.segments:
            for layer in segment.layers:
                sees += (layer.kernel - 1) * stride
                stride *= layer.stride
            strides.append(stride)
        return strides, sees

    def channels(self) -> list[int]:
        """Feature maps at the end of each segment."""
        return [[layer.outputs for layer in segment.layers if isinstance(layer, Conv)][-1] for segment in self.segments]


def _nin_block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, pooled: bool = True) -> Segment:
    pool = (Pool(3, 2, ceil=True),) if pooled else ()
    return Segment((*pool, Conv(inputs, outputs, kernel, stride, padding), *[Conv(outputs, outputs, 1, padding=0)] * 2))


VGG19 = Layout("vgg19", (
    Segment((Conv(3, 64),)),
    Segment((Conv(64, 64), Pool(), Conv(64, 128))),
    Segment((Conv(128, 128), Pool(), Conv(128, 256))),
    Segment((*[Conv(256, 256)] * 3, Pool(), Conv(256, 512))),
    Segment((Conv(512, 512),), content=True),
    Segment((*[Conv(512, 512)] * 2, Pool(), Conv(512, 512))),
))  # fmt: skip
NIN_CONTENT = _nin_block(256, 384, 3, padding=1)
NIN = Layout("nin", (
    _nin_block(3, 96, 11, stride=4, pooled=False),
    _nin_block(96, 256, 5, padding=2),
    Segment(NIN_CONTENT.layers, content=True),
    _nin_block(384, 1024, 3, padding=1),
))  # fmt: skip
LAYOUTS = {layout.name: layout for layout in (VGG19, NIN)}
Weights = list[list[tuple[Tensor, Tensor] | None]]


def random_weights(layout: Layout, device: torch.device | str, dtype: torch.dtype, seed: int = 0) -> Weights:
    """Kaiming-normal weights and zero biases, segment by segment; None where the layer is a pool."""
    source = torch.Generator().manual_seed(seed)
    found: Weights = []
    for segment in layout.segments:
        found.append([])
        for layer in segment.layers:
            if isinstance(layer, Pool):
                found[-1].append(None)
                continue
            shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
            weight = torch.empty(shape, device="cpu")
            torch.nn.init.kaiming_normal_(weight, generator=source)
            weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
            found[-1].append((weight, torch.zeros(layer.outputs, device=device, dtype=dtype)))
    return found


def run_segment(segment: Segment, weights: list[tuple[Tensor, Tensor] | None], features: Tensor) -> Tensor:
    """[B, C, h, w] to the features after the segment; every convolution is followed by a ReLU."""
    for layer, values in zip(segment.layers, weights, strict=True):
        if isinstance(layer, Pool):
            features = F.max_pool2d(features, layer.kernel, layer.stride, ceil_mode=layer.ceil)
        else:
            features = F.conv2d(features, *values, stride=layer.stride, padding=layer.padding).relu_()
    return features
