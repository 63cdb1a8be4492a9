"""Tiles that were measured best on an architecture, from tune/sm_<capability>.json; what compiles well everywhere where none was."""

import functools
import json
from pathlib import Path
from typing import TypeVar

FOLDER = Path(__file__).parent / "tune"
Tiles = TypeVar("Tiles", bound=tuple)


@functools.cache
def table(arch: int) -> dict[str, dict[str, list[int]]]:
    """{operation: {case: tiles}} measured on this architecture; empty where it was never measured."""
    try:
        return json.loads((FOLDER / f"sm_{arch}.json").read_text(encoding="utf-8"))["tiles"]
    except (OSError, ValueError, KeyError):
        return {}


def tuned(operation: str, arch: int, case: str, usual: Tiles) -> Tiles:
    measured = table(arch).get(operation, {}).get(case)
    return tuple(measured) if measured and len(measured) == len(usual) else usual
