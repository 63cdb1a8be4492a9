"""What is known of weight files and which of them are there, as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
                f"is here as {self.path.name}, with the SHA-256 of {self.entry.hash_seen}; that was not seen on the owner's page, so it "
                "proves nothing about the owner's file"
            )
        if self.state == UNCHECKED and self.entry.hash:
            return "is here by its name and size; choose it by itself to have its SHA-256 compared"
        if self.state == UNCHECKED:
            return "is here by its name alone; no SHA-256 is known to compare it with"
        if self.state == OTHER:
            return "is not here: the file of that name is another one"
        return "is not here"


def find(entry: Entry, files: Sequence[Path], on_progress: Progress, largest: int | None = None) -> Found:
    """Look for an entry among files, under its own name first and then under any; above `largest` bytes nothing is hashed."""
    if entry.path:
        files = [manifest.MANIFEST.parent / entry.path]
    named = [path for path in files if path.name.lower() == entry.name.lower() and path.is_file()]
    others = (
        [path for path in files if path not in named and path.is_file() and entry.fits(path.stat().st_size)] if entry.hash else []
    )
    skipped = []
    for path in named + others:
        if not entry.hash or (entry.size is not None and not entry.fits(path.stat().st_size)):
            continue
        if largest is not None and path.stat().st_size > largest and not known_sha256(path):
            skipped.append(path)
        elif sha256_of(path, on_progress) == entry.hash:
            return Found(entry, path, PROVEN if entry.verified else LIKELY)
    if named and not entry.hash:
        return Found(entry, named[0], UNCHECKED)
    if named and named[0] in skipped:
        return Found(entry, named[0], UNCHECKED)
    return Found(entry, named[0], OTHER) if named else Found(entry, None, ABSENT)


def table(found: Sequence[Found]) -> str:
    """One line for each file."""
    marks = {PROVEN: "+", LIKELY: "~", UNCHECKED: "?", OTHER: "!", ABSENT: "-"}
    rows = [
        (marks[f.state], f.entry.id, _size(f.entry), f.entry.student or "", f.entry.directory, _remarks(f.entry)) for f in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5])).rstrip() for row in rows]
    there = sum(f.there for f in found)
    legend = [
        "+ here, SHA-256 as on the owner's page   ~ here, SHA-256 as on copies only   - not here",
        "? here, not compared   ! not here, but another file of its name",
    ]
    return "\n".join([f"{there} of {len(found)} known files are here.", *legend, "", *lines])


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


def by_directory(entries: Sequence[Entry], files: Mapping[str, Sequence[Path]], on_progress: Progress) -> list[Found]:
    """Every entry, looked for among the files of its directory; large files are not read."""
    return [find(entry, files.get(entry.directory, ()), on_progress, QUICK) for entry in entries]


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
