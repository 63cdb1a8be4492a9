"""Padding to multiples, and tiles that cover a picture and blend without a trace."""

import itertools

import pytest
import torch
from hotpath.engine.e2gan.tiling import pad_to_multiple, tile_starts, tiled
from hotpath.tests.testing import pictures
from torch import Tensor

LAYOUTS = [(1536, 128), (768, 128), (384, 128), (256, 128), (128, 64), (64, 32)]


@pytest.mark.parametrize(
    ("size", "padded", "margin"),
    [
        ((1, 1), (32, 32), 0),
        ((16, 16), (32, 32), 0),
        ((32, 48), (32, 48), 0),
        ((33, 47), (48, 48), 0),
        ((3, 500), (32, 512), 0),
        ((1, 1), (32, 32), 8),
        ((32, 48), (48, 64), 8),
        ((33, 47), (64, 64), 8),
        ((7, 500), (32, 528), 8),
    ],
)
def test_padding(size: tuple[int, int], padded: tuple[int, int], margin: int) -> None:
    image = pictures(2, *size)
    result = pad_to_multiple(image, 16, margin)
    assert result.shape[2:] == padded
    assert torch.equal(result[:, :, margin : margin + size[0], margin : margin + size[1]], image)
    low, high = image.amin((2, 3)), image.amax((2, 3))
    assert torch.equal(result.amin((2, 3)), low), "new pixels repeat old ones"
    assert torch.equal(result.amax((2, 3)), high)


def test_padding_mirrors_where_the_picture_is_large_enough() -> None:
    image = torch.arange(40.0).expand(1, 3, 40, 40).clone()
    assert pad_to_multiple(image, 16, 0)[0, 0, 0, 40:].tolist() == [38, 37, 36, 35, 34, 33, 32, 31]
    row = pad_to_multiple(image, 16, 4)[0, 0, 4].tolist()
    assert (row[:5], row[43:]) == ([4, 3, 2, 1, 0], [39, 38, 37, 36, 35])


@pytest.mark.parametrize(("tile", "overlap"), LAYOUTS)
def test_starts_cover_the_side(tile: int, overlap: int) -> None:
    for length in range(16, 5 * tile, 16):
        starts = tile_starts(length, tile, overlap)
        assert starts[0] == 0
        assert max(starts[-1] + tile, tile) >= length
        if length <= tile:
            assert starts == [0]
            continue
        assert starts[-1] + tile == length
        assert not any(start % 16 for start in starts)
        for here, there in itertools.pairwise(starts):
            assert here < there <= here + tile - overlap, (length, starts)


@pytest.mark.parametrize("size", [(64, 64), (32, 400), (400, 32), (208, 304), (128, 144)])
@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (64, 32), (96, 16)])
def test_tiles_of_the_identity_give_the_picture(size: tuple[int, int], tile: int, overlap: int) -> None:
    image, seen = pictures(2, *size), []

    def identity(part: Tensor) -> Tensor:
        seen.append(max(part.shape[2:]))
        return part

    torch.testing.assert_close(tiled(identity, image, tile, overlap), image, rtol=0, atol=1e-6)
    assert max(seen) <= tile


def test_seams_fade() -> None:
    """Two tiles that disagree by 1 meet in a ramp of steps no larger than 1 / overlap."""
    values = iter((0.0, 1.0))
    result = tiled(lambda part: torch.full_like(part, next(values)), torch.zeros(1, 3, 32, 96), 64, 32)
    row = result[0, 0, 0]
    assert (row[0], row[-1]) == (0, 1)
    steps = row.diff()
    assert steps.min() >= -1e-6
    assert steps.max() < 1.5 / 32
