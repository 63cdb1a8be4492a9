"""Downloading, whatever happens on this machine: Cancel, full disks, other processes that want the same file."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hotpath.engine.errors import InvalidInput, NotWritten
from hotpath.engine.weights import manifest, recognise, report, transfer
from hotpath.tests.engine.fetching import BODY, NAME, brought, entry, names, refused
from hotpath.tests.mirror import Mirror
from hotpath.tests.testing import ROOT

# ---- what a user or a disk may do


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("behaviour", ["stall 100000", "stall 0"])
def test_cancel_keeps_the_part(mirror: Mirror, tmp_path: Path, behaviour: str) -> None:
    mirror.behaviours = [behaviour]
    began, calls = time.monotonic(), 0

    def cancel(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done >= 100_000 or (behaviour == "stall 0" and calls > 2):
            raise Cancelled

    with pytest.raises(Cancelled):
        brought(tmp_path, on_progress=cancel, stall_s=30)
    assert time.monotonic() - began < 3, "also while the server is silent"
    assert NAME not in names(tmp_path)
    kept = (tmp_path / f"{NAME}.part").read_bytes()
    assert BODY.startswith(kept)
    assert len(kept) >= 100_000 or behaviour == "stall 0"
    mirror.behaviours = ["honest"]
    assert brought(tmp_path).read_bytes() == BODY


def test_a_disk_without_room_is_told_beforehand(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": transfer.SPARE + 200_000})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda folder: usage)
    refused(tmp_path, NotWritten, "0.3 MB of free disk", "got 0.2 MB", "make room")
    assert not names(tmp_path)
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:150_000])
    assert brought(tmp_path).read_bytes() == BODY, "only what is missing needs room"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_is_full_all_the_same(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").symlink_to("/dev/full")
    refused(tmp_path, NotWritten, "No space left", "make room")


def test_a_write_that_fails_keeps_what_is_there(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write, written = transfer._write, []

    def short_of_room(file: object, piece: bytes) -> None:
        if sum(written) > 50_000:
            raise OSError(28, "No space left on device")
        written.append(len(piece))
        write(file, piece)

    monkeypatch.setattr(transfer, "_write", short_of_room)
    monkeypatch.setattr(transfer, "PIECE", 20_000)
    refused(tmp_path, NotWritten, "No space left")
    assert BODY.startswith((tmp_path / f"{NAME}.part").read_bytes())
    monkeypatch.setattr(transfer, "_write", write)
    assert brought(tmp_path).read_bytes() == BODY
    assert mirror.ranges[1] == f"bytes={sum(written)}-"


def test_a_folder_that_cannot_be_made(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NotWritten, match="choose another folder"):
        brought(tmp_path / "file" / "loras")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"hash": None}, "not known"), ({"url": None}, "not known"), ({"refused": "a pickle"}, "a pickle"), ({"path": "x"}, "with the pack")],
)  # fmt: skip
def test_files_that_are_only_listed(mirror: Mirror, tmp_path: Path, changes: dict, words: str) -> None:
    refused(tmp_path, InvalidInput, words, item=entry(**changes))
    assert not mirror.ranges


# ---- several at a time


def _in_a_process(folder: Path, results: multiprocessing.Queue) -> None:
    results.put(brought(folder).read_bytes() == BODY)


def test_processes_take_turns(mirror: Mirror, tmp_path: Path) -> None:
    """Three processes of Python's own, forked: no torch is imported anew."""
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    results = context.Queue()
    processes = [context.Process(target=_in_a_process, args=(tmp_path, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=20) for _ in processes] == [True] * 3
    for process in processes:
        process.join()
    assert len(mirror.ranges) == 1
    assert names(tmp_path) == {NAME}


def test_who_waits_is_told_how_far_the_other_is_and_can_cancel(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["stall 100000", "honest"]
    first = threading.Thread(target=brought, args=(tmp_path,), kwargs={"stall_s": 1.5})
    first.start()
    while not (tmp_path / f"{NAME}.part").exists() or (tmp_path / f"{NAME}.part").stat().st_size < 100_000:
        time.sleep(0.01)

    def cancel(done: int, total: int) -> None:
        assert (done, total) == (100_000, 300_000)
        raise Cancelled

    with pytest.raises(Cancelled):
        brought(tmp_path, on_progress=cancel)
    first.join()
    assert (tmp_path / NAME).read_bytes() == BODY


def test_the_lock_of_a_dead_process_does_not_block(mirror: Mirror, tmp_path: Path) -> None:
    lock = tmp_path / f"{NAME}.part.lock"
    program = "import os, sys, filelock; filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); sys.stdin.read()"
    held = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert held.stdout.readline() == b"held\n"
    waited: list[int] = []

    def end_it(done: int, total: int) -> None:
        waited.append(done)
        held.kill()

    assert brought(tmp_path, on_progress=end_it).read_bytes() == BODY
    held.communicate()
    assert waited, "it waited while the other was alive"


def test_nothing_connects_without_a_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Listing and recognising work where opening a connection is impossible."""

    def no_network(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    bundled = manifest.entry("e2gan-comic")
    copy = tmp_path / "renamed.safetensors"
    shutil.copyfile(ROOT / bundled.path, copy)
    assert recognise.recognise(copy).id == bundled.id
    files = {bundled.directory: report.sizes_of([copy])}
    text = report.table(report.by_directory(manifest.entries(), files, lambda *_: None))
    assert any(bundled.id in line and "yes" in line for line in text.splitlines())
