"""The list of weights: complete, honest about what was not verified, and local files found in it under any name."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hotpath.engine.errors import InvalidInput, WeightsInvalid
from hotpath.engine.students import STUDENTS
from hotpath.engine.weights import manifest, recognise
from hotpath.engine.weights.manifest import Entry

ENTRIES = {entry.id: entry for entry in manifest.entries()}
PUBLIC = [entry for entry in ENTRIES.values() if not entry.path]
ROWS = {row["id"]: row for row in json.loads(manifest.MANIFEST.read_text(encoding="utf-8"))["weights"]}
COMFYUI_FOLDERS = {"loras", "checkpoints", "diffusion_models", "vae_approx"}


def each(entries: list[Entry]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("entry", entries, ids=[entry.id for entry in entries])


def test_ids_and_places_are_unique() -> None:
    assert len(ENTRIES) == len(manifest.entries()) == len(ROWS)
    assert len({(entry.directory, entry.name) for entry in ENTRIES.values()}) == len(ENTRIES)
    hashes = [entry.hash for entry in ENTRIES.values() if entry.hash]
    assert len(hashes) == len(set(hashes))


@each(PUBLIC)
def test_a_public_file_says_what_it_must(entry: Entry) -> None:
    assert entry.directory in COMFYUI_FOLDERS
    assert re.fullmatch(r"[\w.-]+", entry.name)
    assert entry.license
    assert set(entry.needs) <= set(ENTRIES)
    assert entry.hash is None or re.fullmatch("[0-9a-f]{64}", entry.hash)
    assert (entry.size or 1) > 0
    assert entry.home.startswith("https://huggingface.co/")
    if entry.url:
        found = re.fullmatch(r"https://huggingface\.co/[\w.-]+/[\w.-]+/resolve/([\w]+)/[\w./-]+", entry.url)
        assert found, entry.url
        assert found[1] == (entry.revision or "main"), "the entry says whether the address is pinned"
        assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)


@each(PUBLIC)
def test_a_hash_counts_as_verified_only_where_the_owner_shows_it(entry: Entry) -> None:
    assert entry.verified == ("owner's page" in (entry.hash_seen or ""))
    assert bool(entry.hash) == bool(entry.hash_seen)


@each([entry for entry in PUBLIC if not entry.hash or not entry.name.endswith(".safetensors")])
def test_what_cannot_be_checked_or_trusted_is_not_downloadable(entry: Entry) -> None:
    assert entry.not_downloadable


def test_the_students_of_the_list() -> None:
    families = {entry.student for entry in PUBLIC if entry.student}
    assert families <= STUDENTS.keys(), "each is a row of the table"
    assert {"hyper_sd_8", "hyper_sd_8_cfg", "hyper_sd_1", "sdxl_lightning_4", "sdxl_lightning_8", "lcm_lora", "tcd"} <= families
    assert {"pcm_smallcfg_8", "pcm_normalcfg_4", "dmd2_4", "sd_turbo", "sdxl_turbo"} <= families
    assert sum(entry.not_downloadable is None for entry in PUBLIC) >= 25


@each(PUBLIC)
def test_an_entry_can_be_embedded_in_a_workflow(entry: Entry) -> None:
    """Names of fields as ComfyUI reads them from a node's `properties.models`."""
    assert {"name", "url", "hash", "hash_type", "directory"} <= set(ROWS[entry.id])


def test_an_unknown_id_gets_the_ids() -> None:
    assert manifest.entry("taesd-decoder").name == "taesd_decoder.safetensors"
    with pytest.raises(InvalidInput, match=r"'lcm'.*taesd-decoder"):
        manifest.entry("lcm")


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 2, "weights": []}', '{"schema": 1, "weights": [{"id": "x"}]}'])
def test_a_damaged_list_gets_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsInvalid, match="install hotpath again"):
        manifest.read(tmp_path / "list.json")
    with pytest.raises(WeightsInvalid):
        manifest.read(tmp_path / "none.json")


def test_regenerating_the_bundled_part_keeps_the_public_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hotpath.training import bundle

    copy = tmp_path / "weights_manifest.json"
    copy.write_bytes(manifest.MANIFEST.read_bytes())
    bundled = [row for row in ROWS.values() if "path" in row]
    bundle.write_manifest(bundled[:2], copy)
    assert json.loads(copy.read_text(encoding="utf-8"))["weights"] == [
        *bundled[:2],
        *(r for r in ROWS.values() if "path" not in r),
    ]
    bundle.write_manifest(bundled, copy)
    assert copy.read_bytes() == manifest.MANIFEST.read_bytes()


# ---- recognising


def known(body: bytes, **changes: object) -> Entry:
    facts = {"id": "x", "name": "known.safetensors", "directory": "loras", "license": "MIT", "size": len(body)}
    return Entry(**{**facts, "hash": hashlib.sha256(body).hexdigest(), **changes})


def test_a_bundled_file_is_recognised_under_any_name(tmp_path: Path) -> None:
    source = manifest.MANIFEST.parent / ENTRIES["e2gan-comic"].path
    (tmp_path / "my favourite.safetensors").write_bytes(source.read_bytes())
    assert recognise.recognise(tmp_path / "my favourite.safetensors") == ENTRIES["e2gan-comic"]


def test_only_files_of_a_known_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "file.safetensors", []
    path.write_bytes(b"a" * 100)
    sha256_of = recognise.sha256_of
    monkeypatch.setattr(recognise, "sha256_of", lambda *args: reads.append(args) or sha256_of(*args))
    assert recognise.recognise(path, [known(b"a" * 99), known(b"a" * 101), known(b"a" * 100, hash=None)]) is None
    assert not reads
    assert recognise.recognise(path, [known(b"b" * 100), known(b"a" * 100)]) == known(b"a" * 100)
    assert len(reads) == 1
    assert recognise.recognise(path, [known(b"a" * 100, size=95, size_within=5)]) is not None
    assert recognise.recognise(path, [known(b"a" * 100, size=94, size_within=5)]) is None
    assert recognise.recognise(path, [known(b"a" * 100, size=None)]) is None, "unknown size, other name"
    assert recognise.recognise(path, [known(b"a" * 100, size=None, name="File.safetensors")]) is not None


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    path, pieces = tmp_path / "file.bin", []

    def count(done: int, total: int) -> None:
        pieces.append((done, total))

    path.write_bytes(b"a" * 3000)
    assert recognise.known_sha256(path) is None
    first = recognise.sha256_of(path, count)
    assert recognise.sha256_of(path, count) == recognise.known_sha256(path) == first == hashlib.sha256(b"a" * 3000).hexdigest()
    assert pieces == [(3000, 3000)]
    path.write_bytes(b"b" * 3001)
    assert recognise.sha256_of(path, count) == hashlib.sha256(b"b" * 3001).hexdigest()
    assert len(pieces) == 2
