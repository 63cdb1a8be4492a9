"""Flat icons and the 3D icons that designers drew of the same things: Microsoft's Fluent emoji (MIT), pairs that need no teacher.

Only pairs whose outlines agree are kept, one skin tone of each thing, on white; split by family, the last word of the name, so that
members of one (moon phases, clock faces) stay on one side. Things of other names may still look alike (red-heart, heart-suit):
`near_copies` finds them, and the corpus leaves them out of what is held out.
"""

import hashlib
import io
import json
import subprocess
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from .sources import Packages

DATA = "flat Fluent emoji of Microsoft (MIT)"
SIDE = 256
LEAST_OVERLAP = 0.9  # intersection over union of the two outlines
SKIN_TONES = ("-light", "-medium-light", "-medium", "-medium-dark", "-dark")
HELD_OUT_PERCENT = 15
ALIKE = 0.95


def _drawn(svg: str) -> Image.Image | None:
    command = ["rsvg-convert", "-w", str(SIDE), "-h", str(SIDE)]
    result = subprocess.run(command, input=svg.encode(), capture_output=True)
    return Image.open(io.BytesIO(result.stdout)).convert("RGBA") if result.returncode == 0 else None


def _overlap(one: Image.Image, other: Image.Image) -> float:
    a, b = (np.asarray(image)[:, :, 3] > 127 for image in (one, other))
    return float((a & b).sum() / max(1, (a | b).sum()))


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def family(name: str) -> str:
    return name.split("-")[-1]


def held_out(name: str) -> bool:
    return int(hashlib.sha256(family(name).encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT


def near_copies(pictures: Sequence[Image.Image], known: Sequence[Image.Image]) -> list[bool]:
    """For each picture, whether it looks like one of the known: grey pictures of 32 x 32 px correlate by more than ALIKE."""

    def vectors(images: Sequence[Image.Image]) -> np.ndarray:
        small = np.stack([np.asarray(image.convert("L").resize((32, 32)), dtype=np.float64).ravel() for image in images])
        small -= small.mean(1, keepdims=True)
        return small / np.maximum(1e-9, np.linalg.norm(small, axis=1, keepdims=True))

    return ((vectors(pictures) @ vectors(known).T).max(1) > ALIKE).tolist()


def pairs(packages: Packages) -> Iterator[tuple[str, Image.Image, Image.Image]]:
    """(name, flat, 3D), RGB of 256 x 256 px, in the order of names."""
    modules = packages.npm / "node_modules"
    flat = json.loads((modules / "@iconify-json" / "fluent-emoji-flat" / "icons.json").read_text(encoding="utf-8"))
    names = json.loads((modules / "@iconify-json" / "fluent-emoji-flat" / "chars.json").read_text(encoding="utf-8"))
    solid = {path.stem.replace("-fe0f", ""): path for path in (modules / "@lobehub" / "fluent-emoji-3d" / "assets").iterdir()}
    for name, code in sorted((name, code.replace("-fe0f", "")) for code, name in names.items()):
        if code not in solid or name not in flat["icons"] or name.endswith(SKIN_TONES):
            continue
        box = f'viewBox="0 0 {flat.get("width", 32)} {flat.get("height", 32)}"'
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        before = _drawn(f"<svg {namespaces} {box}>{flat['icons'][name]['body']}</svg>")
        after = Image.open(solid[code]).convert("RGBA").crop((0, 0, SIDE, SIDE))  # four are 264 px high
        if before is not None and _overlap(before, after) >= LEAST_OVERLAP:
            yield name, _on_white(before), _on_white(after)
