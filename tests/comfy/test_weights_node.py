"""The Weights node: on a real server what it lists, refuses and cancels; inside ComfyUI a download from end to end."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hotpath.engine.weights import manifest
from hotpath.tests.comfy.outside import run_inside
from hotpath.tests.comfy.served import alive
from hotpath.tests.mirror import HUGGING_FACE, Mirror, serving
from hotpath.tests.testing import ROOT
from hotpath.tools.client import Client, Run

DECODER = manifest.entry("taesd-decoder")


def ask(server: Client, weights: str = "all", download: bool = False) -> Run:
    node = {"class_type": "Hotpath_Weights", "inputs": {"weights": weights, "download": download}}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["node", 1]}}
    return server.queue({"node": node, "show": show})


def text(run: Run, node: str = "node") -> str:
    assert run.error is None, run.error
    return "".join(run.outputs[node]["text"])


@pytest.fixture
def loras(server: Client) -> Path:
    folder = server.log_file.parent / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_it_explains_itself(server: Client) -> None:
    info = server.object_info("Hotpath_Weights")
    assert info["category"] == "hotpath/sampling"
    assert info["output"] == ["STRING", "STRING"]
    assert info["input"]["required"]["download"][1]["default"] is False
    assert all(len(spec[1]["tooltip"]) > 10 for spec in info["input"]["required"].values())


def test_the_list_names_every_file_and_connects_nowhere(server: Client, mirror: Mirror) -> None:
    asked = len(mirror.ranges)
    shown = text(ask(server))
    lines = {line.split()[3]: line for line in shown.splitlines() if line.startswith("|")}
    assert {entry.id for entry in manifest.entries()} <= set(lines)
    assert lines["e2gan-comic"].startswith("| yes ")
    assert lines["tcd-sd15"].startswith("| no "), "no other test puts a file of its name there"
    assert "SHA-256 not verified" in lines["lcm-lora-sdxl"]
    assert "never downloaded" in lines["bk-sdm-base"]
    assert len(mirror.ranges) == asked


def test_one_file_is_shown_with_its_place_and_found_under_another_name(server: Client, loras: Path) -> None:
    entry = manifest.entry("dmd2-sdxl-4-lora")
    shown = text(ask(server, entry.id))
    assert f"belongs at: {loras / entry.name}" in shown
    assert "cc-by-nc-4.0" in shown
    assert entry.hash in shown
    concepts = server.log_file.parent / "models" / "e2gan" / "concepts"
    concepts.mkdir(parents=True, exist_ok=True)
    assert "comic.safetensors is here" in text(ask(server, "e2gan-comic"))


def test_a_file_of_that_name_that_is_another_one(server: Client, loras: Path) -> None:
    entry = manifest.entry("hyper-sd15-8")
    path = loras / entry.name
    path.write_bytes(b"another")
    run = ask(server, entry.id)
    assert "the file of that name is another one" in text(run)
    assert text(run, "show") == entry.name
    refused = ask(server, entry.id, True)
    assert "InvalidInput" in refused.error
    assert path.read_bytes() == b"another"
    path.unlink()


@pytest.mark.parametrize(
    ("behaviour", "error", "words"),
    [
        ("honest", "WeightsInvalid", "nothing was kept"),  # honest about bytes that are not TAESD's
        ("claim 7", "WeightsInvalid", "4895612 bytes"),
        ("status 404", "DownloadFailed", "HTTP 404"),
    ],
)
def test_a_download_that_fails_is_a_sentence(server: Client, mirror: Mirror, behaviour: str, error: str, words: str) -> None:
    mirror.files[DECODER.url.removeprefix(HUGGING_FACE)] = bytes(DECODER.size)
    mirror.behaviours = [behaviour]
    run = ask(server, DECODER.id, True)
    assert error in run.error
    assert words in run.error
    assert mirror.ranges
    folder = server.log_file.parent / "models" / "vae_approx"
    assert not list(folder.glob("*.safetensors"))
    assert alive(server)


def test_cancel_while_the_server_is_silent_keeps_the_part(server: Client, mirror: Mirror) -> None:
    mirror.files[DECODER.url.removeprefix(HUGGING_FACE)] = bytes(DECODER.size)
    mirror.behaviours = ["stall 1000000"]
    asked = []
    node = {"class_type": "Hotpath_Weights", "inputs": {"weights": DECODER.id, "download": True}}

    def cancel(share: float, _: str) -> None:
        if share > 0.2 and not asked:
            asked.append(share)
            server.interrupt()

    run = server.queue({"node": node}, cancel)
    assert "interrupted" in run.error
    part = server.log_file.parent / "models" / "vae_approx" / f"{DECODER.name}.part"
    assert part.stat().st_size == 1_000_000
    mirror.released.set()
    part.unlink()
    assert alive(server)


@pytest.mark.parametrize(("weights", "words"), [("all", "choose one"), ("bk-sdm-tiny", "not downloaded"), ("nothing", "nothing")])
def test_downloads_that_cannot_be(server: Client, mirror: Mirror, weights: str, words: str) -> None:
    asked = len(mirror.ranges)
    run = ask(server, weights, True)
    assert run.error
    assert words in run.error
    assert len(mirror.ranges) == asked


# A download whose bytes are right needs a list of weights of the test's own, so the node runs inside ComfyUI.
PROGRAM = r"""
import sys
from pathlib import Path
from hotpath.tests.comfy.inside import Pack, start_comfyui
tree, base, pack, listed = map(Path, sys.argv[1:5])
start_comfyui(tree, base)
import comfy.utils
PACK = Pack(pack)
PACK.part("engine.weights.manifest").MANIFEST = listed
shares = []
comfy.utils.PROGRESS_BAR_HOOK = lambda value, total, preview, **rest: shares.append((value, total))
def call(weights, download):
    return PACK.call("Weights", weights=weights, download=download)
