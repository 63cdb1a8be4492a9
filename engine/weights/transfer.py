"""One request for the missing bytes of a weight file. The only file of this pack that opens a connection.

`HF_ENDPOINT` names a mirror of Hugging Face; HTTP_PROXY, HTTPS_PROXY and NO_PROXY are obeyed; nothing is sent but the request.
"""

import http.client
import os
import queue
import re
import shutil
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DownloadFailed, NotWritten, WeightsInvalid
from .manifest import Entry
from .recognise import Progress

HUB = "https://huggingface.co"
PIECE = 1 << 20
WAITING = 8  # pieces received and not yet written
TICK_S = 0.1
SPARE = 64 << 20  # bytes of the disk that are left free
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
LOCKED_STATUS = {401, 403, 451}


class Broken(DownloadFailed):
    """The transfer ended early for a reason that may pass; what came can be resumed."""


class _NetworkError(Exception):
    """Whatever the receiving thread met, apart from errors of the disk."""


def address(entry: Entry) -> str:
    """The URL of an entry, on the mirror that HF_ENDPOINT names."""
    mirror = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    return mirror + entry.url.removeprefix(HUB) if mirror and entry.url.startswith(f"{HUB}/") else entry.url


def host_of(entry: Entry) -> str:
    return urlsplit(_shown(address(entry))).netloc or address(entry)


