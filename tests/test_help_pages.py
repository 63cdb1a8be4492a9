"""Each node's help page: what, when, every input and output, a picture that is there and small, pitfalls.

The editor reads a page from /extensions/<pack>/docs/<node id>.md and resolves pictures against that folder, so they lie beside it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hotpath.tests import contract
from hotpath.tests.testing import ROOT
from PIL import Image

DOCS = ROOT / "web" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ENGLISH = json.loads(contract.ENGLISH.read_text(encoding="utf-8"))
LARGEST_PICTURE = 80_000  # bytes
WIDEST_PICTURE = 600  # px
each = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def named(text: str, what: str) -> set[str]:
    """Names in the first column of the table of inputs or outputs; a row may hold several."""
    table = re.search(rf"^\| {what} \| meaning \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.M)
    if not table:
        return set()
    cells = [row.split("|")[1].replace("(optional)", "") for row in table[1].splitlines()]
    return {name.strip() for cell in cells for name in cell.split(",")}


def pictures(text: str) -> list[tuple[str, str]]:
    """(words for those who do not see it, file) of each picture of a page."""
    return re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)


@each
def test_a_page_says_what_when_and_what_to_mind(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    title, blank, first = text.splitlines()[:3]
    assert title == f"# {ENGLISH[path.stem]['display_name']}"
    assert blank == ""
    assert len(first) > 40, "a sentence that says what the node does"
    assert text.count("**When.**") == 1
    assert text.count("**Pitfalls") == 1


@each
def test_a_page_explains_every_input_and_output(path: Path) -> None:
    text, node = path.read_text(encoding="utf-8"), contract.kept()[path.stem]
    for what in ("input", "output"):
        assert named(text, what) == {slot["name"] for slot in node[f"{what}s"]}
    optional = {slot["name"] for slot in node["inputs"] if slot.get("optional")}
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|") and "(optional)" in line.split("|")[1]]
    assert {name.strip() for row in rows for name in row.replace("(optional)", "").split(",")} == optional


@each
def test_a_page_shows_a_small_picture(path: Path) -> None:
    shown = pictures(path.read_text(encoding="utf-8"))
    assert shown
    for words, name in shown:
        assert len(words) > 10
        assert "/" not in name, "the editor looks for it beside the page"
        assert (DOCS / name).stat().st_size < LARGEST_PICTURE
        with Image.open(DOCS / name) as picture:
            assert picture.width <= WIDEST_PICTURE


def test_no_picture_is_left_over() -> None:
    used = {name for path in PAGES for _, name in pictures(path.read_text(encoding="utf-8"))}
    assert {path.name for path in DOCS.iterdir() if path.suffix != ".md"} == used


@each
def test_a_page_names_nodes_by_their_titles(path: Path) -> None:
    """A name of two words or more in *slanted letters* is a node's title, ours or core's."""
    text = path.read_text(encoding="utf-8")
    ours = {words["display_name"] for words in ENGLISH.values()}
    core = {"Load Image Dataset from Folder", "Load LoRA"}
    found = {name.replace("\n", " ") for name in re.findall(r"(?<!\*)\*([A-Z8][\w² -]*(?:\n\w[\w² -]*)?)\*(?!\*)", text)}
    assert {name for name in found if " " in name} <= ours | core
