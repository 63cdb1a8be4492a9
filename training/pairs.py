"""Pairs of pictures before and after an edit: checked, made square, kept in memory or in a folder that grows.

A folder holds, for each pair, `<name>_before.png`, `<name>_after.png` and `<name>.txt` (what the edit is), and `pairs.json` with
the list. A folder with `before/` and `after/` and equal file names in both is read, too.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..engine.errors import InvalidInput, NotWritten

MEMORY = 2 * 2**30  # bytes of all pairs together: 5,461 at 256 px
SIDES = (64, 1024)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Pair:
    """One edit: uint8 [H, W, 3] before and after."""

    name: str
    before: Tensor
    after: Tensor

    @property
    def key(self) -> str:
        """Equal for pairs with the same pixels."""
        return hashlib.sha256(self.before.numpy().tobytes() + self.after.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of one size, what the edit is, and a sentence for each pair that was refused. Immutable; `plus` gives a new one."""

    pairs: tuple[Pair, ...] = ()
    prompt: str = ""
    refused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def before(self) -> Tensor:
        """uint8 [N, S, S, 3]."""
        return torch.stack([pair.before for pair in self.pairs])

    @property
    def after(self) -> Tensor:
        """uint8 [N, S, S, 3]."""
        return torch.stack([pair.after for pair in self.pairs])

    @property
    def fingerprint(self) -> str:
        """Equal for the same pairs in the same order."""
        return hashlib.sha256("".join(pair.key for pair in self.pairs).encode()).hexdigest()

    def at(self, side: int) -> "PairSet":
        """The same pairs as squares of `side` px."""
        if all(pair.before.shape[0] == side for pair in self.pairs):
            return self
        scaled = (Pair(pair.name, square(pair.before, side), square(pair.after, side)) for pair in self.pairs)
        return replace(self, pairs=tuple(scaled))

    def chosen(self, indices: Iterable[int]) -> "PairSet":
        return PairSet(tuple(self.pairs[index] for index in indices), self.prompt)

    def plus(self, candidates: Iterable[tuple[str, Tensor, Tensor]], side: int) -> "PairSet":
        """Add pairs of pictures (name, before [H, W, C], after [H, W, C]; floats in 0..1 or uint8) as squares of `side` px.

        Pairs held in another size are scaled to it. Pairs already there, pairs of two sizes, and pictures that cannot be used are
        refused, each with a sentence.
        """
        if not SIDES[0] <= side <= SIDES[1] or side % 16:
            raise InvalidInput(f"Expected a side from {SIDES[0]} to {SIDES[1]} px, a multiple of 16, got {side}.")
        _check_room(len(self), side)
        pairs, refused = list(self.at(side).pairs), []
        known, names = {pair.key: pair.name for pair in pairs}, {pair.name for pair in pairs}
        for name, before, after in candidates:
            if before.shape[:2] != after.shape[:2]:
                (h, w), (h2, w2) = before.shape[:2], after.shape[:2]
                refused.append(f"{name}: before is {w} x {h} px, after {w2} x {h2} px; make both the same size.")
                continue
            if not all(torch.isfinite(picture).all() for picture in (before, after) if picture.is_floating_point()):
                refused.append(f"{name}: it holds values that are not finite (NaN or infinity).")
                continue
            try:
                pair = Pair(_free(name, names), square(before, side), square(after, side))
            except InvalidInput as error:
                refused.append(f"{name}: {error}")
                continue
            if pair.key in known:
                refused.append(f"{name}: the same pictures as {known[pair.key]}.")
                continue
            known[pair.key] = pair.name
            names.add(pair.name)
            pairs.append(pair)
            _check_room(len(pairs), side)
        return PairSet(tuple(pairs), self.prompt, tuple(refused))


def _check_room(count: int, side: int) -> None:
    most = MEMORY // (6 * side * side)
    if count > most:
        raise InvalidInput(f"Expected at most {most} pairs of {side} px, got more: about 100 well chosen ones are enough.")


def _free(name: str, taken: set[str]) -> str:
    """A file name from a wish: letters, digits, dash and underscore, and a number where it is taken."""
    clean = re.sub(r"[^\w-]+", "_", name).strip("_")[:80] or "pair"
    number, candidate = 2, clean
    while candidate in taken:
        candidate, number = f"{clean}_{number}", number + 1
    return candidate


