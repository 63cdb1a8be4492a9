"""Image optimisation is the same gradient in every way of bounding memory, and it optimises."""

from __future__ import annotations

import pytest
import torch
from hotpath.engine.probe.workloads import gatys, known
from hotpath.engine.probe.workloads.gatys import WAYS, ImageOptimisation, ways_by_memory, windows
from hotpath.engine.probe.workloads.networks import LAYOUTS, NIN, VGG19, Layout, random_weights, run_segment
from hotpath.engine.probe.workloads.workload import Point, TooLarge

FLOAT = torch.float32


def gradient(layout: Layout, side: int, way: str, tile: int = 48) -> tuple[float, torch.Tensor, int]:
    job = ImageOptimisation(layout, side, 1, "cpu", FLOAT, way, tile)
    loss = job.gradient()
    return float(loss), job.picture.grad, len(job.tiles)


@pytest.mark.parametrize(
    ("layout", "side"), [(VGG19, 64), (VGG19, 75), (NIN, 64), (NIN, 131)], ids=lambda v: getattr(v, "name", v)
)
def test_every_way_gives_the_same_gradient(layout: Layout, side: int) -> None:
    (loss, whole, one), *others = (gradient(layout, side, way) for way in WAYS)
    assert one == 1
    assert others[1][2] >= 4, "this is about tiles"
    assert whole.abs().max() > 0
    for other_loss, other, _ in others:
        assert other_loss == pytest.approx(loss, rel=1e-4)
        assert (other - whole).abs().max() < 1e-4 * whole.abs().max()


def test_many_pixels_do_not_pass_what_float16_holds() -> None:
    features = torch.rand(1, 8, 400, 400, generator=torch.Generator().manual_seed(0))
    wanted = gatys.gram(features)
    assert wanted.max() > 50_000
    found = gatys.gram(features.half() * 4) / 16
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0)


def test_tiles_own_each_feature_once() -> None:
    for side, stride in ((100, 16), (131, 32), (64, 8)):
        tiles = windows(side, 48, 70, 32)
        features = -(-side // stride)
        seen = [0] * features
        for tile in tiles:
            count = -(-tile.high // stride) - tile.low // stride
            for index in range(count)[tile.owned(stride, side)]:
                seen[tile.low // stride + index] += 1
        assert seen == [1] * features


def test_an_iteration_lowers_the_loss() -> None:
    job = ImageOptimisation(NIN, 64, 2, "cpu", FLOAT, "whole")
    losses = [float(job.step()) for _ in range(6)]
    assert losses[-1] < 0.7 * losses[0]


def test_networks_are_as_published() -> None:
    assert VGG19.geometry()[0] == [1, 2, 4, 8, 8, 16]
    assert NIN.geometry()[0] == [4, 8, 16, 32]
    weights = {name: random_weights(layout, "cpu", FLOAT) for name, layout in LAYOUTS.items()}
    count = {
        name: sum(pair[0].numel() + pair[1].numel() for segment in found for pair in segment if pair)
        for name, found in weights.items()
    }
    # VGG-19 has 20 024 384 in its convolutions, of which conv5_2 to conv5_4 (3 x 2 359 808) come after the last style layer
    assert count["vgg19"] == 20_024_384 - 3 * 2_359_808
    # the authors' ImageNet model ends in a 1 x 1 convolution to 1000 classes; here that one stays at 1024 maps
    assert count["nin"] == 7_595_176 + 24 * 1024 + 24
    features = torch.zeros(1, 3, 224, 224)
    for segment, values in zip(NIN.segments, weights["nin"], strict=True):
        features = run_segment(segment, values, features)
    assert features.shape == (1, 1024, 6, 6)


def test_ways_are_chosen_by_memory_and_the_limit_is_said() -> None:
    needs = dict(ways_by_memory(VGG19, 2048, 1, FLOAT))
    assert list(needs) == list(WAYS)
    assert needs["tiles"] < needs["checkpoint"] / 3 < needs["whole"] / 3
    assert dict(ways_by_memory(VGG19, 4096, 1, FLOAT))["tiles"] < 2 * needs["tiles"], "tiles bound it"
    point = Point("vgg19", 64, 1, "cpu", "auto")
    assert "tiles" not in known.image_optimisation(point, 2**34).note
    with pytest.raises(TooLarge, match=r"vgg19 at 64 px, even in checkpoint, needs about 0\.\d GiB and 0\.0 GiB are free"):
        known.image_optimisation(point, 2**20)


def test_the_counted_memory_is_what_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from hotpath.engine.probe.memory import Watch

    needed = dict(ways_by_memory(NIN, 512, 1, FLOAT))["whole"] / 2**20
    watch = Watch(torch.device("cpu"))
    job = ImageOptimisation(NIN, 512, 1, "cpu", FLOAT, "whole")
    job.step()
    taken = watch.report().get("host_peak_growth_mib")
    if taken is None:
        pytest.skip("this system does not tell the peak of a process")
    assert taken < needed * known.LIBRARY_SHARE + 120
    assert gatys.TILE_PX == 512
