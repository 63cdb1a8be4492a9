"""The weight files this pack knows of: `weights_manifest.json`, read and checked."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import InvalidInput, WeightsInvalid

MANIFEST = Path(__file__).parents[2] / "weights_manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """One file. Bundled ones have a `path` in the pack, public ones a `url` or at least the owner's `page`."""

    id: str
    name: str  # under which it is stored; the owner's name may be another
    directory: str  # below ComfyUI's models folder, which also is the name its loaders know
    license: str
    size: int | None  # bytes
    hash: str | None  # SHA-256
    hash_type: str = "SHA256"
    size_within: int = 0  # bytes by which the true size may differ, where the owner's page shows a rounded one
    needs: tuple[str, ...] = ()  # ids of files without which this one is of no use
    student: str | None = None  # how it is to be driven; None: not a few-step student
    path: str | None = None
    url: str | None = None
    page: str | None = None
    revision: str | None = None  # commit that `url` is pinned to; None: the address follows a branch
    verified: bool = True  # whether `hash` was seen on the owner's own page
    hash_seen: str | None = None  # where the hash was seen
    refused: str | None = None  # why it is listed but never downloaded
    note: str = ""
    measured: str = ""

    def fits(self, size: int) -> bool:
        """Whether a file of `size` bytes can be this one."""
        return self.size is not None and abs(size - self.size) <= self.size_within

    @property
    def home(self) -> str:
        """The owner's page, for a browser."""
        return self.page or (self.url or "").partition("/resolve/")[0]

    @property
    def not_downloadable(self) -> str | None:
        """Why this file is not downloaded, or None."""
        if self.path:
            return "it comes with the pack"
        if self.refused:
            return self.refused
        if not self.hash or not self.url:
            return "its SHA-256 is not known here, so what comes could not be checked"
        return None


@lru_cache(maxsize=4)
def read(path: Path) -> tuple[Entry, ...]:
    """Every entry of a manifest file, in its order."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, rows = content["schema"], content["weights"]
        entries = tuple(Entry(**{**row, "needs": tuple(row["needs"])}) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsInvalid(f"The list of weights {path.name} cannot be read ({error}): install hotpath again.") from error
    if version != SCHEMA:
        raise WeightsInvalid(f"{path.name} is of version {version}, this hotpath reads version {SCHEMA}: install hotpath again.")
    return entries


def entries() -> tuple[Entry, ...]:
    """Every weight file that is known, bundled ones first."""
    return read(MANIFEST)


def entry(name: str) -> Entry:
    """The entry of an id."""
    for candidate in entries():
        if candidate.id == name:
            return candidate
    raise InvalidInput(f"Expected the id of a weight file, got '{name}': choose one of {', '.join(e.id for e in entries())}.")
