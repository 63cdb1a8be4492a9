"""Every test of the tools has a cache folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hotpath.tools import environment


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COMFYUI_PATH", "HOTPATH_PYTHON", "HOTPATH_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOTPATH_CACHE", str(tmp_path / "cache"))
    return environment.cache_folder()
