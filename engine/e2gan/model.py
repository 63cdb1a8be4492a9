"""The E2GAN generator (Gong et al., ICML 2024, arXiv 2401.06127), one small image-to-image network.

Block order as in the paper's figure: Downsample, RB, RB, DS, TB, US, RB, Upsample. The paper prints neither widths nor norms;
those choices are ours, made by measuring (see benchmarks/LOG.md):

* Stem: space-to-depth by 2, so nothing runs at full resolution and every later map is half as wide and high: 20 ms instead of
  68 ms for 256 px. Half resolution with 64 channels holds more than the 12 numbers it came from. The head's depth-to-space
  starts with equal weights for the four pixels of a cell (ICNR, Aitken et al. 2017), or random ones would draw a 2 px grid.
* Skips: the maps at 1/2 and 1/4 of the side are added to the upsampled ones. The figure has residual arrows around the ResNet
  blocks only; the two additions cost nothing and keep edges that the 1/8 map cannot hold.
* Upsampling: nearest, then 3 x 3 (`kernels/upsample_conv`). Every pixel receives the same number of products (no checkerboard from
  here), and the weights are plain convolutions, which peft can adapt (it cannot adapt transposed ones).
* Norm: instance norm (`kernels/instance_norm_act`) everywhere but in the stem and the first downsampling, whose maps bring absolute
  colour to the way up over the skips. Without it there, one layer's outputs grew until ReLU held the next at zero for good.
* Transformer block at 1/16 of the picture's side with one head (softmax cost grows with heads); self-attention reads keys and
  values from a summary of at most 16 x 16 cells, so its cost grows with pixels, never with their square.
* Text: cross-attention in the transformer block as in the figure, and beside it a scale and a shift for the channels of each
  normed map and a scale for those of the skips, computed from the mean token (modulation as in GigaGAN; conditional instance norm,
  Dumoulin et al. 2017). With cross-attention alone the base ignored its prompt. All of it depends on the concept only and is computed once
  (`read`).
"""

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.arranged import conv2d, linear
from ...kernels.instance_norm_act import instance_norm_act
from ...kernels.upsample_conv import upsample_conv

Modulation = tuple[Tensor, Tensor]  # scale and shift of each channel, each [B, C]