runs = [[call(name, False), call(name, True), call(name, True)] for name in ("sure", "likely")]
loras = base / "models" / "loras"
(loras / "mine").mkdir()
(loras / "sure.safetensors").rename(loras / "mine" / "renamed.safetensors")
runs.append([call("sure", True), call("all", False)])
PACK.results = {"runs": runs, "shares": shares}
PACK.print_results()
"""


def test_downloads_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, bodies = [], {}
    for name, seen in (("sure", "owner's page"), ("likely", "2 re-uploads")):
        place, body = f"/owner/repository/resolve/main/{name}", name.encode() * 100_000
        row = {"id": name, "name": f"{name}.safetensors", "directory": "loras", "url": HUGGING_FACE + place, "size": len(body)}
        row |= {"hash": hashlib.sha256(body).hexdigest(), "license": "MIT", "student": "tcd", "needs": []}
        rows.append(row | {"verified": name == "sure", "hash_seen": seen})
        bodies[place] = body
    (tmp_path / "list.json").write_text(json.dumps({"schema": 1, "weights": rows}), encoding="utf-8")
    with serving() as mirror:
        mirror.files, mirror.behaviours = bodies, ["truncate 300000", "honest"]
        monkeypatch.setenv("HF_ENDPOINT", mirror.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        results, _ = run_inside(PROGRAM, tmp_path, ROOT, tmp_path / "list.json", timeout=200)
        assert mirror.ranges == [None, "bytes=300000-", None], "what is here is not asked for"
    (sure, likely, (renamed, everything)), shares = results["runs"], results["shares"]
    for name, trust, (before, after, again) in (
        ("sure", "its SHA-256 is the known one", sure),
        ("likely", "proves nothing about the owner's file", likely),
    ):
        assert "is not here" in before[0]
        assert "turn on download" in before[0]
        assert before[1] == after[1] == f"{name}.safetensors"
        assert trust in after[0]
        assert again == after
    assert "under the name renamed.safetensors" in renamed[0]
    assert renamed[1] == str(Path("mine") / "renamed.safetensors")
    assert everything[0].startswith("2 of 2 known files are here")
    assert everything[1] == ""
    assert (tmp_path / "models" / "loras" / "mine" / "renamed.safetensors").read_bytes() == b"sure" * 100_000
    assert [400_000, 400_000] in shares
