"""Which known weight file a local file is, whatever it is called."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from . import manifest
from .manifest import Entry

PIECE = 1 << 20
Progress = Callable[[int, int], None]  # bytes done, bytes in all; may raise to stop

_digests: dict[Path, tuple[int, int, str]] = {}  # modification time in ns, size, SHA-256


def known_sha256(path: Path) -> str | None:
    """The SHA-256 of a file that was hashed before and has not changed since."""
    stat, known = path.stat(), _digests.get(path)
    return known[2] if known and known[:2] == (stat.st_mtime_ns, stat.st_size) else None


def sha256_of(path: Path, on_progress: Progress = lambda done, total: None) -> str:
    """SHA-256 of a file; read once for each path, modification time and size."""
    if known := known_sha256(path):
        return known
    stat, digest, done = path.stat(), hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            done += len(piece)
            on_progress(done, stat.st_size)
    _digests[path] = (stat.st_mtime_ns, stat.st_size, digest.hexdigest())
    return digest.hexdigest()


def rename(path: Path, target: Path) -> None:
    """Give a file its final name at once, and keep what is known of it."""
    os.replace(path, target)
    if path in _digests:
        _digests[target] = _digests.pop(path)


def recognise(path: Path, among: Iterable[Entry] | None = None, on_progress: Progress = lambda done, total: None) -> Entry | None:
    """The entry whose file this is, by size and then SHA-256, or None. `Entry.verified` says how far the hash can be trusted.

    A file is only read when an entry has its size; an entry of unknown size is compared with files of its own name.
    """
    path = Path(path)
    size, name = path.stat().st_size, path.name.lower()
    known = manifest.entries() if among is None else among
    possible = [e for e in known if e.hash and (e.fits(size) or (e.size is None and e.name.lower() == name))]
    if not possible:
        return None
    digest = sha256_of(path, on_progress)
    return next((e for e in possible if e.hash == digest), None)
