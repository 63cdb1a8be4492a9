"""Makes the small pictures of the help pages, web/docs/*.jpg: python -m hotpath.tools.help_pictures

From the bundled weights and pictures, from the thumbnails that running the example graphs has given, and from benchmarks/results.jsonl. Needs
the developer's environment (python tools/dev.py test builds it).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from hotpath.engine.e2gan.checkpoint import load_base, load_concept
from hotpath.engine.e2gan.network import E2GAN, Network, apply
from hotpath.engine.e2gan.sheet import labelled_grid
from hotpath.engine.pictures import composite
from hotpath.training import perceptual
from hotpath.training.pair_folder import load_folder
from hotpath.training.pairs import Pair
from hotpath.training.selection import features, nearest_to_centres
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DOCS, MODELS, EXAMPLES = ROOT / "web" / "docs", ROOT / "models", ROOT / "examples"
WIDTH = 560  # px; the help panel is narrower
CELL, SIDE = 192, 384  # px of a picture as shown, and as edited
COLUMNS = 6
# Help pages whose node's work an example's thumbnail shows; the last number is the share of its height that is kept.
THUMBNAILS = {
    "Hotpath_E2GANConceptSheet": ("e2gan_concept_sheet", 1.0),
    "Hotpath_TrainE2GANConcept": ("e2gan_train_concept", 1.0),
    "Hotpath_EightStepSampler": ("sampler_8step_sd15", 1.0),
    "Hotpath_StudentSchedule": ("img2img_on_grid", 1.0),
    "Hotpath_StudentSolver": ("sampler_custom_advanced", 1.0),
    "Hotpath_LoadStudent": ("sampler_8step_sdxl", 1.0),
    "Hotpath_ProbeModel": ("probe_model", 1.0),
    "Hotpath_ProbeStop": ("probe_e2gan", 1.0),
    "Hotpath_ProbeReport": ("kawahata_sweep", 1.0),
    "Hotpath_CompareReports": ("probe_compare", 1.0),
    "Hotpath_Weights": ("weights", 0.55),
}


def save(name: str, picture: Image.Image) -> None:
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    picture.convert("RGB").save(DOCS / f"{name}.jpg", quality=82, optimize=True)


def save_grid(name: str, pictures: Tensor, labels: Sequence[str], columns: int = 0) -> None:
    """Square pictures [N, 3, H, W] in -1..1 under their labels."""
    small = torch.nn.functional.interpolate(pictures, (CELL, CELL), mode="area")
    grid = labelled_grid(small, labels, columns or len(labels))[0].permute(1, 2, 0)
    save(name, Image.fromarray(((grid + 1) * 127.5).round().clamp(0, 255).byte().numpy()))


def photograph() -> Tensor:
    """[1, 3, SIDE, SIDE] in -1..1."""
    with Image.open(EXAMPLES / "images" / "dogs.jpg") as picture:
        side = min(picture.size)
        square = picture.convert("RGB").crop((0, 0, side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def edits() -> None:
    """What a base, a concept's strength, and mask and mix do to a photograph."""
    base, photo = load_base(MODELS / "e2gan_base.safetensors"), photograph()
    network = Network(base, torch.float32)

    def edited(**strengths: float) -> Tensor:
        e2gan = E2GAN(base)
        for name, strength in strengths.items():
            e2gan = e2gan.with_concept(load_concept(MODELS / "concepts" / f"{name}.safetensors"), strength)
        with torch.inference_mode():
            return apply(network, photo, [e2gan.blend])

    save_grid(
        "Hotpath_LoadE2GAN", torch.cat([photo, edited(), edited(ink_sketch=1.0)]), ["photograph", "base alone", "with a concept"]
    )
    strengths = [edited(hope_poster=strength) for strength in (0.0, 0.5, 1.0)]
    blend = edited(hope_poster=0.5, teal_etching=0.5)
    save_grid("Hotpath_E2GANConcept", torch.cat([*strengths, blend]), ["strength 0", "0.5", "1", "two, 0.5 each"])
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, :, SIDE // 2 :] = 1
    images = [(tensor.movedim(1, -1) + 1) / 2 for tensor in (photo, edited(starry_print=1.0))]
    results = [
        composite(*images, mix, painted).movedim(-1, 1) * 2 - 1 for mix, painted in ((1.0, None), (0.5, None), (1.0, mask))
    ]
    save_grid("Hotpath_ApplyE2GAN", torch.cat([photo, *results]), ["photograph", "mix 1", "mix 0.5", "with a mask"])


def pairs() -> None:
    """Pairs before above after: the first of a folder, and those that stand for all."""
    found = load_folder(EXAMPLES / "pairs" / "icon_3d", 256)
    lpips = perceptual.load(MODELS / "training" / "perceptual_vgg16.safetensors")
    chosen = nearest_to_centres(features(lpips, found.before), COLUMNS, 0)
    for name, kept in (
        ("Hotpath_E2GANPairs", found.pairs[:COLUMNS]),
        ("Hotpath_SelectE2GANPairs", [found.pairs[i] for i in chosen]),
    ):
        save_grid(
            name,
            torch.cat([stacked(kept, "before"), stacked(kept, "after")]),
            ["before"] * COLUMNS + ["after"] * COLUMNS,
            COLUMNS,
        )


def stacked(kept: Sequence[Pair], side: str) -> Tensor:
    """One side of pairs as [N, 3, H, W] in -1..1."""
    return torch.stack([getattr(pair, side) for pair in kept]).permute(0, 3, 1, 2).float() / 127.5 - 1


def speed() -> None:
    """The least disturbed measurement of each benchmark of Accelerate."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in (ROOT / "benchmarks" / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    best = [
        min((row for row in rows if row["benchmark"] == name), key=lambda row: row["accelerated_s"])
        for name in ("vae_decode", "sampling")
    ]
    figure = Figure(figsize=(5.6, 2.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for offset, key, colour, label in (
        (0.2, "shipped_s", "#999999", "ComfyUI"),
        (-0.2, "accelerated_s", "#0072b2", "with Accelerate"),
    ):
        bars = axes.barh([index + offset for index in range(2)], [row[key] for row in best], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f s", padding=3, fontsize=9)
    axes.set_yticks(range(2), ["VAE decode", "8 steps, no guidance"])
    axes.margins(x=0.15)
    axes.set_xlabel(f"seconds, SD 1.5 at 512 px, two cores of an {best[0]['device'].split(' (')[0]}", fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "Hotpath_Accelerate.jpg", pil_kwargs={"quality": 85})


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # so that asking for help writes nothing
    for name, (example, share) in THUMBNAILS.items():
        with Image.open(EXAMPLES / f"{example}.jpg") as picture:
            save(name, picture.convert("RGB").crop((0, 0, picture.width, int(picture.height * share))))
    edits()
    pairs()
    speed()


if __name__ == "__main__":
    main()
