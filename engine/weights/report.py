"""What is known of weight files and which of them are there, as text."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import markdown
from . import manifest
from .manifest import Entry
from .recognise import Progress, known_sha256, sha256_of

PROVEN, LIKELY, UNCHECKED, OTHER, ABSENT = "proven", "likely", "unchecked", "other", "absent"
QUICK = 1 << 30  # bytes up to which a file is hashed for the mere list


@dataclass(frozen=True)
class Found:
    """A known file, where it is on this machine if it is, and how sure that is."""

    entry: Entry
    path: Path | None
    state: str

    @property
    def there(self) -> bool:
        return self.state in (PROVEN, LIKELY)

    @property
    def sentence(self) -> str:
        if self.state == PROVEN:
            alias = "" if self.path.name == self.entry.name else f", under the name {self.path.name}"
            return f"is here{alias}; its SHA-256 is the known one"
        if self.state == LIKELY:
            return (
                f"is here as {self.path.name}, with the SHA-256 seen in {self.entry.hash_seen}; it was not seen on the owner's page, so "
                "it proves nothing about the owner's file"
            )
        if self.state == UNCHECKED and self.entry.hash:
            return "is here by its name and size, not compared; choose it by itself to have its SHA-256 compared"
        if self.state == UNCHECKED:
            return "is here by its name alone; no SHA-256 is known to compare it with"
        if self.state == OTHER:
            return "is not here: the file of that name is another one"
        return "is not here"


def sizes_of(paths: Iterable[Path]) -> dict[Path, int]:
    """The files among paths, with their sizes in bytes."""
    return {path: path.stat().st_size for path in paths if path.is_file()}


def find(entry: Entry, files: Mapping[Path, int], on_progress: Progress, largest: int | None = None) -> Found:
    """Look for an entry among files with their sizes, under its own name first and then under any.

    Files above `largest` bytes, and those that cannot be read, are not compared.
    """
    if entry.path:
        files = sizes_of([manifest.MANIFEST.parent / entry.path])
    named = [path for path in files if path.name.lower() == entry.name.lower()]
    if not entry.hash:
        return Found(entry, named[0], UNCHECKED) if named else Found(entry, None, ABSENT)
    unread = []
    for path in sorted(files, key=lambda path: path not in named):
        size = files[path]
        if not entry.fits(size) and not (entry.size is None and path in named):
            continue
        try:
            if largest is not None and size > largest and not known_sha256(path):
                unread.append(path)
            elif sha256_of(path, on_progress) == entry.hash:
                return Found(entry, path, PROVEN if entry.verified else LIKELY)
        except OSError:
            unread.append(path)
    if not named:
        return Found(entry, None, ABSENT)
    return Found(entry, named[0], UNCHECKED if named[0] in unread else OTHER)


def table(found: Sequence[Found]) -> str:
    """One row for each file, as a Markdown table."""
    words = {PROVEN: "yes", LIKELY: "likely", UNCHECKED: "unread", OTHER: "other", ABSENT: "no"}
    rows = [
        [words[f.state], f.entry.id, _size(f.entry), f.entry.student or "", f.entry.directory, _remarks(f.entry)] for f in found
    ]
    there = sum(f.there for f in found)
    legend = (
        "yes: SHA-256 as on the owner's page. likely: SHA-256 as on copies only. unread: not compared. "
        "other: another file has its name. no: not here."
    )
    heading = ["here", "file", "size", "student", "folder", "licence"]
    return "\n".join(
        [f"{there} of {len(found)} known files are here.", "", markdown.table([heading, *rows], len(heading)), "", legend]
    )


def sheet(found: Found, folder: Path) -> str:
    """All that is known of one file; `folder` is where it belongs."""
    entry = found.entry
    names = {e.id: e.name for e in manifest.entries()}
    lines = [f"{entry.name} {found.sentence}."]
    if found.path and found.state != OTHER:
        lines.append(f"Path: {found.path}")
    elif not entry.path:
        lines.append(f"It belongs at: {folder / entry.name}")
    lines += [f"Size: {_size(entry)}", f"Licence: {entry.license}"]
    if entry.student:
        lines.append(f"Student: {entry.student}")
    if entry.needs:
        lines.append(
            f"Needs: {', '.join(names[name] for name in entry.needs)}"
            + (" or another model of its family" if entry.student else "")
        )
    if entry.url:
        lines.append(f"Address: {entry.url}")
        if not entry.revision:
            lines.append("The address is not pinned to a commit; what it brings is compared by SHA-256.")
    if entry.hash:
        kind = "SHA-256" if entry.verified else "SHA-256, NOT VERIFIED"
        lines.append(f"{kind}: {entry.hash}" + (f" (seen on: {entry.hash_seen})" if entry.hash_seen else ""))
    if not found.there and not entry.path:
        refusal = f"Never downloaded by this node, because {entry.not_downloadable}. The owner's page: {entry.home}"
        lines.append(refusal if entry.not_downloadable else "To fetch it, turn on download and queue.")
    return "\n".join(lines + ([f"Note: {entry.note}"] if entry.note else []))


def by_directory(entries: Sequence[Entry], files: Mapping[str, Mapping[Path, int]], on_progress: Progress) -> list[Found]:
    """Every entry, looked for among the files of its directory; large files are not read."""
    return [find(entry, files.get(entry.directory, {}), on_progress, QUICK) for entry in entries]


def _remarks(entry: Entry) -> str:
    """The licence, and what else a choice depends on."""
    doubts = ["SHA-256 not verified"] if entry.hash and not entry.verified else []
    doubts += ["never downloaded"] if entry.not_downloadable and not entry.path else []
    return "; ".join([entry.license, *doubts])


def _size(entry: Entry) -> str:
    if entry.size is None:
        return "unknown"
    text = f"{entry.size / 1e9:.2f} GB" if entry.size >= 1e9 else f"{entry.size / 1e6:.1f} MB"
    return f"about {text}" if entry.size_within else text
