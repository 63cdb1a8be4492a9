"""PTX compiled beforehand: it is what the kernels say now, it is found for the launches of real networks, and the driver gets it right."""

import ctypes
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from hotpath.kernels.attention import ATTENTION
from hotpath.kernels.attention.plan import prepare
from hotpath.kernels.dispatch import Declined
from hotpath.kernels.launch import Launch
from hotpath.kernels.ptx import driver
from hotpath.kernels.ptx.manifest import FOLDER, broken_promise, find, key_of, kinds, manifest, source_hash, text_of
from hotpath.tools.compile_kernels import ARCHITECTURES, ROOMS, failed_gates, launches

ENTRIES = manifest()["kernels"]


def test_the_kernels_have_not_changed_since() -> None:
    """If this fails: python tools/compile_kernels.py ship."""
    assert manifest()["sources"] == {room: source_hash(room) for room in ROOMS}


def test_every_launch_of_the_networks_has_its_kernel_and_no_file_is_left_over() -> None:
    assert {key_of(room, launch) for room, _, launch in launches()} == set(ENTRIES)
    assert {path.name for path in FOLDER.glob("*.ptx")} == {entry["file"] for entry in ENTRIES.values()}
    assert sum(path.stat().st_size for path in FOLDER.glob("*.ptx")) < 3 * 2**20


@pytest.mark.parametrize("key", ENTRIES)
def test_texts_are_what_the_manifest_says(key: str) -> None:
    entry = ENTRIES[key]
    text = text_of(entry).decode()
    assert f".target {manifest()['target']}" in text
    assert "/" not in "".join(re.findall(r"\.file[^\n]*", text)), "no paths of the machine that compiled it"
    (parameters,) = re.findall(rf"\.visible \.entry {entry['entry']}\((.*?)\)", text, re.S)
    types = [{"u64": "pointer", "u32": "i32", "f32": "fp32"}[kind] for kind in re.findall(r"\.param \.(\w+)", parameters)]
    given = [kind for kind in key.split(";")[1].split() if kind != "none"]
    assert types == ["pointer" if kind[0] == "*" else kind for kind in given] + ["pointer"] * 2
    assert f".reqntid {32 * entry['warps']}" in text
    assert entry["shared"] <= 99 * 1024, "what every supported GPU can give"


def test_a_damaged_text_is_not_loaded() -> None:
    entry = next(iter(ENTRIES.values()))
    with pytest.raises(ValueError, match="is damaged: install hotpath again"):
        text_of({**entry, "sha256": "0"})


def test_without_a_driver_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    driver.load.cache_clear()
    with pytest.raises(driver.DriverError, match=r"no NVIDIA driver \(libnowhere\.so cannot be loaded\)"):
        driver.load("libnowhere.so")
    x = torch.zeros(1, 77, 320, dtype=torch.float16)
    with pytest.raises(Declined, match="'ptx' because its tensors are on 'cpu'"):
        ATTENTION(x, x, x, 8, None, None, way="ptx")
    monkeypatch.setattr("hotpath.kernels.attention.plan.unfit", lambda tensors: None)
    monkeypatch.setattr(driver, "load", lambda load=driver.load: load("libnowhere.so"))
    assert "no NVIDIA driver" in ATTENTION.ways[1].why_not(x, x, x, 8, None, None)
    monkeypatch.setattr(driver, "load", lambda: None)
    assert ATTENTION.ways[1].why_not(x, x, x, 8, None, None) is None
    assert "compiled beforehand" in ATTENTION.ways[1].why_not(x, x, x, 8, torch.ones(1, 77), None)
    monkeypatch.setattr("hotpath.kernels.ptx.manifest.FOLDER", FOLDER / "nowhere")
    manifest.cache_clear()
    assert "manifest cannot be read" in ATTENTION.ways[1].why_not(x, x, x, 8, None, None)
    manifest.cache_clear()


class Library:
    """A driver that writes down what it is told."""

    def __init__(self, version: int = 13000, error: int = 0) -> None:
        self.version, self.error, self.calls = version, error, []

    def __getattr__(self, name: str) -> Any:
        def called(*arguments: Any) -> int:
            if name == "cuLaunchKernel":
                self.calls.append((name, [a.value for a in arguments[1:9]], arguments[9]))
            elif name == "cuGetErrorString":
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_char_p))[0] = b"out of luck"
                return 0
            else:
                self.calls.append((name, arguments))
            if name == "cuDriverGetVersion":
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_int))[0] = self.version
            return self.error

        return called