def square(picture: Tensor, side: int) -> Tensor:
    """[H, W, C] floats in 0..1 or uint8 to uint8 [side, side, 3]: scaled to cover the square, cut around the centre.

    Of a side more than four times the other, the ends are cut off first: scaled whole, a thin picture would take gigabytes.
    """
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or min(picture.shape[:2]) < 1:
        raise InvalidInput(f"Expected a picture [H, W, 3], got {list(picture.shape)}: make it an RGB picture.")
    picture = _shortened(picture)[..., :3].expand(-1, -1, 3)
    floats = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float().clamp(0, 1)
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    chw = floats.permute(2, 0, 1).unsqueeze(0).cpu()
    if size != (height, width):
        chw = F.interpolate(chw, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    cut = chw[0, :, top : top + side, left : left + side].permute(1, 2, 0)
    return (cut.clamp(0, 1) * 255).round().byte().contiguous()


def _shortened(picture: Tensor) -> Tensor:
    """[H, W, C] cut around the centre to about 4:1: an even number of pixels goes, and some more than bicubic scaling sees stay."""
    for axis in (0, 1):
        spare = max(0, picture.shape[axis] - 4 * min(picture.shape[:2]) - 4) // 2
        picture = picture.narrow(axis, spare, picture.shape[axis] - 2 * spare)
    return picture


def _read(path: Path) -> Tensor:
    """A file's picture, uint8 [H, W, 3], the way up that viewers show it."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                upright = Image.fromarray((np.asarray(upright).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
            return torch.from_numpy(np.array(upright.convert("RGB")))
    except (OSError, SyntaxError) as error:  # the second is Pillow's for a damaged PNG
        raise InvalidInput(f"Expected a picture, but {path.name} cannot be read ({error}): replace it or take it out.") from error


def _missing(before: Path, after: Path) -> str:
    """Names the pictures of a listed pair that are not there; empty if both are."""
    return " and ".join(path.name for path in (before, after) if not path.is_file())


def _listing(folder: Path) -> dict:
    """What pairs.json of a folder says: prompt, side in px, and the key of each pair by name."""
    path = folder / "pairs.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {
            "prompt": str(facts["prompt"]),
            "side": int(facts["side"]),
            "pairs": {str(k): str(v) for k, v in facts["pairs"].items()},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"Expected the list of pairs in {folder.name}/pairs.json, but it is damaged ({type(error).__name__}: {error}): move it away "
            "and save the pairs again, or sort the pictures into before/ and after/."
        ) from error


def _stored(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    if (folder / "pairs.json").is_file():
        for name in _listing(folder)["pairs"]:
            yield name, folder / f"{name}_before.png", folder / f"{name}_after.png"
        return
    after = {path.stem: path for path in sorted((folder / "after").glob("*")) if path.suffix.lower() in SUFFIXES}
    for path in sorted((folder / "before").glob("*")):
        if path.suffix.lower() in SUFFIXES and path.stem in after:
            yield path.stem, path, after[path.stem]


def is_pair_folder(folder: Path) -> bool:
    return (folder / "pairs.json").is_file() or ((folder / "before").is_dir() and (folder / "after").is_dir())


def load_folder(folder: Path, side: int) -> PairSet:
    """The pairs of a folder as squares of `side` px; a listed pair whose pictures are gone is refused, the others are kept."""
    found = list(_stored(folder))
    gone = [f"{name}: {missing} is missing in {folder.name}." for name, *two in found if (missing := _missing(*two))]
    if not found:
        raise InvalidInput(
            f"Expected pairs in {folder.name} (before/ and after/ with equal file names, or pairs.json), found none: check the folder."
        )
    prompt = _listing(folder)["prompt"] if (folder / "pairs.json").is_file() else ""
    whole = ((name, _read(before), _read(after)) for name, before, after in found if not _missing(before, after))
    pairs = PairSet(prompt=prompt).plus(whole, side)
    return replace(pairs, refused=(*gone, *pairs.refused))


def save_folder(pairs: PairSet, folder: Path) -> int:
    """Write the pairs that are not in the folder yet; returns how many. The list is replaced last, so a stop loses no pair.

    Pairs without a prompt leave the folder the one it has.
    """
    try:
        return _save_folder(pairs, folder)
    except OSError as error:
        raise NotWritten(
            f"Expected to write pairs into {folder.name}, but it failed ({error}); the pairs saved before are untouched: make room, or "
            "choose another folder."
        ) from error


def _save_folder(pairs: PairSet, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    listing, known, side, prompt = folder / "pairs.json", {}, pairs.before.shape[1], pairs.prompt
    if listing.is_file():
        facts = _listing(folder)
        known = {name: facts["pairs"][name] for name, *two in _stored(folder) if not _missing(*two)}
        prompt = prompt or facts["prompt"]
        if facts["side"] != side:
            raise InvalidInput(
                f"Expected pairs of {facts['side']} px as in the folder {folder.name}, got {side} px: choose that side or another folder."
            )
    fresh, names, written = {}, set(known), set(known.values())
    for pair in pairs.pairs:
        if pair.key in written:
            continue
        name = _free(pair.name, names)
        names.add(name)
        for kind, picture in (("before", pair.before), ("after", pair.after)):
            Image.fromarray(picture.numpy()).save(folder / f"{name}_{kind}.png", compress_level=1)
        (folder / f"{name}.txt").write_text(prompt + "\n", encoding="utf-8")
        fresh[name] = pair.key
    part = folder / "pairs.json.part"
    part.write_text(json.dumps({"prompt": prompt, "side": side, "pairs": {**known, **fresh}}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, listing)
    return len(fresh)
