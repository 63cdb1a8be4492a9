"""What other people's static checks say of the files that ship: comfy-test's levels that need no server, and comfy-import-guard.

Every finding that stays stands here with its reason, and leaves the list when it goes. Files that do not ship (tests, tools, benchmarks, the
research code) are left out: no ComfyUI loads them. comfy-test's other levels are out of reach of a file check: COVERAGE and INSTANTIATION read
NODE_CLASS_MAPPINGS, which would hide a pack's V3 entry point from ComfyUI (test_examples.py and tests/comfy do their work); the rest
build environments of their own from the network.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hotpath.tests.comfy import outside
from hotpath.tests.sources import ships
from hotpath.tests.testing import ROOT

TRAINING = "mixed precision of training, with float32 weights under it; comfy.ops only casts for inference"
CRITIC = "the critic of a training run: it is never loaded, offloaded or saved by ComfyUI"
STORED = "the format of numbers in a file; which one runs is chosen in engine/precision.py by what the device is fast at"
AS_STORED = "rounds to what the file will hold, so that what was scored is what is saved"
SYNTAX = {
    ("training/grid.py", "torch.autocast()"): TRAINING,
    ("training/loop.py", "torch.autocast()"): TRAINING,
    ("training/preview.py", "torch.autocast()"): TRAINING,
    ("training/ranks.py", "torch.autocast()"): TRAINING,
    ("training/losses.py", "nn.Conv*d()"): CRITIC,
    ("training/losses.py", "nn.Embedding()"): CRITIC,
}
REPORTS = {
    ("weights", "models"): "small bundled weights; ComfyUI finds them, since the folder is one of its places for e2gan",
    ("hardcoded-precision", "engine/e2gan/checkpoint.py"): STORED,
    ("hardcoded-precision", "training/looks.py"): AS_STORED,
    ("hardcoded-precision", "training/session.py"): AS_STORED,
    ("cache-clear-in-loop", "nodes/host.py"): "only after memory has run out, and at most four times",
}
REFERENCES = {
    (
        "nodes/host.py",
        "comfy.model_patcher.CoreModelPatcher",
    ): "looked up with another class in its place for versions without it",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ComfyUI folder's custom_nodes/hotpath with the files that users install."""
    folder = tmp_path_factory.mktemp("install") / "custom_nodes" / "hotpath"
    for name in ("__init__.py", "pyproject.toml", "requirements.txt", "nodes", "engine", "kernels", "training", "web", "models"):
        source = ROOT / name
        for path in [source] if source.is_file() else source.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and ships(path):
                (folder / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / path.relative_to(ROOT))
    return folder


# ---- comfy-test


def level(name: str, pack: Path) -> tuple[str, str]:
    """A level's log, and what it fails for."""
    pytest.importorskip("comfy_test", reason="comfy-test is not installed")
    from importlib import import_module

    from comfy_test.common.config import TestConfig
    from comfy_test.common.errors import TestError
    from comfy_test.orchestration.context import LevelContext

    lines: list[str] = []
    context = LevelContext(TestConfig(name="hotpath"), pack, "lint", lines.append, pack.parent.parent)
    try:
        import_module(f"comfy_test.orchestration.levels.{name}").run(context)
    except TestError as error:
        return "\n".join(lines), f"{error.message}\n{error.details}"
    return "\n".join(lines), ""


def said_of_files(text: str) -> Iterator[tuple[str, str]]:
    """(file, what) of SYNTAX's list: a line for the file, below it lines such as "Line 3: nn.Conv*d() -- use ..."."""
    file = ""
    for line in text.splitlines():
        if found := re.fullmatch(r"(\S+\.py):", line):
            file = found[1]
        elif found := re.match(r"\s+Line \d+: (\S+)", line):
            yield file.replace("\\", "/"), found[1]


def reported(log: str) -> Iterator[tuple[str, str]]:
    """(check, file) of a report; of weights the folder, of a finding that names no file the finding."""
    check = ""
    for line in log.splitlines():
        if found := re.match(r"\[(?:warnings|hazards)\] ([\w-]+) -- ", line):
            check = found[1]
        elif found := re.match(r"\s+(?:[\d.]+ MB\s+)?([\w./\\-]+\.\w+)(?::\d+.*)?$", line):
            yield check, "models" if check == "weights" else found[1].replace("\\", "/")


