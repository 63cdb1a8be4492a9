"""The E2GAN generator (Gong et al., ICML 2024, arXiv 2401.06127), one small image-to-image network.

Block order as in the paper's figure: Downsample, RB, RB, DS, TB, US, RB, Upsample. The paper prints neither widths nor norms;
those choices are ours, made by measuring (see benchmarks/LOG.md):

* Stem: space-to-depth by 2, so nothing runs at full resolution. Half resolution with 64 channels holds more than the 12
  numbers it came from, and the convolutions at full resolution were two thirds of the time.
* Skips: the maps at 1/2 and 1/4 of the side are added to the upsampled ones. The figure has residual arrows around the ResNet
  blocks only; the two additions cost nothing and keep edges that the 1/8 map cannot hold.
* Upsampling: nearest, then 3 x 3. Every output pixel receives the same number of products (no checkerboard), and the
  weights are plain convolutions, which peft can adapt (it cannot adapt transposed ones).
* Norm: instance norm (`kernels/instance_norm`) before the transformer block and inside the ResNet blocks, none on the way up: a norm there
  takes out the mean of each channel, and with it what the text says (a base trained so ignored its prompt).
* Transformer block at 1/16 of the picture's side with one head (softmax cost grows with heads); self-attention reads keys and
  values from a summary of at most 16 x 16 cells, so its cost grows with pixels, never with their square.
* Text: cross-attention to `context` [B, T, text_width]; its keys and values depend on the concept alone and can be
  computed once (`context_kv`).
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.instance_norm import instance_norm

ContextKV = tuple[Tensor, Tensor]  # keys and values, each [B, T, C]


@dataclass(frozen=True)
class Architecture:
    """Shape of a generator; stored in every base file."""

    stem_width: int = 64
    down1_width: int = 128
    width: int = 256
    heads: int = 1
    text_width: int = 384
    text_tokens: int = 16
    summary_cells: int = 16

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return 16

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class ChannelNorm(nn.Module):
    """Instance norm with scale and shift over [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return instance_norm(x, self.weight, self.bias)


class ResNetBlock(nn.Module):
    """RB: x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int, ops) -> None:
        super().__init__()
        self.conv1 = ops.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = ops.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))


class Down(nn.Module):
    """Convolution, norm if asked for, ReLU: the stem and every halving of the resolution."""

    def __init__(self, channels: int, out: int, ops, *, stride: int = 2, norm: bool = False) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, out, 3, stride=stride, padding=1, bias=not norm)
        self.norm = ChannelNorm(out) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Up(nn.Module):
    """Nearest upsampling, convolution, plus the encoder's map of that resolution, ReLU."""

    def __init__(self, channels: int, out: int, ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, out, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=2))
        return F.relu(x if skip is None else x + skip)


class TransformerBlock(nn.Module):
    """TB: self-attention, cross-attention to the text context, feed-forward; tokens are the cells of the map."""

    def __init__(self, channels: int, heads: int, text_width: int, summary_cells: int, ops) -> None:
        super().__init__()
        self.heads, self.summary_cells = heads, summary_cells
        self.norm1 = ops.LayerNorm(channels)
        self.to_q, self.to_k, self.to_v, self.to_out = (ops.Linear(channels, channels) for _ in range(4))
        self.norm2 = ops.LayerNorm(channels)
        self.text_q, self.text_out = (ops.Linear(channels, channels) for _ in range(2))
        self.text_k, self.text_v = (ops.Linear(text_width, channels) for _ in range(2))
        self.norm3 = ops.LayerNorm(channels)
        self.ff_in, self.ff_out = ops.Linear(channels, 4 * channels), ops.Linear(4 * channels, channels)

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # [B, heads, N, C / heads]
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def summary(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Mean-pool [B, H * W, C] to at most summary_cells x summary_cells tokens."""
        cells = min(height, self.summary_cells), min(width, self.summary_cells)
        if cells == (height, width):
            return tokens
        grid = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(grid, cells).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, text: ContextKV) -> Tensor:
        height, width = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H * W, C]
        normed = self.norm1(tokens)
        few = self.summary(normed, height, width)
        tokens = tokens + self.to_out(self.attention(self.to_q(normed), self.to_k(few), self.to_v(few)))
        tokens = tokens + self.text_out(self.attention(self.text_q(self.norm2(tokens)), *text))
        tokens = tokens + self.ff_out(F.gelu(self.ff_in(self.norm3(tokens))))
        return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class Generator(nn.Module):
    """RGB [B, 3, H, W] in -1..1 and a text context [B, T, text_width] to RGB in -1..1; H and W multiples of 16.

    `ops` supplies Conv2d, Linear and LayerNorm; a host with its own memory management passes its own.
    """

    def __init__(self, architecture: Architecture | None = None, ops=nn) -> None:
        super().__init__()
        self.architecture = a = architecture or Architecture()

        self.stem = Down(12, a.stem_width, ops, stride=1)  # H/2, after space-to-depth
        self.down1 = Down(a.stem_width, a.down1_width, ops)  # H/4
        self.down2 = Down(a.down1_width, a.width, ops, norm=True)  # H/8
        self.res1 = ResNetBlock(a.width, ops)
        self.res2 = ResNetBlock(a.width, ops)
        self.ds = Down(a.width, a.width, ops, norm=True)  # H/16
        self.transformer = TransformerBlock(a.width, a.heads, a.text_width, a.summary_cells, ops)
        self.us = Up(a.width, a.width, ops)  # H/8
        self.res3 = ResNetBlock(a.width, ops)
        self.up1 = Up(a.width, a.down1_width, ops)  # H/4
        self.up2 = Up(a.down1_width, a.stem_width, ops)  # H/2
        self.head = ops.Conv2d(a.stem_width, 12, 3, padding=1)

    def context_kv(self, context: Tensor) -> ContextKV:
        """Keys and values of the cross-attention, computed once per concept."""
        return self.transformer.text_k(context), self.transformer.text_v(context)

    def forward(self, image: Tensor, context: Tensor | None = None, text: ContextKV | None = None) -> Tensor:
        text = text if text is not None else self.context_kv(context)
        half = self.stem(F.pixel_unshuffle(image, 2))
        quarter = self.down1(half)
        x = self.res2(self.res1(self.down2(quarter)))
        x = self.us(self.transformer(self.ds(x), text))
        x = self.up2(self.up1(self.res3(x), quarter), half)
        return torch.tanh(F.pixel_shuffle(self.head(x), 2))


def initialise(generator: Generator, seed: int) -> Generator:
    """Start values: the network leaves a picture nearly as it is, and everything deeper adds a little.

    He's values for convolutions and 1 / fan-in for linear layers; then the picture's 12 numbers pass through the stem as 12
    positive and 12 negative parts, over the skip, and are put together again in the head.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                gain = 2.0 if isinstance(module, nn.Conv2d) else 1.0
                scale = math.sqrt(gain / module.weight[0].numel())
                module.weight.copy_(torch.randn(module.weight.shape, generator=random) * scale)
                if module.bias is not None:
                    module.bias.zero_()
        signs = torch.cat([torch.eye(12), -torch.eye(12)])  # [24, 12]
        generator.stem.conv.weight[:24] = 0
        generator.stem.conv.weight[:24, :, 1, 1] = signs
        generator.up2.conv.weight.mul_(0.5)
        generator.transformer.text_v.weight.mul_(3)  # the mean of 16 tokens is short
        generator.head.weight.mul_(0.1)
        generator.head.weight[:, :24] = 0
        generator.head.weight[:, :24, 1, 1] = signs.T
    return generator
