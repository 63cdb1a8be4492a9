"""Choosing pairs: one from each group of similar pictures, the same ones for the same seed."""

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.tests.testing import ROOT, random
from hotpath.training import perceptual
from hotpath.training.selection import features, nearest_to_centres


def groups(count: int, each: int) -> torch.Tensor:
    centres = torch.randn(count, 16, generator=random(0)) * 10
    return (centres[:, None] + torch.randn(count, each, 16, generator=random(1)) * 0.1).flatten(0, 1)


def test_one_of_each_group_is_kept() -> None:
    kept = nearest_to_centres(groups(5, 7), 5, seed=0)
    assert [index // 7 for index in kept] == [0, 1, 2, 3, 4]


def test_the_kept_one_is_nearest_to_the_centre() -> None:
    vectors = groups(1, 50)
    (kept,) = nearest_to_centres(vectors, 1, seed=0)
    assert kept == int((vectors - vectors.mean(0)).square().sum(1).argmin())


@pytest.mark.parametrize("count", [1, 3, 20, 34, 35])
def test_exactly_as_many_as_asked_and_none_twice(count: int) -> None:
    kept = nearest_to_centres(groups(5, 7), count, seed=3)
    assert kept == sorted(set(kept))
    assert len(kept) == count
    assert kept == nearest_to_centres(groups(5, 7), count, seed=3)


def test_equal_pictures_still_give_as_many_as_asked() -> None:
    assert len(nearest_to_centres(torch.ones(6, 4), 4, seed=0)) == 4


@pytest.mark.parametrize("count", [0, 36])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 35"):
        nearest_to_centres(groups(5, 7), count, seed=0)


def test_features_tell_smooth_from_rough_pictures() -> None:
    lpips = perceptual.load(ROOT / "models" / "training" / "perceptual_vgg16.safetensors")
    rough = torch.randint(0, 256, (4, 64, 64, 3), generator=random(0), dtype=torch.uint8)
    smooth = torch.arange(0, 256, 4, dtype=torch.uint8).view(1, 64, 1, 1).expand(4, 64, 64, 3)
    vectors = features(lpips, torch.cat([rough, smooth]))
    likeness = vectors @ vectors.T
    assert likeness[:4, :4].min() > likeness[:4, 4:].max()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))
