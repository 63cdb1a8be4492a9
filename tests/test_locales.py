"""Each language names and explains all that English does: every node, input, output and category. Values of lists stay as they
are in every language, since the editor has no place for words of theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hotpath.tests.testing import ROOT

FILES = sorted((ROOT / "locales" / "en").glob("*.json"))
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir() if path.name != "en")
JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")
SENTENCES = ("description", "tooltip")


def words(path: Path) -> dict[str, str]:
    """Every text of a language file by its place, such as Hotpath_Weights.inputs.weights.tooltip."""

    def walk(value: object, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{place}.{key}")
        else:
            yield place.removeprefix("."), value

    return dict(walk(json.loads(path.read_text(encoding="utf-8")), ""))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_language_says_all_that_english_does(language: str, path: Path) -> None:
    english, other = words(path), words(ROOT / "locales" / language / path.name)
    assert not [place for place in english if not other.get(place)], "texts are missing"
    assert not [place for place in other if place not in english], "texts of nothing that exists"


def test_there_is_japanese() -> None:
    assert "ja" in LANGUAGES
    found = words(ROOT / "locales" / "ja" / "nodeDefs.json")
    sentences = {place: text for place, text in found.items() if place.endswith(SENTENCES)}
    assert len(sentences) > 150
    assert not [place for place, text in sentences.items() if not JAPANESE.search(text)], "texts left in English"
    titles = {place: text for place, text in found.items() if place.endswith("display_name")}
    assert not [place for place, text in titles.items() if not JAPANESE.search(text)]


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_titles_tell_nodes_apart(language: str) -> None:
    titles = [
        text for place, text in words(ROOT / "locales" / language / "nodeDefs.json").items() if place.endswith("display_name")
    ]
    assert len(set(titles)) == len(titles)