def _shown(url: str) -> str:
    """A URL without the name and password that may be in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def length(path: Path) -> int:
    """Bytes of a file that may not be there, or may be renamed by another process at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def transfer(entry: Entry, part: Path, on_progress: Progress, stall_s: float) -> None:
    """Ask for what `part` lacks and append it. Returns when the part has all bytes, which are not checked here.

    Broken: worth another try. DownloadFailed, WeightsInvalid: not. NotWritten: the disk is full. OSError: of the disk.
    """
    have = length(part)
    if have and entry.size == have and not entry.size_within:
        return
    headers = {"User-Agent": "hotpath", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    done, total = have, max(have, entry.size or 0)
    try:
        with closing(_received(address(entry), headers, stall_s, lambda: on_progress(done, total))) as received:
            done, total = _extent(next(received), entry, have)
            _require_room(entry, part.parent, total - have)  # also where the server begins at 0, and what came is written over
            with part.open("ab" if done else "wb", buffering=0) as file:
                for piece in received:
                    if done + len(piece) > total:
                        raise WeightsInvalid(
                            f"{host_of(entry)} sends more than the {total} bytes of {entry.name}: {_elsewhere(entry)}"
                        )
                    _write(file, piece)
                    done += len(piece)
                    on_progress(done, total)
                os.fsync(file.fileno())
    except _NetworkError as failure:
        if _says_whole(failure.__cause__, entry, have):
            return
        raise _explained(failure.__cause__, entry, part) from failure.__cause__
    if done < total:
        raise Broken(_ended(entry, f"after {done} of {total} bytes"))


def _received(url: str, headers: dict[str, str], stall_s: float, alive: Callable[[], None]) -> Iterator:
    """The server's answer, then its bytes piece by piece.

    They are received in a thread of their own, so that `alive`, which may raise to stop, is called while nothing arrives too.
    """
    items, stop = queue.Queue(WAITING), threading.Event()
    threading.Thread(target=_receive, args=(url, headers, stall_s, items, stop), daemon=True).start()
    try:
        while True:
            try:
                item = items.get(timeout=TICK_S)
            except queue.Empty:
                alive()
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise _NetworkError from item
            yield item
    finally:
        stop.set()


def _receive(url: str, headers: dict[str, str], stall_s: float, items: queue.Queue, stop: threading.Event) -> None:
    def put(item: object) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                return items.put(item, timeout=TICK_S)

    try:
        with _opener().open(urllib.request.Request(url, headers=headers), timeout=stall_s) as answer:
            put(answer)
            while not stop.is_set() and (piece := answer.read1(PIECE)):
                put(piece)
        put(None)
    except Exception as error:  # raised again in the thread that waits
        put(error)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only, redirects included, with the system's certificates and certifi's where that is installed."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _extent(answer: http.client.HTTPResponse, entry: Entry, have: int) -> tuple[int, int]:
    """First byte that the answer brings, and the size of the whole file; a server that ignores Range begins at 0."""
    if answer.headers.get_content_type() == "text/html":
        raise DownloadFailed(
            f"{host_of(entry)} answered with a web page in place of {entry.name}, as log-in pages of networks do: {_elsewhere(entry)}"
        )
    start, announced = 0, answer.headers.get("Content-Length", "")
    total = int(announced) if announced.isdecimal() else (None if entry.size_within else entry.size)
    if answer.status == 206:
        ranged = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if ranged is None or int(ranged[1]) != have:
            raise DownloadFailed(
                f"{host_of(entry)} answered with other bytes of {entry.name} than asked for: {_elsewhere(entry)}"
            )
        start, total = int(ranged[1]), int(ranged[2])
    if total is None:
        raise DownloadFailed(f"{host_of(entry)} does not say how large {entry.name} is: {_elsewhere(entry)}")
    if entry.size is not None and not entry.fits(total):
        about = "about " if entry.size_within else ""
        raise WeightsInvalid(
            f"Expected {entry.name} to have {about}{entry.size} bytes, {host_of(entry)} offers {total}: {_elsewhere(entry)}"
        )
    return start, total


def _require_room(entry: Entry, folder: Path, needed: int) -> None:
    room = max(0, shutil.disk_usage(folder).free - SPARE)
    if needed > room:
        raise NotWritten(
            f"Expected {megabytes(needed)} of free disk in {folder} for {entry.name}, got {megabytes(room)}: make room, "
            "then queue again."
        )


def _write(file: object, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[file.write(view) :]


def _ended(entry: Entry, how: str) -> str:
    return f"The connection to {host_of(entry)} ended {how} of {entry.name}: queue again to go on from there."


def _elsewhere(entry: Entry) -> str:
    return f"try again later or without HF_ENDPOINT, or download it in a browser from {entry.home}."


def _says_whole(error: BaseException | None, entry: Entry, have: int) -> bool:
    """Whether the server refused the request because nothing is missing; it need not say so (RFC 9110, section 15.5.17)."""
    if not isinstance(error, urllib.error.HTTPError) or error.code != 416:
        return False
    told = error.headers.get("Content-Range")
    return told == f"bytes */{have}" if told else entry.fits(have)


def _explained(error: BaseException | None, entry: Entry, part: Path) -> DownloadFailed:
    """The typed sentence for what the network did."""
    host, reason = host_of(entry), getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        if error.code == 416:
            part.unlink(missing_ok=True)
            return Broken(f"{host} has fewer bytes of {entry.name} than had come: queue again to begin anew.")
        if error.code in TRANSIENT_STATUS:
            return Broken(f"{host} cannot send {entry.name} now (HTTP {error.code}): try again later.")
        why = f"refused to send {entry.name}"
        if error.code in LOCKED_STATUS:
            why = f"gives {entry.name} only to people who have logged in and agreed to its terms"
        if error.code == 404:
            why = f"has no {entry.name} at that address"
        return DownloadFailed(f"{host} {why} (HTTP {error.code}): {_elsewhere(entry)}")
    if isinstance(reason, TimeoutError):
        return Broken(f"{host} fell silent while sending {entry.name}: queue again to go on from there.")
    passing = (ConnectionError, http.client.IncompleteRead, ssl.SSLEOFError)
    asleep = isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_AGAIN  # names are not found for now
    if asleep or (isinstance(reason, passing) and not isinstance(reason, ConnectionRefusedError)):
        return Broken(_ended(entry, "in the middle"))
    return DownloadFailed(
        f"Expected to reach {_shown(address(entry))}, but it failed ({reason}): check the network, the proxy (HTTPS_PROXY) and the "
        "mirror (HF_ENDPOINT), then queue again."
    )
