"""A server of files on this machine that can be told to misbehave, for tests of downloading."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUGGING_FACE = "https://huggingface.co"


@dataclass
class Mirror:
    """What the server has, how it behaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # by path
    behaviours: list[str] = field(default_factory=list)  # one is used up by each request; the last one stays
    ranges: list[str | None] = field(default_factory=list)  # the Range header of each request, in order
    agents: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # ends every stall

    def behaviour(self) -> tuple[str, int]:
        """Name and number of the next behaviour, written as "truncate 100"."""
        name = self.behaviours.pop(0) if len(self.behaviours) > 1 else (self.behaviours or ["honest"])[0]
        word, _, number = name.partition(" ")
        return word, int(number or 0)


class Handler(BaseHTTPRequestHandler):
    """honest, or one of the faults that `do_GET` names."""

    mirror: Mirror

    def do_GET(self) -> None:
        mirror, (kind, number) = self.mirror, self.mirror.behaviour()
        mirror.ranges.append(self.headers.get("Range"))
        mirror.agents.append(self.headers.get("User-Agent", ""))
        if kind == "status":
            return self.send_error(number)
        if kind == "redirect":
            target = {1: "/moved" + self.path, 2: self.path, 3: "ftp://127.0.0.1/file"}[number]
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = mirror.files.get(self.path.removeprefix("/moved"))
        if body is None:
            return self.send_error(404)
        if kind == "page":
            return self.answer(200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
        if kind == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        start = 0
        if (wanted := self.headers.get("Range")) and kind != "rangeless":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(body):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        if kind == "misplaced":
            headers = {"Content-Range": f"bytes {start + 1}-{len(body) - 1}/{len(body)}"}
        claimed: int | None = len(body) - start
        if kind == "claim":
            claimed += number
        if kind == "unsized":
            claimed = None
        if kind == "garbled":
            claimed, headers = None, {"Content-Length": "many"}
        sent = body[start : start + number] if kind in ("truncate", "stall", "reset") else body[start:]
        self.answer(206 if start or kind == "misplaced" else 200, sent, headers, claimed)
        if kind == "stall":
            mirror.released.wait(20)
        if kind == "reset":  # as when the machine at the other end is switched off
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def answer(self, status: int, body: bytes, headers: dict[str, str], claimed: int | None = -1) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if claimed is not None:
            self.send_header("Content-Length", str(len(body) if claimed == -1 else claimed))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that has gone
            self.wfile.write(body)
            self.wfile.flush()

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serving() -> Iterator[Mirror]:
    """A mirror on a free port, for as long as the `with` block."""
    mirror = Mirror()
    handler = type("MirrorHandler", (Handler,), {"mirror": mirror})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        mirror.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield mirror
        finally:
            mirror.released.set()
            server.shutdown()
