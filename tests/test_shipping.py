"""What ships to users: all they need, no other program run, and one file that connects, for the one download a user asks for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hotpath.tests.sources import PACK, SHIPPED, each, imports, own_imports, ships, tree_of
from hotpath.tests.testing import ROOT

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
CONNECTS = {"engine/weights/transfer.py": {"http.client", "socket", "ssl", "urllib.error", "urllib.parse", "urllib.request"}}
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


@each([path for path in PACK if path in SHIPPED])
def test_what_ships_imports_only_what_ships(path: Path) -> None:
    files = [ROOT.joinpath(*target).with_suffix(".py") for target in own_imports(path)]
    assert not [file for file in files if file.is_file() and not ships(file)]
