"""A program inside ComfyUI, seen from the test: which ComfyUI, how it is run, and what became of its cases."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from hotpath.tools.comfyui import python_of

FOLDERS = ("custom_nodes", "input", "output", "user", "models")


def comfyui() -> Path:
    """The folder of the ComfyUI to test with; without one the test is skipped."""
    tree = os.environ.get("HOTPATH_COMFYUI")
    if not tree:
        pytest.skip("needs a ComfyUI: run `python tools/dev.py test`, or set HOTPATH_COMFYUI to a ComfyUI folder")
    return Path(tree)


def run_inside(program: str, base: Path, *arguments: object, timeout: int = 300) -> tuple[object, str]:
    """What a program prints after RESULTS, and its log. The program is a module of tests/comfy, or its text.

    It is given ComfyUI's folder, `base` as the folder for files, and the further arguments.
    """
    tree = comfyui()
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    how = ["-c", program] if "\n" in program else ["-m", f"hotpath.tests.comfy.{program}"]
    command = [str(python_of(tree)), *how, str(tree), str(base), *map(str, arguments)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=timeout)
    assert "RESULTS" in ran.stdout, ran.stderr[-5000:]
    return json.loads(ran.stdout.rpartition("RESULTS")[2]), ran.stderr


def good(results: dict[str, list], label: str) -> object:
    """What a case gave; it must not have failed."""
    error, value = results[label]
    assert error is None, f"{error}: {value}"
    return value


def sentence(results: dict[str, list], label: str, kind: str = "InvalidInput") -> str:
    """The words of a case that must have failed by an error of this kind."""
    error, words = results[label]
    assert error == kind, (error, words)
    return words
