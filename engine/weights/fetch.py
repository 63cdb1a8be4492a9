"""Brings one weight file that a user has asked for to its place, whole or not at all.

The bytes go to `<name>.part`, which a later call resumes; the file gets its name only when size and SHA-256 are right.
The standard library is used and not huggingface_hub: tried against a server that misbehaves, version 2.4.0 deletes what has
come when a transfer fails, gives wrong bytes the final name, and leaves a `.cache` folder among the models.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DownloadFailed, InvalidInput, NotWritten, WeightsInvalid
from .manifest import Entry
from .recognise import Progress, rename, sha256_of
from .transfer import TICK_S, Broken, host_of, length, transfer

STALL_S, PAUSE_S = 30.0, 1.0
TRIES = 3  # in a row that bring nothing new


def fetch(
    entry: Entry,
    folder: Path,
    on_progress: Progress = lambda done, total: None,
    *,
    stall_s: float = STALL_S,
    pause_s: float = PAUSE_S,
) -> Path:
    """Bring the file of an entry into `folder` and return its path.

    `on_progress(bytes done, bytes in all)` is called ten times a second, also while nothing arrives; what it raises stops the
    download and keeps the part. Of several processes one fetches, the others wait. DownloadFailed, WeightsInvalid, NotWritten
    or InvalidInput say in a sentence what went wrong; then nothing new stands under the final name.
    """
    if reason := entry.not_downloadable:
        raise InvalidInput(f"{entry.name} is not downloaded, because {reason}. The owner's page: {entry.home}")
    target, part = folder / entry.name, folder / f"{entry.name}.part"
    seldom = _seldom(on_progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(entry, part, seldom):
            if not target.exists():
                _complete(entry, part, seldom, stall_s, pause_s)
                _check(entry, part, seldom)
                rename(part, target)
            elif sha256_of(target, seldom) != entry.hash:
                raise InvalidInput(f"Expected no file or the known one at {target}, got another file: rename or move it.")
    except OSError as error:
        raise NotWritten(f"Expected to write {target}, but it failed ({error}): make room, or choose another folder.") from error
    on_progress(length(target), length(target))
    return target


def _seldom(on_progress: Progress) -> Progress:
    """`on_progress`, called at most once in a tick."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TICK_S:
            last = time.monotonic()
            on_progress(done, total)

    return report


@contextmanager
def _turn(entry: Entry, part: Path, on_progress: Progress) -> Iterator[None]:
    """Waits until no other process fetches the same file. The system takes the lock from a process that dies."""
    from filelock import FileLock, Timeout  # comes with torch

    path = part.with_name(f"{part.name}.lock")
    path.open("ab").close()  # where nothing can be written, the lock would wait for ever on Windows
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=TICK_S)
        except Timeout:
            on_progress(length(part), max(length(part), entry.size or 0))
    try:
        yield
    finally:
        lock.release()
    with suppress(OSError):  # whoever still waits on it finds the file in place
        path.unlink(missing_ok=True)


def _complete(entry: Entry, part: Path, on_progress: Progress, stall_s: float, pause_s: float) -> None:
    """Requests until the part has all bytes, or until some requests in a row brought nothing new."""
    most, failures = length(part), 0
    while True:
        try:
            return transfer(entry, part, on_progress, stall_s)
        except Broken as broken:
            failures = failures + 1 if length(part) <= most else 0
            most = max(most, length(part))
            if failures >= TRIES:
                raise DownloadFailed(str(broken)) from broken
        until = time.monotonic() + pause_s * failures
        while time.monotonic() < until:
            time.sleep(min(TICK_S, pause_s))
            on_progress(length(part), max(length(part), entry.size or 0))


def _check(entry: Entry, part: Path, on_progress: Progress) -> None:
    """WeightsInvalid unless the part has the hash of the manifest; a wrong part cannot be resumed and is removed."""
    digest = sha256_of(part, lambda _, total: on_progress(total, total))
    if digest == entry.hash:
        return
    part.unlink()
    if entry.verified:
        raise WeightsInvalid(
            f"{host_of(entry)} sent another {entry.name} than the known one (SHA-256 {digest[:12]}, expected {entry.hash[:12]}): "
            f"nothing was kept; try again, without HF_ENDPOINT if it is set, or see {entry.home}."
        )
    raise WeightsInvalid(
        f"{host_of(entry)} sent a {entry.name} with SHA-256 {digest[:12]}, and {entry.hash[:12]} was expected, a hash that was "
        f"not seen on the owner's page and may itself be wrong: nothing was kept; compare with {entry.home}."
    )
