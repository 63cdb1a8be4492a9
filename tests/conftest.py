"""Makes this clone importable as `hotpath`, here and in subprocesses, whatever its folder is called."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

spec = importlib.util.spec_from_file_location("hotpath", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
sys.modules["hotpath"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["hotpath"])

_alias = tempfile.TemporaryDirectory(prefix="hotpath-alias-")


MARKERS = (
    "comfy: needs a real ComfyUI server; skipped where HOTPATH_COMFYUI is not set",
    "browser: needs Chromium as well; skipped where none is found",
    "gpu: needs a CUDA device",
    "slow: takes more than ten seconds on two cores",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept-contract", action="store_true", help="let tests/contract.json say what the nodes are now")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers, and lets `python -m hotpath...` in a subprocess find this clone as well."""
    from hotpath.tools.environment import write_alias

    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    write_alias(Path(_alias.name), ROOT)
    os.environ["HOTPATH_ROOT"] = str(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_alias.name, os.environ.get("PYTHONPATH"))))


def pytest_unconfigure() -> None:
    _alias.cleanup()
