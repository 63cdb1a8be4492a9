"""Image optimisation after Gatys, Ecker and Bethge (arXiv 1508.06576), bounded in memory at any size.

One iteration: the loss of a picture against a style (Gram matrices) and a content, its gradient in the pixels, a step of Adam.
Three ways lead to the same gradient. "whole" keeps every map for the backward pass. "checkpoint" keeps those between segments and
makes the others again. "tiles" needs memory for one tile: a first pass over tiles sums the Gram matrices without gradients; the
loss then depends on each tile through its own share of the sum only, so a second pass takes the gradient tile by tile. Tiles
overlap by what the last feature sees, and each feature counts in one tile, so nothing is approximated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..memory import peak_bytes
from .networks import Layout, Weights, random_weights, run_segment

WAYS = ("whole", "checkpoint", "tiles")
TILE_PX = 512
STYLE_WEIGHT, LEARNING_RATE = 1e3, 0.02


def smallest_side(layout: Layout) -> int:
    """Shortest side in px from which every layer has something to see."""
    return 32 if layout.name == "vgg19" else 64


@dataclass(frozen=True)
class Window:
    """A tile along one side: it owns the pixels start..end and sees low..high around them."""

    start: int
    end: int
    low: int
    high: int

    def owned(self, stride: int, total: int) -> slice:
        """Indices, in the features of what the tile sees, of those that lie on pixels it owns; the last tile takes the rest."""
        first = -(-self.start // stride) - self.low // stride
        return slice(first, None if self.end >= total else -(-self.end // stride) - self.low // stride)


def windows(side: int, tile: int, halo: int, multiple: int) -> list[Window]:
    """Tiles that cover `side` px; what each sees begins on a multiple of the coarsest stride, as the whole picture does."""
    tile, halo = max(multiple, tile // multiple * multiple), -(-halo // multiple) * multiple
    return [
        Window(start, min(side, start + tile), max(0, start - halo), min(side, start + tile + halo))
        for start in range(0, side, tile)
    ]


def gram(features: Tensor) -> Tensor:
    """[B, C, h, w] to the sums of products of maps [B, C, C], float32 and not yet divided by the number of pixels."""
    flat = features.flatten(2)
    if flat.dtype is torch.float16:  # which ends at 65504, less than many pixels sum to
        pixels = flat.shape[2]
        flat = flat * pixels**-0.5
        return (flat @ flat.transpose(1, 2)).float() * pixels
    return (flat @ flat.transpose(1, 2)).float()


class ImageOptimisation:
    """A picture [B, 3, side, side] on its way to a style; `step` is one iteration. Needs autograd: call it outside inference mode."""

    def __init__(
        self, layout: Layout, side: int, batch: int, device: torch.device | str, dtype: torch.dtype, way: str, tile: int = TILE_PX
    ) -> None:
        self.layout, self.side, self.way, self.dtype = layout, side, way, dtype
        self.weights: Weights = random_weights(layout, device, dtype)
        strides, sees = layout.geometry()
        self.strides, multiple = strides, strides[-1]
        sides = windows(side, tile if way == "tiles" else side + multiple, sees, multiple)
        self.tiles = [(vertical, horizontal) for vertical in sides for horizontal in sides]
        content, style, start = (_picture(batch, side, seed).to(device) for seed in (1, 2, 3))
        with torch.no_grad():
            self.style = self._grams(style)
            self.content = self._content(content)
        self.picture = start.requires_grad_()
        self.optimiser = torch.optim.Adam([self.picture], lr=LEARNING_RATE)

    def step(self) -> Tensor:
        """One iteration; gives the loss as a tensor, which nobody has to wait for."""
        self.optimiser.zero_grad()
        loss = self.gradient()
        self.optimiser.step()
        return loss

    def gradient(self) -> Tensor:
        """The loss; its gradient is left in `picture.grad`."""
        if len(self.tiles) == 1:
            grams, content = self._forward(self.picture, self.tiles[0])
            loss = self._style_loss(grams) + self._content_loss(content, self.content)
            loss.backward()
            return loss.detach()
        with torch.no_grad():
            total = self._grams(self.picture.detach())
        for matrix in total:
            matrix.requires_grad_()
        loss = self._style_loss(total)
        slopes = torch.autograd.grad(loss, total)
        loss = loss.detach()
        for tile in self.tiles:
            grams, content = self._forward(self.picture, tile)
            share = self._content_loss(content, self._part(self.content, tile))
            pulled = sum((own * slope).sum() for own, slope in zip(grams, slopes, strict=True))
            (share + pulled).backward()
            loss += share.detach()
        return loss

    def _forward(self, picture: Tensor, tile: tuple[Window, Window]) -> tuple[list[Tensor], Tensor]:
        """Gram matrices of the features a tile owns, and its features of the content layer."""
        vertical, horizontal = tile
        part = picture[:, :, vertical.low : vertical.high, horizontal.low : horizontal.high]
        features = (part - 0.5).to(self.dtype).contiguous(memory_format=torch.channels_last)
        grams, content = [], features
        for segment, weights, stride in zip(self.layout.segments, self.weights, self.strides, strict=True):
            own = [window.owned(stride, self.side) for window in tile]

            def run(features: Tensor, segment=segment, weights=weights, own=own) -> tuple[Tensor, Tensor]:
                features = run_segment(segment, weights, features)
                return features, gram(features[:, :, own[0], own[1]])

            if self.way == "checkpoint":
                features, matrix = checkpoint(run, features, use_reentrant=False, preserve_rng_state=False)
            else:
                features, matrix = run(features)
            grams.append(matrix)
            if segment.content:
                content = features[:, :, own[0], own[1]]
        return grams, content

    def _grams(self, picture: Tensor) -> list[Tensor]:
        total: list[Tensor] = []
        for tile in self.tiles:
            grams, _ = self._forward(picture, tile)
            total = [before + new for before, new in zip(total, grams, strict=True)] if total else grams
        return total

    def _content(self, picture: Tensor) -> Tensor:
        rows: list[list[Tensor]] = []
        for vertical, horizontal in self.tiles:
            if horizontal.start == 0:
                rows.append([])
            rows[-1].append(self._forward(picture, (vertical, horizontal))[1])
        return torch.cat([torch.cat(row, 3) for row in rows], 2)

    def _part(self, content: Tensor, tile: tuple[Window, Window]) -> Tensor:
        """The content target under a tile."""
        stride = next(s for s, segment in zip(self.strides, self.layout.segments, strict=True) if segment.content)
        whole = [slice(-(-w.start // stride), None if w.end >= self.side else -(-w.end // stride)) for w in tile]
        return content[:, :, whole[0], whole[1]]

    def _style_loss(self, grams: list[Tensor]) -> Tensor:
        scales = [
            channels * (self.side / stride) ** 2 for channels, stride in zip(self.layout.channels(), self.strides, strict=True)
        ]
        terms = [F.mse_loss(own / scale, target / scale) for own, target, scale in zip(grams, self.style, scales, strict=True)]
        return STYLE_WEIGHT * sum(terms)

    def _content_loss(self, content: Tensor, target: Tensor) -> Tensor:
        return (content.float() - target.float()).square().sum() / self.content.numel()


def _picture(batch: int, side: int, seed: int) -> Tensor:
    """Smooth random pictures [B, 3, side, side] in 0..1."""
    coarse = torch.rand(batch, 3, 16, 16, device="cpu", generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (side, side), mode="bilinear")


def ways_by_memory(layout: Layout, side: int, batch: int, dtype: torch.dtype, tile: int = TILE_PX) -> Iterator[tuple[str, int]]:
    """(way, bytes one iteration takes at its highest), the fastest way first; counted without running it."""
    for way in WAYS if side > tile else WAYS[:2]:
        yield way, _bytes(layout, side, batch, dtype, way, tile)


def _bytes(layout: Layout, side: int, batch: int, dtype: torch.dtype, way: str, tile: int) -> int:
    """Storage alive at once in an iteration, by counting on the meta device. Of tiles one is counted, and what stays beside it."""
    strides, sees = layout.geometry()
    halo = -(-sees // strides[-1]) * strides[-1]
    counted = min(side, tile + 2 * halo) if way == "tiles" else side

    def one() -> None:
        with torch.inference_mode(False), torch.enable_grad():
            ImageOptimisation(layout, counted, batch, "meta", dtype, "whole" if way == "tiles" else way).gradient()

    content = next(c for c, segment in zip(layout.channels(), layout.segments, strict=True) if segment.content)
    stride = next(s for s, segment in zip(strides, layout.segments, strict=True) if segment.content)
    outside = batch * (side**2 - counted**2) * (3 * 4 * 4 + content * dtype.itemsize / stride**2)
    moments = 2 * batch * 3 * 4 * side**2  # Adam's
    return int(peak_bytes(one) + outside + moments)
