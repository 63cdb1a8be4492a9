"""Pairs of pictures: what is refused and how, and squares."""

import pytest
import torch
from hotpath.engine.errors import InvalidInput
from hotpath.tests.testing import random
from hotpath.training import pairs as pairs_module
from hotpath.training.pairs import Pair, PairSet, square


def picture(seed: int, height: int = 80, width: int = 64) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=random(seed))


def test_a_pair_keeps_before_and_after_in_place() -> None:
    pairs = PairSet().plus(((f"pair {i}", picture(i), 1 - picture(i)) for i in range(2)), 64)
    assert (pairs.before.shape, pairs.before.dtype) == ((2, 64, 64, 3), torch.uint8)
    expected = (picture(0)[8:72] * 255).round()  # 64 px wide already, so only cut around the centre
    torch.testing.assert_close(pairs.before[0].float(), expected, atol=0.5, rtol=0)
    assert (pairs.before.int() + pairs.after.int() - 255).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (640, 480), (64, 64)])
def test_any_size_becomes_a_square(height: int, width: int) -> None:
    flat = torch.full((height, width, 3), 0.25)
    assert torch.equal(square(flat, 64), torch.full((64, 64, 3), 64, dtype=torch.uint8))


def scaled_whole(picture_: torch.Tensor, side: int) -> torch.Tensor:
    """A square as if memory were free: the whole picture scaled, then cut."""
    height, width = picture_.shape[:2]
    size = [max(side, round(length * side / min(height, width))) for length in (height, width)]
    whole = torch.nn.functional.interpolate(picture_.permute(2, 0, 1)[None], size, mode="bicubic", antialias=True)[0]
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return (whole[:, top : top + side, left : left + side].permute(1, 2, 0).clamp(0, 1) * 255).round().byte()


@pytest.mark.parametrize(("height", "width"), [(80, 63), (97, 240), (50, 200), (301, 77), (40, 41)])
def test_ordinary_pictures_are_scaled_whole(height: int, width: int) -> None:
    assert torch.equal(square(picture(1, height, width), 64), scaled_whole(picture(1, height, width), 64))


@pytest.mark.parametrize(("height", "width"), [(3, 200), (1, 151), (2, 301), (400, 16), (31, 800), (130, 1100)])
def test_the_middle_of_a_thin_picture_stays_where_it_is(height: int, width: int) -> None:
    thin = picture(2, height, width)
    apart = (square(thin, 64).float() - scaled_whole(thin, 64).float()).abs()
    assert apart.max() <= 6, "levels of 255: the size of the whole is rounded a little differently"


@pytest.mark.parametrize(("height", "width", "side"), [(3, 5000, 256), (5000, 3, 256), (1, 3000, 512), (2, 5000, 1024)])
def test_thin_pictures_take_little_memory(monkeypatch: pytest.MonkeyPatch, height: int, width: int, side: int) -> None:
    sizes, scale = [], torch.nn.functional.interpolate
    monkeypatch.setattr(pairs_module.F, "interpolate", lambda chw, size, **how: sizes.append(size) or scale(chw, size, **how))
    assert square(torch.rand(height, width, 3), side).shape == (side, side, 3)
    ((tall, wide),) = sizes
    assert tall * wide <= 8 * side * side


def test_alpha_is_dropped_and_grey_is_repeated() -> None:
    rgba = torch.cat([picture(0), torch.zeros(80, 64, 1)], 2)
    assert torch.equal(square(rgba, 64), square(picture(0), 64))
    assert torch.equal(square(picture(0)[..., :1], 64)[..., 0], square(picture(0), 64)[..., 0])
    with pytest.raises(InvalidInput, match="Expected a picture"):
        square(picture(0)[..., :2], 64)


def test_bad_pairs_are_refused_by_name_and_the_others_kept() -> None:
    nan = picture(3)
    nan[0, 0, 0] = torch.nan
    candidates = [
        ("good", picture(0), picture(1)),
        ("small", picture(0, 10, 12), picture(1, 10, 13)),
        ("broken", nan, picture(1)),
        ("odd", picture(0)[..., :2], picture(1)),
        ("again", picture(0), picture(1)),
    ]
    pairs = PairSet().plus(candidates, 64)
    assert [pair.name for pair in pairs.pairs] == ["good"]
    small, broken, odd, again = pairs.refused
    assert small.startswith("small: before is 12 x 10 px, after 13 x 10 px")
    assert broken.startswith("broken:")
    assert odd == "odd: Expected a picture [H, W, 3], got [80, 64, 2]: make it an RGB picture."
    assert again == "again: the same pictures as good."


def test_the_same_before_with_another_after_is_another_pair() -> None:
    assert len(PairSet().plus([("a", picture(0), picture(1)), ("b", picture(0), picture(2))], 64)) == 2


def test_names_become_file_names() -> None:
    pairs = PairSet().plus(
        [("../a/b", picture(0), picture(1)), ("../a/b", picture(2), picture(1)), ("", picture(3), picture(1))], 64
    )
    assert [pair.name for pair in pairs.pairs] == ["a_b", "a_b_2", "pair"]


def test_names_of_any_script_fit_a_file_system() -> None:
    (pair,) = PairSet().plus([("\u540d" * 300, picture(0), picture(1))], 64).pairs
    assert pair.name == "\u540d" * 53
    assert len(f"{pair.name}_1000_before.png".encode()) <= 200


@pytest.mark.parametrize("side", [64, 128])
def test_pairs_of_another_side_are_scaled_to_the_one_asked_for(side: int) -> None:
    other = PairSet(prompt="negative").plus([("large", picture(8, 200, 200), picture(9, 200, 200))], 96)
    both = other.plus([("new", picture(0), picture(1))], side)
    assert both.before.shape == both.after.shape == (2, side, side, 3)
    assert torch.equal(both.before[0], square(other.before[0], side))
    assert torch.equal(both.after[0], square(other.after[0], side))
    assert other.before.shape == (1, 96, 96, 3), "what came in is left alone"


@pytest.mark.parametrize("side", [0, 63, 100, 1040])
def test_a_side_that_cannot_be_is_refused(side: int) -> None:
    with pytest.raises(InvalidInput, match="multiple of 16"):
        PairSet().plus([], side)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = torch.zeros(64, 64, 3, dtype=torch.uint8)
    monkeypatch.setattr(pairs_module, "MEMORY", 3 * 6 * 64 * 64)
    many = PairSet(tuple(Pair(str(index), stamp, stamp) for index in range(3)))
    with pytest.raises(InvalidInput, match="at most 3 pairs of 64 px"):
        many.plus([("one more", picture(0), picture(1))], 64)
    with pytest.raises(InvalidInput, match="at most 0 pairs of 128 px"):
        many.plus([], 128)
