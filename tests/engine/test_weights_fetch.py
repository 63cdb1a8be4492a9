"""Downloading, whatever the server does: whole and right, or one typed sentence and nothing under the final name; what came is resumed."""

from __future__ import annotations

import socket
import ssl
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
from hotpath.engine.errors import DownloadFailed, InvalidInput, WeightsInvalid
from hotpath.engine.weights import recognise, transfer
from hotpath.engine.weights.fetch import TRIES
from hotpath.tests.engine.fetching import BODY, NAME, PLACE, brought, entry, names, refused
from hotpath.tests.mirror import HUGGING_FACE, Mirror


def test_a_file_comes_whole_under_its_name(mirror: Mirror, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = brought(tmp_path / "loras", on_progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "loras" / NAME
    assert path.read_bytes() == BODY
    assert names(tmp_path / "loras") == {NAME}
    assert not list(path.parent.glob("*.lock"))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert mirror.agents == ["hotpath"], "nothing about the user is told"
    assert recognise.known_sha256(path) == entry().hash, "it need not be read again to be recognised"


def test_a_file_that_is_there_is_not_asked_for_again(mirror: Mirror, tmp_path: Path) -> None:
    brought(tmp_path)
    brought(tmp_path)
    assert len(mirror.ranges) == 1


def test_another_file_under_the_name_is_left_alone(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(InvalidInput, match="another file"):
        brought(tmp_path)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert not mirror.ranges


# ---- what a server may do


@pytest.mark.parametrize("behaviour", ["truncate 70000", "reset 70000"])
def test_a_transfer_that_breaks_goes_on_where_it_stopped(mirror: Mirror, tmp_path: Path, behaviour: str) -> None:
    mirror.behaviours = [behaviour]
    assert brought(tmp_path).read_bytes() == BODY
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for wanted in mirror.ranges[1:]]
    assert starts == sorted(set(starts))
    assert starts[0] > 0
    if behaviour.startswith("truncate"):
        assert starts == [70_000, 140_000, 210_000, 280_000]


def test_what_came_is_kept_and_resumed_by_the_next_call(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["truncate 100000", "truncate 0"]
    sentence = refused(tmp_path, DownloadFailed, "100000 of 300000", "queue again")
    assert mirror.address.removeprefix("http://") in sentence
    assert len(mirror.ranges) == 1 + TRIES, "it gives up after some requests in a row that bring nothing new"
    assert (tmp_path / f"{NAME}.part").stat().st_size == 100_000
    mirror.behaviours, mirror.ranges = ["honest"], []
    assert brought(tmp_path).read_bytes() == BODY
    assert mirror.ranges == ["bytes=100000-"]
    assert names(tmp_path) == {NAME}


def test_a_stalled_server_is_left_in_the_end(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["stall 100000", "stall 0"]
    refused(tmp_path, DownloadFailed, "silent", "queue again")
    assert (tmp_path / f"{NAME}.part").stat().st_size == 100_000


def test_a_server_without_range_begins_anew(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    mirror.behaviours = ["rangeless"]
    assert brought(tmp_path).read_bytes() == BODY
    assert mirror.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("claim", [-7, 7])
def test_a_lie_about_the_size_is_refused_before_anything_is_written(mirror: Mirror, tmp_path: Path, claim: int) -> None:
    mirror.behaviours = [f"claim {claim}"]
    refused(tmp_path, WeightsInvalid, "300000 bytes", f"offers {300000 + claim}", "https://huggingface.co/owner/repository")
    assert not names(tmp_path)


def test_more_than_the_announced_bytes_are_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files[PLACE], mirror.behaviours = BODY + b"more", ["unsized"]
    refused(tmp_path, WeightsInvalid, "more than the 300000 bytes")


def test_a_size_that_nobody_says_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["unsized"]
    refused(tmp_path, DownloadFailed, "does not say how large", item=entry(size=None))
    mirror.behaviours = ["garbled"]
    refused(tmp_path, DownloadFailed, item=entry(size=None))
    mirror.behaviours = ["unsized"]
    assert brought(tmp_path).read_bytes() == BODY, "where the list knows the size, the server need not say it"


@pytest.mark.parametrize(("verified", "words"), [(True, "sent another"), (False, "not seen on the owner's page")])
def test_wrong_bytes_are_not_kept(mirror: Mirror, tmp_path: Path, verified: bool, words: str) -> None:
    mirror.behaviours = ["wrong"]
    refused(tmp_path, WeightsInvalid, words, "nothing was kept", item=entry(verified=verified))
    assert not names(tmp_path)


def test_a_rounded_size_is_enough(mirror: Mirror, tmp_path: Path) -> None:
    item = entry(size=299_000, size_within=2_000)
    mirror.behaviours = ["truncate 120000", "honest"]
    assert brought(tmp_path, item).read_bytes() == BODY
    (tmp_path / NAME).rename(tmp_path / f"{NAME}.part")  # as when cancelled while the hash was computed
    assert brought(tmp_path, item).read_bytes() == BODY
    assert mirror.ranges == [None, "bytes=120000-", "bytes=300000-"]
    refused(tmp_path / "other", WeightsInvalid, "about", item=entry(size=290_000, size_within=2_000))


def test_a_part_longer_than_the_file_begins_anew(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * (len(BODY) + 5))
    assert brought(tmp_path).read_bytes() == BODY


def test_a_part_of_another_file_is_found_out(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"x" * 1000)
    refused(tmp_path, WeightsInvalid, "sent another")
    assert brought(tmp_path).read_bytes() == BODY, "the wrong part is gone, so the next call is clean"


@pytest.mark.parametrize(
    ("status", "words"),
    [(404, "has no look.safetensors"), (401, "logged in"), (403, "logged in"), (410, "refused"), (500, "try again later"), (503, "later")],
)  # fmt: skip
def test_statuses(mirror: Mirror, tmp_path: Path, status: int, words: str) -> None:
    mirror.behaviours = [f"status {status}"]
    refused(tmp_path, DownloadFailed, f"HTTP {status}", words)
    assert len(mirror.ranges) == (TRIES if status >= 500 else 1)


def test_a_server_that_recovers(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["status 503", "truncate 10", "status 429", "honest"]
    assert brought(tmp_path).read_bytes() == BODY


def test_redirects(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:5000])
    mirror.behaviours = ["redirect 1", "honest"]
    assert brought(tmp_path).read_bytes() == BODY
    assert mirror.ranges == ["bytes=5000-"] * 2, "the other place is asked for the rest only"
    mirror.behaviours = ["redirect 2"]
    refused(tmp_path / "loop", DownloadFailed, "refused")
    mirror.behaviours = ["redirect 3"]
    refused(tmp_path / "elsewhere", DownloadFailed, "ftp")


def test_a_page_in_place_of_the_file(mirror: Mirror, tmp_path: Path) -> None:
    mirror.behaviours = ["page"]
    refused(tmp_path, DownloadFailed, "web page", "log-in")


def test_other_bytes_than_asked_for(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:1000])
    mirror.behaviours = ["misplaced"]
    refused(tmp_path, DownloadFailed, "other bytes")
    assert (tmp_path / f"{NAME}.part").read_bytes() == BODY[:1000]


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1", "http://no such host"])
def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    refused(tmp_path, DownloadFailed, "Expected to reach", "HF_ENDPOINT")


def test_a_proxy_is_obeyed(mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = "http://weights.invalid"
    mirror.files[host + PLACE] = BODY  # a proxy is asked for the whole address
    monkeypatch.setenv("HF_ENDPOINT", host)
    monkeypatch.setenv("http_proxy", mirror.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert brought(tmp_path).read_bytes() == BODY


def test_a_whole_part_is_not_asked_for_twice_where_the_server_does_not_say_why(mirror: Mirror, tmp_path: Path) -> None:
    item = entry(size=len(BODY) - 7, size_within=10)  # as of an owner's page that shows a rounded size
    (tmp_path / f"{NAME}.part").write_bytes(BODY)
    mirror.behaviours = ["status 416"]
    assert brought(tmp_path, item).read_bytes() == BODY
    assert mirror.ranges == [f"bytes={len(BODY)}-"]


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:secret@127.0.0.1:9")
    sentence = refused(tmp_path, DownloadFailed, "127.0.0.1:9/owner", "check the network")
    assert "secret" not in sentence


@pytest.mark.parametrize("error", [ssl.SSLEOFError(8, "EOF"), socket.gaierror(socket.EAI_AGAIN, "later")])
def test_what_may_pass_is_tried_again(error: OSError, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Opener:
        tries = 0

        def open(self, *_: object, **__: object) -> None:
            Opener.tries += 1
            raise urllib.error.URLError(error)

    monkeypatch.setattr(transfer, "_opener", Opener)
    refused(tmp_path, DownloadFailed, "queue again")
    assert Opener.tries == TRIES


def test_a_server_that_begins_anew_needs_no_room_for_what_came(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(BODY[:250_000])
    mirror.behaviours = ["rangeless"]
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=transfer.SPARE + 100_000))
    assert brought(tmp_path).read_bytes() == BODY


def test_the_mirror_is_for_hugging_face_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.invalid/")
    assert transfer.address(entry()) == f"https://mirror.invalid{PLACE}"
    assert transfer.address(entry(url="https://other.invalid/file")) == "https://other.invalid/file"
    monkeypatch.delenv("HF_ENDPOINT")
    assert transfer.address(entry()) == HUGGING_FACE + PLACE
