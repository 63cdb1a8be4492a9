"""Lays pictures out in labelled rows on one sheet. Runs in a Python that has Pillow:

python contact_sheet.py < job.json      {"sheet": "out.jpg", "rows": [[{"path": "a.png", "label": "A"}, ...], ...]}

Prints the sizes it found as JSON, {path: [width, height]}; ends with an error if a picture cannot be read.
"""

from __future__ import annotations

import json
import sys

from PIL import Image, ImageDraw, ImageOps

CELL = 256
GAP = 8
LABEL = 20
PER_ROW = 8


def contact_sheet(rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """The rows of (picture, label) as one picture, each fitted into its cell and long rows wrapped."""
    lines = [row[i : i + PER_ROW] for row in rows for i in range(0, len(row), PER_ROW)]
    cells = [[(ImageOps.contain(picture, (CELL, CELL)), label) for picture, label in line] for line in lines]
    width = GAP + max(map(len, cells)) * (CELL + GAP)
    sheet = Image.new("RGB", (width, GAP + len(cells) * (CELL + LABEL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(cells):
        top = GAP + i * (CELL + LABEL + GAP)
        for j, (picture, label) in enumerate(line):
            left = GAP + j * (CELL + GAP)
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
            draw.text((left + CELL // 2, top + CELL + LABEL // 2), label, fill="black", anchor="mm")
    return sheet


def main() -> None:
    job = json.load(sys.stdin)
    sizes: dict[str, tuple[int, int]] = {}
    rows = []
    for row in job["rows"]:
        rows.append([])
        for cell in row:
            with Image.open(cell["path"]) as picture:
                picture = ImageOps.exif_transpose(picture).convert("RGB")
            sizes[cell["path"]] = picture.size
            rows[-1].append((picture, cell["label"]))
    contact_sheet(rows).save(job["sheet"], quality=92)
    json.dump(sizes, sys.stdout)


if __name__ == "__main__":
    main()
