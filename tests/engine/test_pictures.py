"""Pictures around a network: range, scale, and an edit laid over the original."""

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.engine.pictures import check_mask, composite, out_of_range, scaled_to
from hotpath.tests.testing import pictures, random
from torch import Tensor


def image(count: int = 2, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(count, 6, 8, channels, generator=random(seed))


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (0.0, 1.25), (-0.5, 1.25)])
def test_values_outside_are_told(low: float, high: float) -> None:
    sentence = out_of_range(torch.tensor([low, high]))
    assert f"got {low:.2f} to {high:.2f}" in sentence
    assert "clamped" in sentence


@pytest.mark.parametrize("picture", [torch.tensor([0.0, 1.0]), torch.zeros(0, 4, 4, 3)], ids=["inside", "empty"])
def test_values_inside_are_not(picture: Tensor) -> None:
    assert out_of_range(picture) is None


@pytest.mark.parametrize(
    ("size", "expected"), [((20, 40), (32, 64)), ((40, 20), (64, 32)), ((1, 500), (1, 64)), ((9, 9), (64, 64))]
)
def test_the_longer_side_is_as_asked(size: tuple[int, int], expected: tuple[int, int]) -> None:
    scaled = scaled_to(pictures(2, *size), 64)
    assert scaled.shape == (2, 3, *expected)
    assert scaled.abs().max() <= 1


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("mix", [0.0, 0.25, 1.0])
def test_mix_and_alpha(channels: int, mix: float) -> None:
    before, edited = image(channels=channels), image(seed=1)
    result = composite(before, edited, mix, None)
    assert result.shape == before.shape
    torch.testing.assert_close(result[..., :3], before[..., :3] * (1 - mix) + edited * mix)
    assert torch.equal(result[..., 3:], before[..., 3:])
    if mix in (0.0, 1.0):
        assert torch.equal(result[..., :3], edited if mix else before[..., :3]), "the ends are exact"


@pytest.mark.parametrize("mask", [torch.ones(1, 6, 8), torch.ones(2, 3, 4), torch.ones(6, 8), torch.full((1, 6, 8), 7.0)])
def test_a_white_mask_is_no_mask(mask: Tensor) -> None:
    before, edited = image(), image(seed=1)
    torch.testing.assert_close(composite(before, edited, 0.7, mask), composite(before, edited, 0.7, None))
    assert torch.equal(composite(before, edited, 0.7, mask * 0), before)


def test_each_picture_has_its_mask() -> None:
    before, edited = image(), image(seed=1)
    result = composite(before, edited, 1.0, torch.stack([torch.zeros(6, 8), torch.ones(6, 8)]))
    torch.testing.assert_close(result, torch.stack([before[0], edited[1]]))


def test_a_mask_is_scaled_to_the_picture() -> None:
    result = composite(torch.zeros(1, 8, 8, 3), torch.ones(1, 8, 8, 3), 1.0, torch.tensor([[[0.0, 1.0]]]))
    assert (result[:, :, :2] == 0).all()
    assert (result[:, :, 6:] == 1).all()


def test_another_count_of_masks_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"1 mask or one for each of the 2 pictures, got 3"):
        composite(image(), image(seed=1), 1.0, torch.ones(3, 6, 8))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(3, 6, 8), "1 mask or one for each of the 2 pictures, got 3"),
        (torch.full((2, 6, 8), float("nan")), "mask holds values that are not finite"),
        (torch.ones(2, 0, 8), "at least 1 x 1 px"),
        (torch.ones(8), "at least 1 x 1 px"),
    ],
)
def test_masks_that_cannot_be_used(mask: torch.Tensor, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_mask(mask, 2)


def test_a_mask_of_one_picture_has_a_batch_of_its_own() -> None:
    assert check_mask(torch.ones(6, 8), 2).shape == (1, 6, 8)
    assert check_mask(torch.ones(2, 1, 6, 8), 2).shape == (2, 6, 8)


def test_nothing_given_is_changed() -> None:
    before, edited, mask = image(channels=4) * 2 - 0.5, image(seed=1), torch.rand(1, 6, 8) * 2
    copies = [tensor.clone() for tensor in (before, edited, mask)]
    composite(before, edited, 0.5, mask)
    assert all(torch.equal(*pair) for pair in zip((before, edited, mask), copies, strict=True))
