"""The Python files of this clone: which are the pack, which ship, and what each imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from hotpath.tests.testing import ROOT

ROOMS = ("nodes", "training", "engine", "kernels")  # imports run from left to right
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
