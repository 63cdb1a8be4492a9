"""Boots a real, headless ComfyUI with only this pack in it, and always stops what it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .client import Client
from .comfyui import ComfyUI
from .environment import ROOT, Refusal, cache_folder, last_lines, stage

BOOT_TIMEOUT_S = 180


@contextlib.contextmanager
def running(comfy: ComfyUI, base: Path | None = None, port: int | None = None, pack: Path = ROOT) -> Iterator[Client]:
    """A client to a server that lives as long as the `with` block; its `process` is the server's.

    Inputs, outputs and models live under `base`; without one, in a fresh folder that is removed at the end.
    """
    port = free_port(port)
    with contextlib.ExitStack() as stack:
        if base is None:
            runs = cache_folder() / "runs"
            runs.mkdir(exist_ok=True)
            base = Path(tempfile.mkdtemp(prefix="run-", dir=runs))
            stack.callback(remove_base, base)
        for name in ("custom_nodes", "input", "output", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link_pack(base / "custom_nodes" / "hotpath", pack)
        client = Client(port, base / "server.log")
        with stage("ComfyUI server"):
            client.process = start(comfy, base, client)
            stack.callback(stop, client.process)
            wait_until_up(client)
        yield client


def start(comfy: ComfyUI, base: Path, client: Client) -> subprocess.Popen:
    """Starts ComfyUI's main.py on `base`, with its output in the client's log file."""
    argv = [comfy.python, "main.py", "--base-directory", base, "--port", client.port, "--listen", client.host]
    argv += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", "hotpath", "--disable-api-nodes"]
    argv += ["--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    if not has_accelerator(comfy.python):
        argv.append("--cpu")
        variables.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads that spin take the cores from the busy ones
    # A group of its own: Ctrl-C in the terminal reaches us alone, and we stop the server in good order.
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    with client.log_file.open("wb") as log:
        return subprocess.Popen(
            [str(a) for a in argv],
            cwd=comfy.tree,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **group,
        )


def wait_until_up(client: Client, timeout_s: float = BOOT_TIMEOUT_S) -> None:
    """Returns when the server answers; Refusal with the end of its log if it dies or takes too long."""
    process, deadline = client.process, time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            client.get("/system_stats", timeout_s=5)
            return
        time.sleep(0.1)
    got = f"no answer in {timeout_s:.0f} s" if process.poll() is None else f"exit code {process.returncode}"
    raise Refusal(
        f"Expected ComfyUI to come up at {client.address}, got {got}; put right what the end of its log says:\n"
        f"{last_lines(client.log_file, 15)}"
    )


def stop(process: subprocess.Popen) -> None:
    """Ends a server: politely, and after ten seconds for good."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def require_pack(client: Client) -> None:
    """Refusal with the log's own lines if ComfyUI could not load our pack; it boots all the same without it."""
    lines = client.log().splitlines()
    if any("(IMPORT FAILED)" in line and line.rstrip().endswith("hotpath") for line in lines):
        why = [line for line in lines if "hotpath" in line and "seconds" not in line][-10:]
        raise Refusal("\n".join(["Expected ComfyUI to load the pack, got a failed import; its log says:", *why]))


def has_accelerator(python: Path) -> bool:
    """Whether this Python's torch finds a GPU; without one ComfyUI has to be told to use the CPU."""
    probe = (
        "import torch; kinds = torch.cuda, torch.backends.mps, getattr(torch, 'xpu', None); "
        "raise SystemExit(not any(kind and kind.is_available() for kind in kinds))"
    )
    try:
        return subprocess.run([str(python), "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise Refusal(
            f"Expected a Python that starts at {python}, got {error.strerror}; set HOTPATH_PYTHON to ComfyUI's Python."
        ) from None


def free_port(wanted: int | None = None) -> int:
    """`wanted` if nothing listens there, or any free port of this machine."""
    with socket.socket() as probe:
        if os.name != "nt":  # a port that was closed a moment ago is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except (OSError, OverflowError) as error:
            raise Refusal(
                f"Expected a free port, got {wanted}, which cannot be used ({getattr(error, 'strerror', error)}); "
                "choose another with --port, or leave it out to take any free one."
            ) from None
        return probe.getsockname()[1]


def link_pack(link: Path, pack: Path) -> None:
    """Makes the clone appear at `link`: a symlink, or where Windows refuses one a junction, or else a copy."""
    remove_link(link)
    try:
        link.symlink_to(pack, target_is_directory=True)
        return
    except OSError:
        if sys.platform != "win32":
            raise
    junction = ["cmd", "/c", "mklink", "/J", str(link), str(pack)]
    if subprocess.run(junction, capture_output=True, check=False).returncode:
        shutil.copytree(pack, link, ignore=shutil.ignore_patterns(".git", "__pycache__", "hotpath-demo"))


def remove_link(link: Path) -> None:
    """Removes a symlink, a junction or a copy, never what it points to."""
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        try:
            link.rmdir()  # a junction goes like an empty folder
        except OSError:
            shutil.rmtree(link)


def remove_base(base: Path) -> None:
    """Removes a temporary base folder; the link to the clone first, so that nothing can follow it."""
    remove_link(base / "custom_nodes" / "hotpath")
    shutil.rmtree(base, ignore_errors=True)
