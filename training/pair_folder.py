"""Pairs of pictures in a folder that grows: reading, checking and writing it.

A folder holds, for each pair, `<name>_before.png`, `<name>_after.png` and `<name>.txt` (what the edit is), and `pairs.json` with
the list. A folder with `before/` and `after/` and equal file names in both is read, too.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..engine.errors import InvalidInput, NotWritten
from .pairs import PairSet, free_name

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def _read(path: Path) -> Tensor:
    """A file's picture, uint8 [H, W, 3], the way up that viewers show it."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
                upright = Image.fromarray((np.asarray(upright).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
            return torch.from_numpy(np.array(upright.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow has three for damaged files
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
    after = {path.stem: path for path in _pictures(folder / "after")}
    for path in _pictures(folder / "before"):
        if path.stem in after:
            yield path.stem, path, after[path.stem]


def _pictures(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]


def _alone(folder: Path) -> Iterator[str]:
    """One sentence for all pictures in before/ and after/ that the other of the two folders has none for."""
    if (folder / "pairs.json").is_file():
        return
    before, after = _pictures(folder / "before"), _pictures(folder / "after")
    stems = {path.stem for path in before} ^ {path.stem for path in after}
    alone = [f"{path.parent.name}/{path.name}" for path in (*before, *after) if path.stem in stems]
    if alone:
        yield f"Pictures without a partner of the same name in the other folder: {len(alone)}, such as {alone[0]}."


def is_pair_folder(folder: Path) -> bool:
    return (folder / "pairs.json").is_file() or ((folder / "before").is_dir() and (folder / "after").is_dir())


def load_folder(folder: Path, side: int, on_pair: Callable[[int, int], None] = lambda done, total: None) -> PairSet:
    """The pairs of a folder as squares of `side` px, at least one."""
    pairs = stored_pairs(folder, side, on_pair)
    if not len(pairs):
        sentence = (
            f"Expected pairs in {folder.name} (before/ and after/ with equal file names, or pairs.json), found none that can be used: "
            "check the folder."
        )
        raise InvalidInput(" ".join((sentence, *pairs.refused[:3])))
    return pairs


def stored_pairs(folder: Path, side: int, on_pair: Callable[[int, int], None] = lambda done, total: None) -> PairSet:
    """The pairs of a folder as squares of `side` px, perhaps none; pictures that are gone or alone are among the refused.

    `on_pair` is called with the pairs read and those there are before each is read; raising from it stops the reading.
    """
    found = list(_stored(folder))
    gone = [f"{name}: {missing} is missing in {folder.name}." for name, *two in found if (missing := _missing(*two))]
    prompt = _listing(folder)["prompt"] if (folder / "pairs.json").is_file() else ""

    def whole() -> Iterator[tuple[str, Tensor, Tensor]]:
        for index, (name, before, after) in enumerate(found):
            on_pair(index, len(found))
            if not _missing(before, after):
                yield name, _read(before), _read(after)

    pairs = PairSet(prompt=prompt).plus(whole(), side)
    return replace(pairs, refused=(*_alone(folder), *gone, *pairs.refused))


def save_folder(pairs: PairSet, folder: Path) -> int:
    """Write the pairs that are not in the folder yet; returns how many. The list is replaced last, so a stop loses no pair.

    Pairs without a prompt leave the folder the one it has. After a failure no new file is left.
    """
    made, was_there = [], folder.exists()
    try:
        return _save_folder(pairs, folder, made)
    except BaseException as error:
        for path in made:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if not was_there:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise NotWritten(
                f"Expected to write pairs into {folder.name}, but it failed ({error}); the pairs saved before are untouched: make "
                "room, or choose another folder."
            ) from error
        raise


def _save_folder(pairs: PairSet, folder: Path, made: list[Path]) -> int:
    """Notes in `made` each file that was not there before."""
    listing, known, side, prompt = folder / "pairs.json", {}, pairs.pairs[0].before.shape[0], pairs.prompt
    if listing.is_file():
        facts = _listing(folder)
        known = {name: facts["pairs"][name] for name, *two in _stored(folder) if not _missing(*two)}
        prompt = prompt or facts["prompt"]
        if facts["side"] != side:
            raise InvalidInput(
                f"Expected pairs of {facts['side']} px as in the folder {folder.name}, got {side} px: choose that side or another folder."
            )

    def new(path: Path) -> Path:
        if not path.exists():
            made.append(path)
        return path

    folder.mkdir(parents=True, exist_ok=True)
    fresh, names, written = {}, set(known), set(known.values())
    for pair in pairs.pairs:
        if pair.key in written:
            continue
        name = free_name(pair.name, names)
        names.add(name)
        for kind, picture in (("before", pair.before), ("after", pair.after)):
            Image.fromarray(picture.numpy()).save(new(folder / f"{name}_{kind}.png"), compress_level=1)
        new(folder / f"{name}.txt").write_text(prompt + "\n", encoding="utf-8")
        fresh[name] = pair.key
    part = folder / "pairs.json.part"
    made.append(part)
    part.write_text(json.dumps({"prompt": prompt, "side": side, "pairs": {**known, **fresh}}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, listing)
    return len(fresh)
