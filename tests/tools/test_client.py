"""The websocket and following a prompt to its end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hotpath.tools import client as client_module
from hotpath.tools import websocket
from hotpath.tools.client import Run, follow

# ---- the websocket


def unmasked(opcode: int, payload: bytes, final: bool = True) -> bytes:
    size = len(payload)
    head = (
        bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
    )
    return bytes([opcode | 0x80 * final]) + head + payload


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_of_every_length_are_read(size: int) -> None:
    stream = io.BytesIO(unmasked(websocket.BINARY, b"x" * size) + unmasked(websocket.TEXT, b"next"))
    assert websocket.read_frame(stream) == (True, websocket.BINARY, b"x" * size)
    assert websocket.read_frame(stream) == (True, websocket.TEXT, b"next")


@pytest.mark.parametrize("data", [b"", b"\x81", unmasked(1, b"abc")[:-1], unmasked(2, b"x" * 200)[:3]])
def test_a_connection_that_ends_inside_a_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(ConnectionError, match="got its end"):
        websocket.read_frame(io.BytesIO(data))


@pytest.mark.parametrize("data", [b"\xc1\x00", b"\x81\x80\0\0\0\0"], ids=["compressed", "masked"])
def test_frames_a_server_must_not_send_are_refused(data: bytes) -> None:
    with pytest.raises(ConnectionError, match="unmasked"):
        websocket.read_frame(io.BytesIO(data))


def test_client_frames_are_masked() -> None:
    sent = websocket.frame(websocket.PONG, b"hello")
    mask, body = sent[2:6], sent[6:]
    assert sent[0] == 0x8A
    assert sent[1] == 0x85
    assert bytes(b ^ mask[i % 4] for i, b in enumerate(body)) == b"hello"


@contextlib.contextmanager
def websocket_server(frames: bytes, guid: str = websocket.GUID) -> Iterator[tuple[int, list[bytes]]]:
    """The port of a server that shakes hands and sends `frames`, and the list that what it gets back goes into."""
    got: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(4096).decode()
            key = next(line.split(": ")[1] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
            accept = base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()
            connection.sendall(f"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode() + frames)
            with contextlib.suppress(OSError):
                got.append(connection.recv(4096))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], got
        thread.join(10)


def test_messages_are_joined_and_pings_answered() -> None:
    frames = (
        unmasked(websocket.TEXT, b'{"a"', final=False)
        + unmasked(websocket.PING, b"now")
        + unmasked(websocket.CONTINUATION, b": 1}")
        + unmasked(websocket.BINARY, b"\x00\xff")
        + unmasked(websocket.CLOSE, b"")
    )
    with websocket_server(frames) as (port, got), websocket.WebSocket("127.0.0.1", port, "/ws", 10) as connection:
        assert connection.receive() == '{"a": 1}'
        assert connection.receive() == b"\x00\xff"
        assert connection.receive() is None
    assert got[0][:2] == b"\x8a\x83"


def test_something_else_on_the_port_is_refused() -> None:
    with (
        websocket_server(b"", guid="not the one") as (port, _),
        pytest.raises(ConnectionError, match="is that ComfyUI"),
    ):
        websocket.WebSocket("127.0.0.1", port, "/ws", 10)


# ---- following a prompt


def messages(*pairs: tuple[str, dict]) -> SimpleNamespace:
    queue = [json.dumps({"type": kind, "data": {"prompt_id": "p", **data}}) for kind, data in pairs]
    return SimpleNamespace(receive=iter([*queue[:1], b"preview", *queue[1:], None]).__next__)


PROMPT = {number: {"class_type": kind, "inputs": {}} for number, kind in (("1", "Load"), ("2", "Blend"), ("3", "Save"))}


def test_a_prompt_is_followed_to_its_end() -> None:
    shown: list[tuple[float, str]] = []
    run = Run()
    told = messages(
        ("execution_start", {}),
        ("execution_cached", {"nodes": ["1"]}),
        ("executing", {"node": "2"}),
        ("progress", {"node": "2", "value": 1, "max": 2}),
        ("progress", {"node": "9", "value": 2, "max": 2, "prompt_id": "another"}),
        ("executing", {"node": "3"}),
        ("execution_success", {}),
        ("executing", {"node": None}),
    )
    follow(told, "p", PROMPT, run, lambda share, title: shown.append((round(share, 2), title)))
    assert shown == [(0.33, "Blend"), (0.5, "Blend"), (0.67, "Save"), (1.0, "")]
    assert run.error is None
    assert run.previews == 1
    assert len(run.messages) == 7
    assert set(run.node_ms) == {"2", "3"}
    assert run.ms >= sum(run.node_ms.values()) > 0


def test_an_error_in_a_node_is_told() -> None:
    run, why = (
        Run(),
        {"node_id": "2", "node_type": "Blend", "exception_type": "ValueError", "exception_message": "bad\n"},
    )
    told = messages(("executing", {"node": "2"}), ("execution_error", why), ("executing", {"node": None}))
    follow(told, "p", PROMPT, run, lambda share, title: None)
    assert run.error == "Blend (node 2): ValueError: bad"


def test_a_server_that_goes_away_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="got a closed connection"):
        follow(messages(("executing", {"node": "2"})), "p", PROMPT, Run(), lambda share, title: None)


def test_a_refused_prompt_names_the_node_and_the_reason() -> None:
    problems = [{"message": "Value not in list", "details": "style: 'x' not in ['ink']"}]
    answer = {"error": {"message": "invalid"}, "node_errors": {"2": {"errors": problems}}}
    assert client_module.refusal(answer, PROMPT) == "Blend (node 2): Value not in list: style: 'x' not in ['ink']"
    assert client_module.refusal({"error": {"message": "No outputs", "details": ""}}, PROMPT).startswith("No outputs")
