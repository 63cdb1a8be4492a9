"""A websocket client (RFC 6455) in the standard library: enough to listen to a ComfyUI server."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
from typing import BinaryIO

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocket:
    """An open connection; `receive` returns whole messages and answers pings. Use it in a `with` statement."""

    def __init__(self, host: str, port: int, path: str, silence_s: float) -> None:
        """Connects to ws://host:port/path; `silence_s` is how long to wait for the next message before TimeoutError."""
        self.socket = socket.create_connection((host, port), timeout=silence_s)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = [line.decode("latin-1").strip() for line in iter(self.stream.readline, b"\r\n") if line]
        accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        if not head or " 101 " not in f"{head[0]} " or headers.get("sec-websocket-accept") != accept:
            self.close()
            raise ConnectionError(f"Expected a websocket at {host}:{port}{path}, got {head[:1]}; is that ComfyUI?")

    def receive(self) -> str | bytes | None:
        """The next message, text as str and anything else as bytes; None once the server has closed."""
        kind, parts = None, []
        while True:
            final, opcode, payload = read_frame(self.stream)
            if opcode == PING:
                self.socket.sendall(frame(PONG, payload))
            elif opcode == CLOSE:
                return None
            elif opcode in (TEXT, BINARY, CONTINUATION):
                kind = kind or opcode
                parts.append(payload)
                if final:
                    message = b"".join(parts)
                    return message.decode("utf-8") if kind == TEXT else message

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_frame(stream: BinaryIO) -> tuple[bool, int, bytes]:
    """One frame from the server: whether it ends its message, its opcode, its payload."""
    first, second = _exactly(stream, 2)
    if first & 0x70 or second & 0x80:
        raise ConnectionError("Expected an unmasked websocket frame without extensions, got another; is that ComfyUI?")
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", _exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", _exactly(stream, 8))
    return bool(first & 0x80), first & 0x0F, _exactly(stream, length)


def frame(opcode: int, payload: bytes) -> bytes:
    """A final frame from the client, which RFC 6455 wants masked; for control frames, so at most 125 bytes."""
    mask = os.urandom(4)
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ConnectionError("Expected the websocket to stay open, got its end; the server has stopped or crashed.")
    return data
