"""A file to download, and what is asked of every download: all of it, or one typed sentence."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hotpath.engine.errors import HotpathError
from hotpath.engine.weights.fetch import fetch
from hotpath.engine.weights.manifest import Entry
from hotpath.tests.mirror import HUGGING_FACE

BODY = random.Random(0).randbytes(300_000)
NAME = "look.safetensors"
PLACE = "/owner/repository/resolve/main/file.safetensors"


def entry(**changes: object) -> Entry:
    facts = {"id": "look", "name": NAME, "directory": "loras", "license": "MIT", "size": len(BODY)}
    facts |= {"hash": hashlib.sha256(BODY).hexdigest(), "url": HUGGING_FACE + PLACE}
    return Entry(**{**facts, **changes})


def brought(folder: Path, item: Entry | None = None, **settings: object) -> Path:
    return fetch(item or entry(), folder, **{"stall_s": 0.4, "pause_s": 0.01, **settings})


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {f"{NAME}.part.lock"}


def refused(folder: Path, kind: type[HotpathError], *words: str, item: Entry | None = None) -> str:
    """One sentence or two of the right type, and no file under the final name."""
    with pytest.raises(HotpathError) as caught:
        brought(folder, item)
    sentence = str(caught.value)
    assert type(caught.value) is kind, sentence
    assert not [word for word in words if word not in sentence], sentence
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert NAME not in names(folder)
    return sentence
