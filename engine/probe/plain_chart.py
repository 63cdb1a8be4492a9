"""A report's table as a picture, drawn with Pillow alone: what a user without a plotting library sees, and a report without samples."""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .report import Report
from .table import label, number

SIZE, LINE, MARGIN, LONGEST = 15, 24, 16, 96


def plain_chart(report: Report, back: str, front: str, width: int) -> Tensor:
    """[H, width, 3] in 0..1: each measurement as a line with a bar of its median, then the notes."""
    entries = report.measurements
    medians = [entry.statistics().get("median_ms", 0.0) for entry in entries]
    notes = [line for note in report.notes for line in textwrap.wrap(note, LONGEST)]
    height = 2 * MARGIN + LINE * (1 + 2 * len(entries) + len(notes) + (not entries))
    picture = Image.new("RGB", (width, height), back)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(SIZE)
    y = MARGIN
    draw.text((MARGIN, y), report.title, front, font)
    for entry, median in zip(entries, medians, strict=True):
        y += LINE
        rate = f"{number(median)} ms, {number(60e3 / median)} per minute" if median else entry.status
        draw.text((MARGIN, y), f"{label(entry)}: {rate}", front, font)
        y += LINE
        draw.rectangle(
            (MARGIN, y + 4, MARGIN + (width - 2 * MARGIN) * median / (max(medians) or 1), y + LINE - 6), front if median else back
        )
    if not entries:
        y += LINE
        draw.text((MARGIN, y), "Nothing was measured.", front, font)
    for note in notes:
        y += LINE
        draw.text((MARGIN, y), note, front, font)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


def plain_text(title: str, lines: Sequence[str], back: str, front: str, width: int) -> Tensor:
    """[H, width, 3] in 0..1: lines of text, wrapped."""
    wrapped = [part for line in (title, *lines) for part in textwrap.wrap(line, LONGEST) or [""]]
    picture = Image.new("RGB", (width, 2 * MARGIN + LINE * len(wrapped)), back)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(SIZE)
    for row, line in enumerate(wrapped):
        draw.text((MARGIN, MARGIN + LINE * row), line, front, font)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)
