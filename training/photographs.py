"""The photo corpus: pictures free to train on, cut into 512 px squares, split into train and held-out by scene.

Template media are MIT-licensed pictures and clips, most of them made by generative models; the rest are real photographs
under CC-BY-4.0, CC0 or in the public domain (credits in models/README.md).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from .sources import Packages

Image.MAX_IMAGE_PIXELS = None
DATA = "ComfyUI template media (MIT, most of it generated) and real photographs (CC-BY-4.0, CC0, public domain); see models/README.md"
SIDE = 512
HELD_OUT_PERCENT = 14

# Words in a file name that mark logos, audio art, 3D sheets, control maps and multi-panel pictures.
NOT_A_PHOTO = ("audio", "3d_", "logo", "text_to_speech", "layered", "contact", "voice", "music", "canny")
NOT_A_PHOTO += ("depth", "normal", "svg", "dieline", "multi")
# Names of closed services, whose terms may forbid training on their outputs.
CLOSED_SERVICE = ("api_", "nanobanana", "recraft", "topaz", "hitpaw", "bria", "seedance")
LOMIRI = ("Picture_1A", "Wine", "aitzgorri", "friends", "sunset", "picosdeeuropa", "Picture_0B", "life", "seeding")
SKIMAGE = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")


@dataclass(frozen=True)
class Picture:
    """One 512 x 512 RGB square. Squares of one scene never fall on both sides of the split."""

    scene: str
    image: Image.Image

    @property
    def held_out(self) -> bool:
        return int(hashlib.sha256(self.scene.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def _square(image: Image.Image) -> Image.Image:
    return ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.LANCZOS)


def _tiles(image: Image.Image, short_side: int = 1080) -> Iterator[Image.Image]:
    """Non-overlapping squares of a picture scaled to at most `short_side`, centred."""
    scale = min(1.0, short_side / min(image.size))
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    columns, rows = image.width // SIDE, image.height // SIDE
    left, top = (image.width - columns * SIDE) // 2, (image.height - rows * SIDE) // 2
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * SIDE, top + row * SIDE
            yield image.crop((x, y, x + SIDE, y + SIDE))


def _usable(path: Path, grey: np.ndarray) -> bool:
    name = path.name.lower()
    if any(word in name for word in (*NOT_A_PHOTO, *CLOSED_SERVICE)):
        return False
    letterboxed = (grey[:3].max() < 12 and grey[-3:].max() < 12) or (grey[:, :3].max() < 12 and grey[:, -3:].max() < 12)
    return not letterboxed and grey.std() >= 8


def _template_media(root: Path) -> Iterator[Picture]:
    seen: list[np.ndarray] = []
    for path in sorted(root.glob("comfyui_workflow_templates_media_*/**/*.*")):
        if path.suffix.lower() not in (".webp", ".png", ".jpg"):
            continue
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            grey = np.asarray(image.convert("L").resize((32, 32)), float)
            if min(image.size) < 256 or not _usable(path, grey):
                continue
            key = ((grey - grey.mean()) / (grey.std() + 1e-6)).ravel()
            if any((key * other).mean() > 0.97 for other in seen):  # near duplicate
                continue
            seen.append(key)
            # Pictures whose names differ only in the trailing number are views of one scene.
            scene = path.stem.rstrip("0123456789").rstrip("-_")
            if frames > 1:
                wanted = {frames // 8, frames // 2, frames - 1 - frames // 8}
                for index, frame in enumerate(ImageSequence.Iterator(image)):
                    if index in wanted:
                        yield Picture(scene, _square(frame.convert("RGB")))
            else:
                rgb = image.convert("RGB")
                yield Picture(scene, _square(rgb))
                if min(rgb.size) >= 1000:
                    for tile in _tiles(rgb):
                        yield Picture(scene, tile)


def _real_photographs(packages: Packages) -> Iterator[Picture]:
    paths = [packages.python / "skimage" / "data" / name for name in SKIMAGE]
    for name in LOMIRI:
        paths += sorted(packages.debian.glob(f"lomiri-wallpapers-*/usr/share/backgrounds/{name}_by_*.jpg"))
    for path in paths:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        yield Picture(path.stem, _square(rgb))
        if min(rgb.size) >= 1000:
            for tile in _tiles(rgb):
                yield Picture(path.stem, tile)


def pictures(packages: Packages) -> Iterator[Picture]:
    """Every square of the corpus, in a fixed order."""
    yield from _real_photographs(packages)
    yield from _template_media(packages.python)
