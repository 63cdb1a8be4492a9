"""Build the training corpus: photographs and every teacher's picture of them, as uint8 safetensors.

    python -m hotpath.training.corpus --out CORPUS [--concepts ink_sketch pencil ...] [--limit N]

Writes `photographs.safetensors` (`train`, `held_out`: [N, 256, 256, 3] uint8) and one `<concept>.safetensors` of the same
shapes. What is already there is kept, so an interrupted build goes on where it stopped.
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from . import icons
from .photographs import pictures
from .sources import cache_dir, fetch
from .teachers import POOL, PoolConcept

SIDE = 256


def _write(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    os.replace(part, path)


def _stack(images: Iterable[Image.Image], side: int) -> torch.Tensor:
    """RGB pictures to [N, side, side, 3] uint8."""
    scaled = (image if image.width == side else image.resize((side, side), Image.Resampling.LANCZOS) for image in images)
    return torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in scaled]))


def build_photographs(out: Path, limit: int | None) -> None:
    train, held_out, scenes = [], [], []
    for picture in pictures(fetch()):
        (held_out if picture.held_out else train).append(picture.image)
        if picture.held_out:
            scenes.append(picture.scene)
    train, held_out, scenes = train[:limit], held_out[:limit], scenes[:limit]
    large = {"train": _stack(train, 512), "held_out": _stack(held_out, 512)}
    _write(out / "photographs_512.safetensors", large, {})
    small = {"train": _stack(train, SIDE), "held_out": _stack(held_out, SIDE)}
    _write(out / "photographs.safetensors", small, {"held_out_scenes": json.dumps(scenes)})


def build_icons(out: Path, concept: PoolConcept, limit: int | None) -> None:
    """Pairs with pictures of their own: beside the edits, `before_train` and `before_held_out`."""
    found = list(icons.pairs(fetch()))
    train, held_out = ([pair for pair in found if icons.held_out(pair[0]) == side] for side in (False, True))
    copies = icons.near_copies([before for _, before, _ in held_out], [before for _, before, _ in train])
    held_out = [pair for pair, copy in zip(held_out, copies, strict=True) if not copy]
    tensors = {}
    for split, kept in (("train", train[:limit]), ("held_out", held_out[:limit])):
        tensors[f"before_{split}"], tensors[split] = (_stack([pair[index] for pair in kept], SIDE) for index in (1, 2))
    metadata = {"held_out_scenes": json.dumps([icons.family(name) for name, _, _ in held_out[:limit]])}
    metadata |= {"prompt": concept.prompt, "teacher": concept.teacher.source, "licence": concept.teacher.licence}
    _write(out / f"{concept.name}.safetensors", tensors, metadata)


def build_concept(out: Path, concept: PoolConcept, limit: int | None) -> float:
    """Run the teacher over the corpus, or its first `limit` pictures; returns the teacher's seconds per picture."""
    packages, tensors, count, start = fetch(), {}, 0, time.perf_counter()
    source = out / ("photographs_512.safetensors" if concept.teacher.side == 512 else "photographs.safetensors")
    with safe_open(source, "pt") as file:
        for split in ("train", "held_out"):
            images = [Image.fromarray(array) for array in file.get_tensor(split)[:limit].numpy()]
            tensors[split] = _stack(concept.teacher.run(packages, images), SIDE)
            count += len(images)
    seconds = (time.perf_counter() - start) / max(1, count)
    metadata = {"prompt": concept.prompt, "teacher": concept.teacher.source, "licence": concept.teacher.licence}
    _write(out / f"{concept.name}.safetensors", tensors, {**metadata, "seconds_per_picture": f"{seconds:.3f}"})
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=cache_dir() / "corpus", help="folder of the corpus")
    parser.add_argument("--concepts", nargs="*", choices=sorted(POOL), help="default: all")
    parser.add_argument("--limit", type=int, help="use only the first N pictures of each split (for a trial)")
    args = parser.parse_args()
    if args.limit is not None and (args.limit < 1 or args.out == parser.get_default("out")):
        parser.error(
            f"expected --limit of at least 1 and an --out of its own, got {args.limit} and {args.out}: a trial is no corpus"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "photographs.safetensors").exists():
        build_photographs(args.out, args.limit)
    with safe_open(args.out / "photographs.safetensors", "pt") as file:
        sizes = {split: file.get_slice(split).get_shape()[0] for split in ("train", "held_out")}
    print(f"photographs: {sizes['train']} to train on, {sizes['held_out']} held out", flush=True)
    wanted = [POOL[name] for name in args.concepts] if args.concepts else list(POOL.values())
    for index, concept in enumerate(wanted, start=1):
        if (args.out / f"{concept.name}.safetensors").exists():
            continue
        if concept.own_pictures:
            build_icons(args.out, concept, args.limit)
            continue
        seconds = build_concept(args.out, concept, args.limit)
        print(f"[{index}/{len(wanted)}] {concept.name}: {seconds:.2f} s a picture", flush=True)


if __name__ == "__main__":
    main()
