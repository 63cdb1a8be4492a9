"""A teacher that works the same everywhere agrees with itself; one whose texture hangs on the frame does not."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from hotpath.benchmarks.agreement import agreement
from hotpath.training.teachers import Teacher
from PIL import Image


def teacher_of(edit: Callable[[np.ndarray], np.ndarray], side: int) -> Teacher:
    def run(_: object, images: list[Image.Image]) -> Iterator[Image.Image]:
        return (Image.fromarray(edit(np.asarray(image))) for image in images)

    return Teacher(run, side, "", "")


def stripes(picture: np.ndarray) -> np.ndarray:
    """Every third row of 6 px black, counted from the frame."""
    rows = np.arange(len(picture)) % 18 < 6
    return np.where(rows[:, None, None], 0, picture).astype(np.uint8)


@pytest.mark.parametrize("side", [256, 512])
def test_only_what_hangs_on_the_frame_counts(side: int) -> None:
    photographs = np.random.default_rng(0).integers(64, 256, (2, side, side, 3), dtype=np.uint8)

    def distance(a, b):
        return (a - b).abs().mean((1, 2, 3))

    def of(edit):
        return agreement(teacher_of(edit, side), SimpleNamespace(), photographs, distance)

    inverted, striped = of(lambda picture: 255 - picture), of(stripes)
    assert inverted["lpips_itself"] == 0
    assert inverted["lpips_input"] > 0.1
    assert striped["ratio"] > 0.5
