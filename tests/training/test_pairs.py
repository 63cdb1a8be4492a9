"""Pairs of pictures: what is refused and how, squares, and folders that grow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.errors import InvalidInput, NotWritten
from hotpath.tests.testing import random
from hotpath.training import pairs as pairs_module
from hotpath.training.pairs import Pair, PairSet, is_pair_folder, load_folder, save_folder, square
from PIL import Image


def picture(seed: int, height: int = 80, width: int = 64) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=random(seed))


def some(count: int, first: int = 0) -> PairSet:
    return PairSet(prompt="negative").plus(((f"pair {i}", picture(i), 1 - picture(i)) for i in range(first, first + count)), 64)


def test_a_pair_keeps_before_and_after_in_place() -> None:
    pairs = some(2)
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


def test_a_folder_grows_and_gives_back_the_same_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "negatives"
    assert save_folder(some(2), folder) == 2
    both = load_folder(folder, 64).plus(((f"late {i}", picture(i), 1 - picture(i)) for i in range(1, 4)), 64)
    assert len(both.refused) == 1, "pair 1 is there already"
    assert save_folder(both, folder) == 2
    loaded = load_folder(folder, 64)
    assert loaded.fingerprint == both.fingerprint
    assert loaded.prompt == "negative"
    assert (folder / "pair_0.txt").read_text(encoding="utf-8") == "negative\n"
    assert not list(folder.glob("*.part"))


def test_two_pairs_of_one_name_from_two_runs_are_both_kept(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_folder(PairSet().plus([("pair_0001", picture(seed), picture(seed + 5))], 64), tmp_path)
    assert [pair.name for pair in load_folder(tmp_path, 64).pairs] == ["pair_0001", "pair_0001_2"]


def test_a_folder_of_another_side_is_not_mixed(tmp_path: Path) -> None:
    save_folder(some(1), tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="Expected pairs of 64 px"):
        save_folder(PairSet().plus([("large", picture(5), picture(6))], 128), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_folders_of_before_and_after_are_read(tmp_path: Path) -> None:
    for kind, seed in (("before", 0), ("after", 1)):
        (tmp_path / kind).mkdir()
        pixels = (picture(seed).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / kind / ("cat.png" if kind == "after" else "cat.webp"), lossless=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "before" / "alone.png")
    pairs = load_folder(tmp_path, 64)
    assert is_pair_folder(tmp_path)
    assert [pair.name for pair in pairs.pairs] == ["cat"]
    torch.testing.assert_close(pairs.after[0].float(), (picture(1)[8:72] * 255).floor(), atol=1, rtol=0)


def test_a_folder_without_pairs_gets_a_sentence(tmp_path: Path) -> None:
    assert not is_pair_folder(tmp_path)
    with pytest.raises(InvalidInput, match="found none"):
        load_folder(tmp_path, 64)


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save_folder(some(1), tmp_path)
    (tmp_path / "pair_0_after.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"pair_0_after\.png cannot be read"):
        load_folder(tmp_path, 64)


def two_folders(folder: Path, before: Image.Image, after: Image.Image, **options: object) -> PairSet:
    """The pair of two pictures as files in before/ and after/; `options` are for saving the first."""
    for kind, picture_, more in (("before", before, options), ("after", after, {})):
        (folder / kind).mkdir()
        picture_.save(folder / kind / "x.png", **more)
    return load_folder(folder, 64)


def test_a_camera_held_upside_down_makes_no_difference(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 255
    turned = Image.Exif()
    turned[0x0112] = 3
    pairs = two_folders(tmp_path, Image.fromarray(pixels[::-1].copy()), Image.fromarray(pixels), exif=turned)
    assert torch.equal(pairs.before, pairs.after)


def test_grey_of_16_bits_keeps_its_levels(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((64, 64), 30000, np.uint16))
    pairs = two_folders(tmp_path, deep, Image.new("RGB", (64, 64), (117, 117, 117)))
    assert torch.equal(pairs.before, pairs.after)


def test_a_picture_deleted_by_hand_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    save_folder(some(3), tmp_path)
    (tmp_path / "pair_1_before.png").unlink()
    pairs = load_folder(tmp_path, 64)
    assert [pair.name for pair in pairs.pairs] == ["pair_0", "pair_2"]
    assert pairs.refused == (f"pair_1: pair_1_before.png is missing in {tmp_path.name}.",)
    assert save_folder(some(3), tmp_path) == 1, "and can be saved again"
    assert len(load_folder(tmp_path, 64)) == 3


def test_pairs_without_a_prompt_leave_the_folder_its_own(tmp_path: Path) -> None:
    save_folder(some(1), tmp_path)
    save_folder(PairSet().plus([("new", picture(8), picture(9))], 64), tmp_path)
    assert load_folder(tmp_path, 64).prompt == "negative"
    assert (tmp_path / "new.txt").read_text(encoding="utf-8") == "negative\n"


def test_a_stop_between_pictures_and_list_loses_nothing(tmp_path: Path) -> None:
    save_folder(some(1), tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "half_before.png")  # as if killed before the list was written
    assert len(load_folder(tmp_path, 64)) == 1
    assert list(json.loads((tmp_path / "pairs.json").read_text())["pairs"]) == ["pair_0"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"side": 64}', '{"prompt": "x", "side": 64, "pairs": [1]}'])
def test_a_damaged_list_gets_a_sentence(tmp_path: Path, content: str) -> None:
    save_folder(some(2), tmp_path)
    (tmp_path / "pairs.json").write_text(content, encoding="utf-8")
    for attempt in (lambda: load_folder(tmp_path, 64), lambda: save_folder(some(2), tmp_path)):
        with pytest.raises(InvalidInput, match=r"pairs\.json, but it is damaged"):
            attempt()


def test_a_full_disk_gets_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(some(2), tmp_path)
    before = (tmp_path / "pairs.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(NotWritten, match="No space left on device"):
        save_folder(some(2, 5), tmp_path)
    assert (tmp_path / "pairs.json").read_bytes() == before
