"""Folders of pairs: they grow, and whatever is wrong with them is said in a sentence."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.errors import InvalidInput, NotWritten
from hotpath.tests.testing import random
from hotpath.training import pair_folder
from hotpath.training.pair_folder import is_pair_folder, load_folder, save_folder, stored_pairs
from hotpath.training.pairs import PairSet
from PIL import Image


def picture(seed: int, height: int = 80, width: int = 64) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=random(seed))


def some(count: int, first: int = 0) -> PairSet:
    return PairSet(prompt="negative").plus(((f"pair {i}", picture(i), 1 - picture(i)) for i in range(first, first + count)), 64)


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
    (sentence,) = pairs.refused
    assert "without a partner of the same name in the other folder: 1, such as before/alone.png" in sentence
    torch.testing.assert_close(pairs.after[0].float(), (picture(1)[8:72] * 255).floor(), atol=1, rtol=0)


def test_a_folder_without_pairs_gets_a_sentence(tmp_path: Path) -> None:
    assert not is_pair_folder(tmp_path)
    with pytest.raises(InvalidInput, match=r"found none that can be used: check the folder\.$"):
        load_folder(tmp_path, 64)


def test_a_folder_whose_pairs_were_all_refused_says_why(tmp_path: Path) -> None:
    for kind, size in (("before", 64), ("after", 128)):
        (tmp_path / kind).mkdir()
        for name in "abcd":
            Image.new("RGB", (size, size)).save(tmp_path / kind / f"{name}.png")
    with pytest.raises(InvalidInput, match="found none that can be used: check") as caught:
        load_folder(tmp_path, 64)
    assert str(caught.value).count("before is 64 x 64 px, after 128 x 128 px; make both the same size") == 3, "the first of them"


def test_a_list_whose_pictures_are_gone_says_so_and_grows_again(tmp_path: Path) -> None:
    save_folder(some(2), tmp_path)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(InvalidInput, match=r"pair_0_before\.png and pair_0_after\.png is missing"):
        load_folder(tmp_path, 64)
    assert len(stored_pairs(tmp_path, 64).refused) == 2
    assert save_folder(some(2), tmp_path) == 2


def test_pictures_that_are_all_alone_are_counted(tmp_path: Path) -> None:
    for kind, name in (("before", "a"), ("after", "b")):
        (tmp_path / kind).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / kind / f"{name}.png")
    with pytest.raises(InvalidInput, match=r"in the other folder: 2, such as before/a\.png"):
        load_folder(tmp_path, 64)


def test_a_picture_too_large_to_open_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(some(1), tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InvalidInput, match=r"pair_0_before\.png cannot be read \(Image size"):
        load_folder(tmp_path, 64)


def short_header(png: bytes) -> bytes:
    """The same PNG with a header chunk of 4 bytes in place of 13, for which Pillow raises a ValueError."""
    chunk = b"IHDR" + png[16:20]
    return png[:8] + (4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + png[33:]


@pytest.mark.parametrize("damage", [lambda png: b"no picture", short_header], ids=["no picture", "short header"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    save_folder(some(1), tmp_path)
    path = tmp_path / "pair_0_after.png"
    path.write_bytes(damage(path.read_bytes()))
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("room", [0, 1, 2, 3])
@pytest.mark.parametrize("there", [True, False], ids=["folder", "no folder"])
def test_a_full_disk_gets_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, there: bool
) -> None:
    folder, save, saved = tmp_path / "pairs", Image.Image.save, []
    if there:
        save_folder(some(2), folder)
        if room:
            Image.new("RGB", (64, 64)).save(folder / "pair_5_before.png")  # not in the list, and written over
    before = contents(folder) if there else {}

    def full(image: Image.Image, path: Path, **how: object) -> None:
        if len(saved) == room:
            path.write_bytes(b"half a picture")
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(image, path, **how)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(NotWritten, match="No space left on device"):
        save_folder(some(2, 5), folder)
    assert len(saved) == room
    assert folder.exists() == there
    if there:
        assert contents(folder).keys() == before.keys()
        assert contents(folder)["pairs.json"] == before["pairs.json"]


def test_a_list_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pair_folder.os, "replace", refuse)
    with pytest.raises(NotWritten, match="Permission denied"):
        save_folder(some(2), tmp_path)
    assert not list(tmp_path.iterdir())