def test_syntax(pack: Path) -> None:
    log, failure = level("syntax", pack)
    assert "Unicode check: OK" in log
    assert "Forbidden patterns found" in failure
    assert set(said_of_files(failure)) == set(SYNTAX)
    assert "torch.load" not in log


def test_javascript(pack: Path) -> None:
    log, failure = level("javascript", pack)
    assert (failure, "0 error(s), 0 warning(s)" in log) == ("", True), log


def test_reports(pack: Path) -> None:
    log = "\n".join(level(name, pack)[0] for name in ("warnings", "hazards"))
    assert set(reported(log)) == set(REPORTS), log
    assert "check itself failed" not in log
    assert "=== A" not in log
    assert "=== B" not in log


def test_what_is_new_would_be_seen(pack: Path, tmp_path: Path) -> None:
    """A planted fault of each kind."""
    copied = shutil.copytree(pack, tmp_path / "hotpath", ignore=shutil.ignore_patterns("models", "kernels", "engine", "training"))
    (copied / "nodes" / "new.py").write_text(
        "import torch\nfrom torch import nn\ntorch.cuda.synchronize()\n\n\ndef f(x):\n    return nn.Linear(1, 1)(x.cuda())\n",
        encoding="utf-8",
    )
    assert {("nodes/new.py", "nn.Linear()"), ("nodes/new.py", ".cuda()")} <= set(said_of_files(level("syntax", copied)[1]))
    assert ("cuda-at-import", "nodes/new.py") in set(reported(level("hazards", copied)[0]))


# ---- comfy-import-guard


def git(folder: Path, *arguments: str) -> None:
    named = ["-c", "user.name=tests", "-c", "user.email=tests", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a clone that the guard asks, made of the ComfyUI to test with."""
    pytest.importorskip("comfy_import_guard", reason="comfy-import-guard is not installed")
    tree = outside.comfyui()
    if shutil.which("git") is None:
        pytest.skip("needs git")
    clone = tmp_path_factory.mktemp("clones") / "ComfyUI"
    for name in ("comfy", "comfy_api", "comfy_execution", "comfy_extras"):
        shutil.copytree(tree / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.txt"))
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "the ComfyUI to test with")
    return clone.parent


def guarded(pack: Path, clones: Path) -> dict:
    program = "import sys; from comfy_import_guard.cli import main; sys.exit(main())"
    options = ["--offline", "--quiet", "--json", "--cache-dir", str(clones), "check", "--comfy-dir", str(pack.parent.parent)]
    ran = subprocess.run(
        [sys.executable, "-c", program, *options, "--target", "HEAD"], capture_output=True, text=True, check=False
    )
    assert ran.returncode in (0, 1), ran.stderr
    (found,) = json.loads(ran.stdout)["packs"]
    return found


def test_what_is_used_of_comfyui_is_there(pack: Path, comfyui: Path) -> None:
    found = guarded(pack, comfyui)
    assert found["references"] > 50
    assert {(row["file"].replace("\\", "/"), row["dotted"]) for row in found["breaking"]} == set(REFERENCES)
    assert not [found[kind] for kind in ("soft", "unresolvable", "signature_drift", "unparseable") if found[kind]]


def test_what_is_not_there_would_be_seen(tmp_path: Path, comfyui: Path) -> None:
    nodes = tmp_path / "custom_nodes" / "hotpath" / "nodes"
    nodes.mkdir(parents=True)
    source = "import comfy.utils\nfrom comfy.samplers import gone\n\n\ndef f(x):\n    comfy.utils.load_torch_file(x, colour=1)\n"
    (nodes / "new.py").write_text(source, encoding="utf-8")
    found = guarded(nodes.parent, comfyui)
    assert {row["dotted"] for row in found["breaking"]} == {"comfy.samplers.gone", "comfy.utils.load_torch_file"}
