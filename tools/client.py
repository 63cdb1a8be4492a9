"""Talks to a running ComfyUI server: what it offers, running a prompt, pictures up and down."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .websocket import WebSocket

Progress = Callable[[float, str], None]


@dataclass
class Run:
    """What became of one prompt."""

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node number -> its ui output
    error: str | None = None  # what the server said, or None if all went well
    ms: float = 0.0  # wall-clock from the start of the prompt to its end
    node_ms: dict[str, float] = field(default_factory=dict)  # node number -> wall-clock; cached nodes are not in it
    messages: list[dict[str, Any]] = field(default_factory=list)  # as received, in order
    previews: int = 0  # binary preview pictures received on the way

    @property
    def images(self) -> list[dict[str, Any]]:
        """Every saved picture, in the order of the nodes' numbers."""
        nodes = sorted(self.outputs, key=lambda number: (len(number), number))
        found = [image for number in nodes for image in self.outputs[number].get("images", [])]
        return [image for image in found if image.get("type") == "output"]


class Client:
    """A ComfyUI server at `host`:`port`."""

    def __init__(self, port: int, log_file: Path | None = None, host: str = "127.0.0.1") -> None:
        self.host, self.port, self.log_file = host, port, log_file
        self.process: subprocess.Popen | None = None  # the server's, where we started it
        self.address = f"http://{host}:{port}"
        # A proxy set for the outside world must not be asked for a server on this machine.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str, timeout_s: float = 60) -> bytes:
        with self._open(self.address + path, timeout=timeout_s) as answer:
            return answer.read()

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Every node's schema by id, or the one schema of `node` (empty if the server has no such node)."""
        if node is None:
            return json.loads(self.get("/object_info"))
        return json.loads(self.get(f"/object_info/{urllib.parse.quote(node)}")).get(node, {})

    def upload(self, path: Path | str, name: str | None = None) -> str:
        """Puts a picture among the server's inputs; returns the name that LoadImage takes."""
        path, edge = Path(path), uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"\r\n\r\n'
        tail = f'\r\n--{edge}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{edge}--\r\n'
        body = head.encode() + path.read_bytes() + tail.encode()
        stored = self._post("/upload/image", body, f"multipart/form-data; boundary={edge}")
        return f"{stored['subfolder']}/{stored['name']}" if stored.get("subfolder") else stored["name"]

    def image(self, output: Mapping[str, Any]) -> bytes:
        """The file behind one entry of a node's `images`."""
        query = {key: output.get(key, "") for key in ("filename", "subfolder", "type")}
        return self.get("/view?" + urllib.parse.urlencode(query))

    def interrupt(self) -> None:
        """Asks the server to cancel the prompt it is running."""
        with self._open(urllib.request.Request(self.address + "/interrupt", b"", method="POST"), timeout=60):
            pass

    def log(self) -> str:
        """What the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file else ""

    def queue(self, prompt: Mapping[str, Any], on_progress: Progress | None = None, silence_s: float = 900) -> Run:
        """Runs an API prompt to its end; `on_progress` gets the share done, 0 to 1, and the working node's title."""
        run, me = Run(), uuid.uuid4().hex
        with WebSocket(self.host, self.port, f"/ws?clientId={me}", silence_s) as socket:
            try:
                body = json.dumps({"prompt": prompt, "client_id": me}).encode()
                queued = self._post("/prompt", body, "application/json")
            except urllib.error.HTTPError as refused:
                run.error = refusal(json.loads(refused.read()), prompt)
                return run
            follow(socket, queued["prompt_id"], prompt, run, on_progress or (lambda share, title: None))
        history = json.loads(self.get(f"/history/{queued['prompt_id']}"))
        run.outputs = history.get(queued["prompt_id"], {}).get("outputs", {})
        return run

    def _post(self, path: str, body: bytes, content_type: str) -> dict[str, Any]:
        request = urllib.request.Request(self.address + path, body, {"Content-Type": content_type})
        with self._open(request, timeout=60) as answer:
            return json.loads(answer.read())


def follow(socket: WebSocket, prompt_id: str, prompt: Mapping[str, Any], run: Run, on_progress: Progress) -> None:
    """Reads the server's messages about one prompt into `run` until the server is done with it."""
    began = node_began = time.perf_counter()
    node: str | None = None
    done: set[str] = set()
    while True:
        received = socket.receive()
        now = time.perf_counter()
        if received is None:
            raise ConnectionError("Expected the server to finish the prompt, got a closed connection; see its log.")
        if isinstance(received, bytes):
            run.previews += 1
            continue
        message = json.loads(received)
        kind, data = message["type"], message.get("data") or {}
        if data.get("prompt_id") != prompt_id:
            continue
        run.messages.append(message)
        if kind == "execution_start":
            began = now
        elif kind == "execution_cached":
            done.update(data["nodes"])
        elif kind in ("execution_error", "execution_interrupted"):
            run.error = failure(kind, data)
        elif kind == "progress" and data.get("max"):
            on_progress((len(done) + data["value"] / data["max"]) / len(prompt), _title(prompt, data.get("node")))
        elif kind == "executing":
            if node is not None:
                run.node_ms[node] = run.node_ms.get(node, 0.0) + (now - node_began) * 1000
                done.add(node)
            node, node_began = data["node"], now
            on_progress(min(1.0, len(done) / len(prompt)), _title(prompt, node))
            if node is None:
                run.ms = (now - began) * 1000
                return


def failure(kind: str, data: Mapping[str, Any]) -> str:
    """One line for a prompt that failed or was cancelled while it ran."""
    where = f"{data.get('node_type')} (node {data.get('node_id')})"
    if kind == "execution_interrupted":
        return f"{where} was interrupted"
    return f"{where}: {data.get('exception_type')}: {str(data.get('exception_message')).strip()}"


def refusal(answer: Mapping[str, Any], prompt: Mapping[str, Any]) -> str:
    """One line for a prompt that the server did not accept."""
    lines = [
        f"{prompt[number]['class_type']} (node {number}): {error['message']}: {error['details']}"
        for number, problems in (answer.get("node_errors") or {}).items()
        for error in problems["errors"]
    ]
    return "; ".join(lines) or f"{answer['error']['message']}: {answer['error'].get('details', '')}"


def _title(prompt: Mapping[str, Any], node: str | None) -> str:
    entry = prompt.get(node or "", {})
    return entry.get("_meta", {}).get("title") or entry.get("class_type", "")
