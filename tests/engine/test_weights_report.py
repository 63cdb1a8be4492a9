"""What is said of a file: where it was found, how sure that is, and what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hotpath.engine.weights import report
from hotpath.engine.weights.manifest import Entry

BODY = b"weights" * 100


def quiet(done: int, total: int) -> None:
    """No progress is shown."""


def entry(**changes: object) -> Entry:
    facts = {"id": "look", "name": "look.safetensors", "directory": "loras", "license": "MIT", "size": len(BODY)}
    facts |= {
        "hash": hashlib.sha256(BODY).hexdigest(),
        "url": "https://huggingface.co/o/r/resolve/main/f",
        "hash_seen": "owner's page",
    }
    return Entry(**{**facts, **changes})


def file(folder: Path, name: str, body: bytes = BODY) -> Path:
    (folder / name).write_bytes(body)
    return folder / name


@pytest.mark.parametrize(
    ("changes", "name", "body", "state", "words"),
    [
        ({}, "look.safetensors", BODY, report.PROVEN, "is here; its SHA-256 is the known one"),
        ({}, "mine.safetensors", BODY, report.PROVEN, "under the name mine.safetensors"),
        (
            {"verified": False, "hash_seen": "2 re-uploads"},
            "look.safetensors",
            BODY,
            report.LIKELY,
            "not seen on the owner's page",
        ),
        ({}, "look.safetensors", BODY[:-1] + b"?", report.OTHER, "another one"),
        ({}, "look.safetensors", BODY + b"?", report.OTHER, "another one"),
        ({}, "mine.safetensors", BODY[:-1] + b"?", report.ABSENT, "is not here"),
        ({"hash": None}, "look.safetensors", BODY, report.UNCHECKED, "by its name alone"),
        ({"hash": None}, "mine.safetensors", BODY, report.ABSENT, "is not here"),
    ],
)
def test_a_file_is_judged(tmp_path: Path, changes: dict, name: str, body: bytes, state: str, words: str) -> None:
    item, path = entry(**changes), file(tmp_path, name, body)
    found = report.find(item, report.sizes_of([path]), quiet)
    assert found.state == state
    assert words in found.sentence
    assert found.there == (state in (report.PROVEN, report.LIKELY))
    assert report.sheet(found, tmp_path).startswith(f"{item.name} {found.sentence}.")


def test_the_right_file_is_found_beside_a_wrong_one_of_its_name(tmp_path: Path) -> None:
    wrong, right = file(tmp_path, "look.safetensors", b"x"), file(tmp_path, "renamed.safetensors")
    assert report.find(entry(), report.sizes_of([wrong, right]), quiet).path == right


def test_large_files_are_not_read_for_the_list(tmp_path: Path) -> None:
    path, reads = file(tmp_path, "look.safetensors"), []
    read = lambda done, total: reads.append(done)  # noqa: E731
    found = report.find(entry(), report.sizes_of([path]), read, largest=len(BODY) - 1)
    assert (found.state, reads) == (report.UNCHECKED, [])
    assert "choose it by itself" in found.sentence
    assert report.find(entry(), report.sizes_of([path]), read).state == report.PROVEN
    assert report.find(entry(), report.sizes_of([path]), read, largest=1).state == report.PROVEN, (
        "what was compared before is known"
    )


def test_a_file_that_cannot_be_read_does_not_end_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(path: Path, on_progress: object) -> str:
        raise PermissionError(path)

    named, other = file(tmp_path, "look.safetensors"), file(tmp_path, "other.safetensors")
    monkeypatch.setattr(report, "sha256_of", locked)
    assert report.find(entry(), report.sizes_of([named, other]), quiet).state == report.UNCHECKED
    assert report.find(entry(), report.sizes_of([other]), quiet).state == report.ABSENT


def test_the_sheet_says_what_to_do(tmp_path: Path) -> None:
    def sheet(**changes: object) -> str:
        return report.sheet(report.find(entry(**changes), {}, quiet), Path("models") / "loras")

    assert f"It belongs at: {Path('models') / 'loras' / 'look.safetensors'}" in sheet()
    assert "turn on download" in sheet()
    assert "not pinned to a commit" in sheet()
    assert "not pinned" not in sheet(revision="a" * 40)
    assert "NOT VERIFIED" in sheet(verified=False)
    assert "Never downloaded" in sheet(hash=None)
    assert "because it is a pickle" in sheet(refused="it is a pickle")
    assert "Student: tcd" in sheet(student="tcd")
    assert "v1-5-pruned-emaonly-fp16.safetensors or another model" in sheet(student="tcd", needs=("sd15-fp16",))
    assert "Note: old" in sheet(note="old")


def test_the_table_has_a_line_for_each(tmp_path: Path) -> None:
    items = [entry(), entry(id="other", name="o", hash="0" * 64, size=5, verified=False, student="lcm-lora")]
    path = file(tmp_path, "any.safetensors")
    lines = report.table(report.by_directory(items, {"loras": report.sizes_of([path])}, quiet)).splitlines()
    assert lines[0] == "1 of 2 known files are here."
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0][:2] == ["here", "file"]
    assert set("".join(rows[1])) == {"-"}
    assert [row[:2] for row in rows[2:]] == [["yes", "look"], ["no", "other"]]
    assert rows[3][-1] == "MIT; SHA-256 not verified"