def test_an_old_driver_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, fine in ((12040, False), (12080, True), (13000, True)):
        driver.load.cache_clear()
        library = Library(version)
        monkeypatch.setattr(ctypes, "CDLL", lambda name, library=library: library)
        monkeypatch.setattr(ctypes, "WinDLL", lambda name, library=library: library, raising=False)
        if fine:
            assert driver.load() is library
        else:
            with pytest.raises(driver.DriverError, match=r"is for CUDA 12\.4, and the kernels need 12\.8"):
                driver.load()
    driver.load.cache_clear()


def test_a_launch_packs_its_arguments_as_the_kernel_reads_them() -> None:
    library, x = Library(), torch.zeros(4)
    arguments = (x, None, 7, -3, 0.25, x[2:])
    driver.launch(library, ctypes.c_void_p(1), (5, 6, 1), 128, 4096, 99, arguments)
    ((name, numbers, pointers),) = library.calls
    assert (name, numbers) == ("cuLaunchKernel", [5, 6, 1, 128, 1, 1, 4096, 99])
    read = [ctypes.c_uint64, ctypes.c_int32, ctypes.c_int32, ctypes.c_float, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64]
    values = [ctypes.cast(address, ctypes.POINTER(kind))[0] for address, kind in zip(pointers, read, strict=True)]
    assert values == [x.data_ptr(), 7, -3, 0.25, x.data_ptr() + 8, 0, 0]


@pytest.mark.parametrize(("shared", "calls"), [(1024, 2), (60 * 1024, 3)])
def test_a_kernel_that_wants_much_shared_memory_says_so(shared: int, calls: int) -> None:
    library = Library()
    driver.function(library, b"text", "entry", shared)
    assert [name for name, _ in library.calls] == ["cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"][:calls]


def test_the_drivers_refusal_is_told() -> None:
    with pytest.raises(driver.DriverError, match="cuModuleLoadData failed: out of luck"):
        driver.function(Library(error=218), b"text", "entry", 0)


def test_a_broken_promise_is_noticed() -> None:
    def launch(width: int) -> Launch:
        memory = torch.zeros(1, 77, 8 * width, dtype=torch.float16)
        return prepare(memory[..., :320], memory[..., :320], memory[..., :320], 8, None, None, arch=0)[1][0]

    entry = find("attention", launch(40))
    assert broken_promise(entry, launch(40)) is None
    assert "is not a multiple of 16" in broken_promise(entry, launch(41))


def test_what_was_not_compiled_beforehand_is_not_found() -> None:
    q = torch.zeros(1, 8, 640, dtype=torch.float16)
    (plain,), (masked,) = (prepare(q, q, q, 8, mask, None, arch=0)[1] for mask in (None, torch.ones(1, 8)))
    assert find("attention", plain)
    assert find("attention", masked) is None
    assert kinds(masked)[4] == "*fp32"


@pytest.fixture(scope="module")
def report() -> list[dict]:
    """One kernel of each kind compiled for the architectures that differ."""
    pytest.importorskip("triton", reason="Triton is not installed")
    only = "^(flash-(40|160)x4096|short-160x77|whole-GROUP64-CONV_BIAS0-EMBEDDING1|gather|geglu|instance-(whole|apply)-RELU1-RESIDUAL1)-?.*float16$"
    command = [
        sys.executable,
        "-m",
        "hotpath.tools.compile_kernels",
        "report",
        "86",
        "90",
        only.replace("float16", "[0-9-]*(?<!b)float16"),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_kernels_fit_the_gpus_they_are_for(report: list[dict]) -> None:
    assert len(report) >= 10
    assert not [row for row in report if row["wrong"]]


def test_splitting_saves_what_it_promises(report: list[dict]) -> None:
    """On tensor cores of Ampere and Ada: 40 in 48 not 64, 160 in 160 not 256; padded, they take 128 and 256 instructions."""
    counts = {row["kernel"]: row["HMMA"] for row in report if row["architecture"] == 86}
    assert counts["flash-40x4096-float16"] <= 0.75 * 128
    assert counts["flash-160x4096-float16"] <= 0.63 * 256


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"stack": 100}, "bytes of stack"),
        ({"shared": 100 * 1024}, "shared memory"),
        ({"narrow": 1}, "2 bytes"),
        ({"HMMA": 0}, "no HMMA"),
        ({"LDGSTS": 0}, "asynchronous"),
    ],
)
def test_gates_close(changed: dict, sentence: str) -> None:
    good = {"stack": 0, "shared": 1024, "narrow": 0, "HMMA": 1, "HGMMA": 0, "UTC": 0, "LDGSTS": 1, "UTMALDG": 0}
    launch = Launch("flash", (1, 1, 1), (), {}, 4, 2)
    assert failed_gates(good, launch, "attention", 86) == []
    assert sentence in failed_gates({**good, **changed}, launch, "attention", 86)[0]
    assert set(ARCHITECTURES) == {80, 86, 89, 90, 100, 120}
