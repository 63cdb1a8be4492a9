"""The labelled grid of concepts."""

from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import save_concept
from hotpath.engine.e2gan.network import E2GAN
from hotpath.engine.e2gan.sheet import GAP_PX, LABEL_PX, fitting_concepts, labelled_grid
from hotpath.tests.testing import pictures, tiny_base, tiny_concept


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [(1, 0, (1, 1)), (2, 0, (1, 2)), (4, 0, (2, 2)), (5, 0, (2, 3)), (7, 3, (3, 3)), (2, 9, (1, 2)), (3, 1, (3, 1))],
)
def test_the_grid_has_a_cell_for_each_picture(count: int, columns: int, grid: tuple[int, int]) -> None:
    sheet = labelled_grid(pictures(count, 40, 60), [f"look {i}" for i in range(count)], columns)
    rows, across = grid
    assert sheet.shape == (1, 3, rows * (40 + LABEL_PX + GAP_PX) + GAP_PX, across * (60 + GAP_PX) + GAP_PX)
    assert sheet.abs().max() <= 1


def test_pictures_lie_under_their_labels() -> None:
    image = pictures(3, 40, 120, seed=4)
    sheet = labelled_grid(image, ["one", "a much longer label", "one"], 2)[0]
    top, left = GAP_PX + LABEL_PX, GAP_PX + 120 + GAP_PX
    assert torch.equal(sheet[:, top : top + 40, GAP_PX : GAP_PX + 120], image[0])
    assert torch.equal(sheet[:, top : top + 40, left : left + 120], image[1])
    second = top + 40 + GAP_PX + LABEL_PX
    assert torch.equal(sheet[:, second : second + 40, GAP_PX : GAP_PX + 120], image[2])
    labels = [sheet[:, y - LABEL_PX : y, x : x + 120] for y, x in ((top, GAP_PX), (top, left), (second, GAP_PX))]
    assert (labels[0] > 0.5).any(), "there is white text"
    assert torch.equal(labels[0], labels[2])
    assert not torch.equal(labels[0], labels[1])


def test_labels_may_be_wider_than_the_cell_or_not_latin() -> None:
    assert labelled_grid(pictures(1, 8, 8), ["x" * 200 + " \u58a8\u7d75 \U0001f600"]).shape[3] == 8 + 2 * GAP_PX


def test_a_label_for_each_picture() -> None:
    with pytest.raises(ValueError, match="shorter"):
        labelled_grid(pictures(2), ["one"])


def test_concepts_that_fit_are_told_from_those_that_do_not(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    folder = tmp_path / "concepts"
    save_concept(folder / "ink_sketch.safetensors", tiny_concept(base, 1))
    save_concept(folder / "foreign.safetensors", tiny_concept(base, 2, base_sha256="0" * 64))
    (folder / "broken.safetensors").write_bytes(b"broken")
    styled, reasons = fitting_concepts(E2GAN(base), [*sorted(folder.iterdir()), folder / "gone.safetensors"], 0.5)
    assert list(styled) == ["ink sketch"]
    assert [strength for _, strength in styled["ink sketch"].blend] == [0.5]
    assert len(reasons) == 3
    assert all(any(name in reason for reason in reasons) for name in ("broken", "foreign", "gone"))


def test_concepts_of_one_name_in_two_folders_are_both_shown(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    for seed, folder in enumerate(("concepts", "concepts/mine")):
        save_concept(tmp_path / folder / "ink.safetensors", tiny_concept(base, seed))
    styled, reasons = fitting_concepts(E2GAN(base), sorted((tmp_path / "concepts").rglob("*.safetensors")), 1.0)
    assert len(styled) + len(reasons) == 2
