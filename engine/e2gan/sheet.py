"""A labelled grid: one picture in many concepts."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import HotpathError
from .checkpoint import load_concept
from .network import E2GAN

LABEL_PX = 28
GAP_PX = 6


def fitting_concepts(e2gan: E2GAN, paths: Iterable[Path], strength: float) -> tuple[dict[str, E2GAN], list[str]]:
    """The E2GAN with each concept that fits it, by label; and a sentence for each file that does not."""
    fitting, reasons = {}, []
    for path in paths:
        try:
            concept = load_concept(path)
            label = concept.name.replace("_", " ")
            if label in fitting:  # the same name in another folder
                label = f"{label} ({path.parent.name})"
            fitting[label] = e2gan.with_concept(concept, strength)
        except HotpathError as error:
            reasons.append(str(error))
    return fitting, reasons


def _label(text: str, width: int) -> Tensor:
    """White text on near-black as [3, LABEL_PX, width] in -1..1."""
    strip = Image.new("RGB", (width, LABEL_PX), (24, 24, 28))
    font = ImageFont.load_default(size=16)
    ImageDraw.Draw(strip).text((8, LABEL_PX / 2), text, font=font, anchor="lm", fill=(240, 240, 240))
    return torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1).float() / 127.5 - 1


def labelled_grid(pictures: Tensor, labels: Sequence[str], columns: int = 0) -> Tensor:
    """Pictures [N, 3, H, W] in -1..1 under their labels, as one picture [1, 3, H', W']; `columns` 0 makes it about square."""
    count, _, height, width = pictures.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    cell_height, cell_width = height + LABEL_PX + GAP_PX, width + GAP_PX
    sheet = torch.full((1, 3, rows * cell_height + GAP_PX, columns * cell_width + GAP_PX), -0.8)
    for index, (picture, label) in enumerate(zip(pictures.cpu(), labels, strict=True)):
        top, left = (index // columns) * cell_height + GAP_PX, (index % columns) * cell_width + GAP_PX
        sheet[0, :, top : top + LABEL_PX, left : left + width] = _label(label, width)
        sheet[0, :, top + LABEL_PX : top + LABEL_PX + height, left : left + width] = picture
    return sheet
