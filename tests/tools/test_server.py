"""Booting and stopping a server: nothing is left behind, and a failure shows the end of its log."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hotpath.tools import comfyui, server
from hotpath.tools.client import Client
from hotpath.tools.environment import Refusal


def fake_comfy(folder: Path, program: str) -> comfyui.ComfyUI:
    folder.mkdir()
    (folder / "main.py").write_text(program, encoding="utf-8")
    return comfyui.ComfyUI(folder, Path(sys.executable))


ANSWERING = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
print("cpu" if "--cpu" in sys.argv else "gpu")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    return tmp_path / "pack"


@pytest.mark.parametrize("gpu", [True, False])
def test_the_server_is_stopped_and_its_folder_removed(
    tmp_path: Path, cache: Path, pack: Path, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "has_accelerator", lambda python: gpu)
    with (  # noqa: PT012 - the checks are inside, and the error is the way out
        pytest.raises(ZeroDivisionError),
        server.running(fake_comfy(tmp_path / "comfy", ANSWERING), pack=pack) as running,
    ):
        base = running.log_file.parent
        assert (base / "custom_nodes" / "hotpath").resolve() == pack.resolve()
        assert running.get("/anything") == b"{}"
        assert running.log().splitlines()[0] == ("gpu" if gpu else "cpu")
        raise ZeroDivisionError
    assert running.process.poll() is not None
    assert not base.exists()
    assert list((cache / "runs").iterdir()) == []
    assert (pack / "__init__.py").exists(), "removing the link must not remove the clone"


def test_a_server_that_dies_shows_the_end_of_its_log(
    tmp_path: Path, cache: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "has_accelerator", lambda python: False)
    comfy = fake_comfy(tmp_path / "comfy", "raise SystemExit('no module named torch')")
    with pytest.raises(Refusal, match=r"(?s)exit code 1.*no module named torch"), server.running(comfy, pack=pack):
        pytest.fail("must not get here")
    assert list((cache / "runs").iterdir()) == []


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    process = SimpleNamespace(poll=lambda: None)
    silent = Client(server.free_port(), tmp_path / "server.log")
    silent.log_file.write_text("still loading\n")
    silent.process = process
    with pytest.raises(Refusal, match=r"(?s)no answer in 0 s.*still loading"):
        server.wait_until_up(silent, timeout_s=0.3)


def test_a_taken_port_is_refused_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refusal, match=rf"^Expected a free port, got {port}, .*--port[^\n]*$"):
            server.free_port(port)
        assert server.free_port() != port
    assert server.free_port(port) == port


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(Refusal, match=rf"^Expected a free port, got {port}, "):
        server.free_port(port)


def test_a_pack_that_failed_to_load_is_reported(tmp_path: Path) -> None:
    log = "   0.0 seconds (IMPORT FAILED): /base/custom_nodes/hotpath\nError in /base/custom_nodes/hotpath: no torch\n"
    (tmp_path / "log").write_text(log)
    with pytest.raises(Refusal, match=r"(?s)failed import.*no torch"):
        server.require_pack(Client(1, tmp_path / "log"))
    (tmp_path / "log").write_text(log.replace(" (IMPORT FAILED)", ""))
    server.require_pack(Client(1, tmp_path / "log"))