class Text(NamedTuple):
    """What the network reads in a text context: keys and values [B, T, C], and the modulations [B, M]."""

    keys: Tensor
    values: Tensor
    modulations: Tensor


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
    modulation_width: int = 64

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or not 1 <= value <= 4096:
                raise ValueError(f"expected {name} to be a whole number from 1 to 4096, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"expected width {self.width} to be a multiple of the {self.heads} heads")

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return 16

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class Block(nn.Module):
    """Part of the network. wrapped: an adapter may stand around its layers, so that they must be called; see Generator.unwrapped."""

    wrapped = True

    def convolved(self, layer: nn.Module, x: Tensor, *, relu: bool = False) -> Tensor:
        if not self.wrapped:
            return conv2d(x, layer.weight, layer.bias, stride=layer.stride[0], padding=layer.padding[0], relu=relu)
        return F.relu(layer(x), inplace=True) if relu else layer(x)

    def multiplied(self, layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
        if not self.wrapped:
            return linear(x, layer.weight, layer.bias, gelu=gelu)
        return F.gelu(layer(x)) if gelu else layer(x)


class ResNetBlock(Block):
    """RB: x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int, ops) -> None:
        super().__init__()
        self.conv1 = ops.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = ops.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, first: Modulation, second: Modulation) -> Tensor:
        y = instance_norm_act(self.convolved(self.conv1, x), *first)
        return instance_norm_act(self.convolved(self.conv2, y), *second, relu=False, residual=x)


class Down(Block):
    """Convolution, norm if modulated, ReLU: the stem and every halving of the resolution."""

    def __init__(self, channels: int, out: int, ops, *, stride: int = 2, bias: bool = False) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, out, 3, stride=stride, padding=1, bias=bias)

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        if modulation is None:
            return self.convolved(self.conv, x, relu=True)
        return instance_norm_act(self.convolved(self.conv, x), *modulation)


class Up(Block):
    """Nearest upsampling, convolution, modulated norm, plus the scaled encoder's map of that resolution, ReLU."""

    def __init__(self, channels: int, out: int, ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, out, 3, padding=1, bias=False)

    def forward(self, x: Tensor, modulation: Modulation, skip: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
        x = self.conv(F.interpolate(x, scale_factor=2)) if self.wrapped else upsample_conv(x, self.conv.weight)
        return instance_norm_act(x, *modulation, residual=skip, gain=gain)


class TextModulation(nn.Module):
    """The mean token of a text context [B, T, W] to `numbers` numbers, [B, numbers]."""

    def __init__(self, text_width: int, hidden: int, numbers: int, ops) -> None:
        super().__init__()
        self.inner, self.outer = ops.Linear(text_width, hidden), ops.Linear(hidden, numbers)

    def forward(self, context: Tensor) -> Tensor:
        return self.outer(F.silu(self.inner(context.mean(1))))


class TransformerBlock(Block):
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
        k, v = (t.expand(len(q), -1, -1, -1) for t in (k, v))  # one text may serve the whole batch
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def summary(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Mean-pool [B, H * W, C] to at most summary_cells x summary_cells tokens."""
        cells = min(height, self.summary_cells), min(width, self.summary_cells)
        if cells == (height, width):
            return tokens
        grid = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return F.adaptive_avg_pool2d(grid, cells).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, H * W, C]
        normed = self.norm1(tokens)
        few = self.summary(normed, height, width)
        run = self.multiplied
        tokens = tokens + run(self.to_out, self.attention(run(self.to_q, normed), run(self.to_k, few), run(self.to_v, few)))
        tokens = tokens + run(self.text_out, self.attention(run(self.text_q, self.norm2(tokens)), keys, values))
        tokens = tokens + run(self.ff_out, run(self.ff_in, self.norm3(tokens), gelu=True))
        return tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)


class Generator(Block):
    """RGB [B, 3, H, W] in -1..1 and a text context [B, T, text_width] to RGB in -1..1; H and W multiples of 16.

    `ops` supplies Conv2d, Linear and LayerNorm; a host with its own memory management passes its own.
    """

    def __init__(self, architecture: Architecture | None = None, ops=nn) -> None:
        super().__init__()
        self.architecture = a = architecture or Architecture()

        self.stem = Down(12, a.stem_width, ops, stride=1, bias=True)  # H/2, after space-to-depth
        self.down1 = Down(a.stem_width, a.down1_width, ops, bias=True)  # H/4
        self.down2 = Down(a.down1_width, a.width, ops)  # H/8
        self.res1 = ResNetBlock(a.width, ops)
        self.res2 = ResNetBlock(a.width, ops)
        self.ds = Down(a.width, a.width, ops)  # H/16
        self.transformer = TransformerBlock(a.width, a.heads, a.text_width, a.summary_cells, ops)
        self.us = Up(a.width, a.width, ops)  # H/8
        self.res3 = ResNetBlock(a.width, ops)
        self.up1 = Up(a.width, a.down1_width, ops)  # H/4
        self.up2 = Up(a.down1_width, a.stem_width, ops)  # H/2
        self.head = ops.Conv2d(a.stem_width, 12, 3, padding=1)
        # Channels of each normed map, in the order of the forward pass (down2, res1, res2, ds, us, res3, up1, up2), then of the
        # two skips. The text sets a scale (around 1) for all of them and a shift for the normed ones.
        self.normed = (*[a.width] * 9, a.down1_width, a.stem_width)
        self.scaled = (*self.normed, a.down1_width, a.stem_width)
        self.modulation = TextModulation(a.text_width, a.modulation_width, sum(self.scaled + self.normed), ops)

    def unwrapped(self) -> "Generator":
        """Itself, with the promise that each layer's `weight` is all of it, so that kernels may use the weights alone."""
        for module in self.modules():
            if isinstance(module, Block):
                module.wrapped = False
        return self

    def read(self, context: Tensor) -> Text:
        """What depends on the text context [B, T, text_width] alone, computed once per concept."""
        block = self.transformer
        return Text(block.text_k(context), block.text_v(context), self.modulation(context))

    def attended(self, x: Tensor, text: Text) -> Tensor:
        """The transformer block's map. float16 ends at 65504: there the block may be in float32 as its keys are, and its map is
        brought to at most 32, since `us` makes it 650 times as large and its norm takes any scale out."""
        if x.dtype is not torch.float16:
            return self.transformer(x, text.keys, text.values)
        y = self.transformer(x.to(text.keys.dtype), text.keys, text.values)
        return (y / (y.abs().amax((1, 2, 3), keepdim=True) / 32).clamp(min=1)).to(x.dtype)

    def forward(self, image: Tensor, context: Tensor | None = None, text: Text | None = None) -> Tensor:
        text = text if text is not None else self.read(context)
        scales, shifts = text.modulations.split([sum(self.scaled), sum(self.normed)], 1)
        *scales, quarter_gain, half_gain = (1 + scales).split(self.scaled, 1)
        m = list(zip(scales, shifts.split(self.normed, 1), strict=True))
        half = self.stem(F.pixel_unshuffle(image, 2))
        quarter = self.down1(half)
        x = self.down2(quarter, m[0])
        x = self.res2(self.res1(x, m[1], m[2]), m[3], m[4])
        x = self.us(self.attended(self.ds(x, m[5]), text), m[6])
        x = self.up1(self.res3(x, m[7], m[8]), m[9], quarter, quarter_gain)
        x = self.up2(x, m[10], half, half_gain)
        return torch.tanh(F.pixel_shuffle(self.convolved(self.head, x), 2))


def initialise(generator: Generator, seed: int) -> Generator:
    """Start values: He's for convolutions, variance 1 / fan-in for linear layers, and a way through for the picture.

    Its 12 numbers pass the stem as 12 positive and 12 negative parts, go over the skip, and are put together again in the head.
    The maps that meet a skip are scaled by 0.2 at the start, all others by 1.
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
        generator.modulation.outer.weight.zero_()
        normed, meeting = sum(generator.normed), sum(generator.normed[-2:])  # up1 and up2 are the last two
        generator.modulation.outer.bias[normed - meeting : normed] = 0.2 - 1
        generator.transformer.text_v.weight.mul_(3)  # the mean of 16 tokens is short
        generator.head.weight.copy_(0.1 * generator.head.weight[::4].repeat_interleave(4, 0))
        generator.head.weight[:, :24] = 0
        generator.head.weight[:, :24, 1, 1] = signs.T
    return generator
