"""Compiles the Triton kernels without a GPU: PTX to ship, and what each kernel needs on each architecture.

python tools/compile_kernels.py ship              rewrites kernels/ptx (run it when a kernel has changed)
python tools/compile_kernels.py report [80 90]    registers, stack, shared memory and instructions of all launches, and the gates
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
SHIPPED = 80  # its PTX runs on everything newer
SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB a block may ask for
STACK_LIMIT = 64  # bytes; more means that registers are spilled inside loops
MMA = {90: "HGMMA", 100: "UTC"}  # tensor core instructions; HMMA elsewhere
ROOMS = ("attention", "group_norm_silu", "instance_norm_act", "geglu", "add_layer_norm")


def launches() -> Iterator[tuple[str, str, Any]]:
    """(room, name, launch) of what SD1.5, SDXL and E2GAN ask for, on tensors of no size to speak of."""
    import torch

    def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    plans = {room: importlib.import_module(f"hotpath.kernels.{room}.plan") for room in ROOMS}
    for dtype in (torch.float16, torch.bfloat16):
        kind = str(dtype).removeprefix("torch.")
        for width in (40, 64, 80, 160):
            q = empty(1, 256, 8 * width, dtype=dtype)
            for keys in (4096, 77, *((154,) if width < 160 else ())):
                kv = empty(1, keys, 8 * width, dtype=dtype)
                for one in plans["attention"].prepare(q, kv, kv, 8, None, None, arch=0)[1]:
                    yield "attention", f"{one.kernel}-{width}x{keys}-{kind}", one
        seen = set()
        for channels in (320, 640, 960, 1280, 1920, 2560):
            for side in (8, 16, 64):
                x = empty(1, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
                per_channel, embedding = empty(channels, dtype=dtype), empty(1, channels, dtype=dtype)
                for silu, added in ((True, None), (True, embedding), (False, None)):
                    arguments = (x, 32, per_channel, per_channel, 1e-5, silu, None, added)
                    for one in plans["group_norm_silu"].prepare(*arguments, arch=0)[1]:
                        name = f"{one.kernel}-{'-'.join(f'{k}{int(v)}' for k, v in one.constants.items())}-{kind}"
                        if name not in seen:
                            seen.add(name)
                            yield "group_norm_silu", name, one
        for channels, side in ((64, 136), (256, 17)):
            x = empty(1, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
            row = empty(1, channels, dtype=dtype)
            for relu, residual, gain in ((True, None, None), (True, x, row), (False, x, None)):
                for one in plans["instance_norm_act"].prepare(x, row, row, relu, residual, gain, arch=0)[1]:
                    name = f"instance-{one.kernel}-{'-'.join(f'{k}{int(v)}' for k, v in one.constants.items())}-{kind}"
                    if name not in seen:
                        seen.add(name)
                        yield "instance_norm_act", name, one
        for one in plans["geglu"].prepare(empty(1, 2560, dtype=dtype), arch=0)[1]:
            yield "geglu", f"geglu-{kind}", one
        for channels in (320, 640, 1280):
            x, weight = empty(1, channels, dtype=dtype), empty(channels, dtype=dtype)
            for one in plans["add_layer_norm"].prepare(x, x, weight, weight, 1e-5, arch=0)[1]:
                yield "add_layer_norm", f"add_layer_norm-{channels}-{kind}", one


def aligned(names: list[str], launch: Any) -> list[int]:
    """Positions of the arguments that are multiples of 16 wherever the networks above run: pointers, channels, strides but those of
    heads where they are not."""
    from torch import Tensor

    promised = ("_batch", "_row", "_head", "channels")
    return [
        i
        for i, (name, value) in enumerate(zip(names, launch.arguments, strict=True))
        if isinstance(value, Tensor) or (name.endswith(promised) and isinstance(value, int) and value and value % 16 == 0)
    ]


def compiled(room: str, launch: Any, architecture: int) -> tuple[Any, list[int]]:
    """Triton's compiled kernel for a launch, and the positions of the arguments that were promised to be multiples of 16."""
    import triton
    from hotpath.kernels.ptx.manifest import kinds
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = importlib.import_module(f"hotpath.kernels.{room}.fwd_triton").KERNELS[launch.kernel]
    names = [name for name in kernel.arg_names if name not in launch.constants]
    types = dict(zip(names, kinds(launch), strict=True))
    absent = {name: None for name, kind in types.items() if kind == "none"}
    constants = {**launch.constants, **absent}
    place = {name: i for i, name in enumerate(kernel.arg_names)}
    promised = aligned(names, launch)
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in kernel.arg_names},
        constexprs={(place[name],): value for name, value in constants.items()},
        attrs={(place[names[i]],): [["tt.divisibility", 16]] for i in promised},
    )
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options), promised


def needs(kernel: Any) -> dict[str, int]:
    """Registers, bytes of stack and shared memory, and counts of the instructions that matter."""
    import triton.backends.nvidia as nvidia

    tools = Path(nvidia.__file__).parent / "bin"

    def said(tool: str, *arguments: str) -> str:
        program = tools / (tool + (".exe" if os.name == "nt" else ""))
        return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        usage, code = said("cuobjdump", "-res-usage", str(binary)), said("nvdisasm", "-c", str(binary))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    counts = {name: len(re.findall(pattern, code)) for name, pattern in PATTERNS.items()}
    text = kernel.asm["ptx"]
    narrow = len(re.findall(r"(?:ld|st)\.global\S*\.b16", text))
    return {"registers": int(found[1]), "stack": int(found[2]), "shared": kernel.metadata.shared, "narrow": narrow, **counts}


PATTERNS = {
    "HMMA": r"\bHMMA\b",
    "HGMMA": r"\bHGMMA\b",
    "UTC": r"\bUTC\w*MMA\b",
    "LDGSTS": r"\bLDGSTS\b",
    "UTMALDG": r"\bUTMALDG\b",
}


def failed_gates(found: dict[str, int], launch: Any, room: str, architecture: int) -> list[str]:
    """What a kernel must not need, and what it must use, in words where it does not hold."""
    limit = SHARED_LIMIT[architecture] * 1024
    wrong = [f"{found['stack']} bytes of stack"] if found["stack"] > STACK_LIMIT else []
    wrong += [f"{found['shared']} bytes of shared memory, over {limit}"] if found["shared"] > limit else []
    if room == "attention":
        tensor_cores = MMA.get(architecture, "HMMA")
        wrong += [] if found[tensor_cores] else [f"no {tensor_cores}"]
        wrong += [f"{found['narrow']} loads or stores of 2 bytes"] if found["narrow"] else []
        if launch.stages > 1 and not found["LDGSTS"] and not found["UTMALDG"]:
            wrong += ["no asynchronous copies"]
    return wrong


def ship(folder: Path) -> None:
    """Write the PTX of all launches and the manifest."""
    import triton
    from hotpath.kernels.ptx.manifest import key_of, source_hash

    for old in folder.glob("*.ptx"):
        old.unlink()
    kernels = {}
    for room, name, launch in launches():
        key = key_of(room, launch)
        if key in kernels:
            continue
        kernel, promised = compiled(room, launch, SHIPPED)
        text = kernel.asm["ptx"]
        (folder / f"{name}.ptx").write_text(text, encoding="utf-8", newline="\n")
        kernels[key] = {
            "file": f"{name}.ptx",
            "sha256": sha256(text.encode()).hexdigest(),
            "entry": re.search(r"\.entry\s+(\w+)\(", text)[1],
            "shared": kernel.metadata.shared,
            "warps": launch.warps,
            "aligned": promised,
        }
    sources = {room: source_hash(room) for room in ROOMS}
    whole = {"schema": 1, "triton": triton.__version__, "target": f"sm_{SHIPPED}", "sources": sources, "kernels": kernels}
    (folder / "manifest.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8", newline="\n")
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    print(f"{len(kernels)} kernels, {size / 2**20:.2f} MiB")


def report(architectures: list[int], only: str = "") -> int:
    """Print one JSON object a kernel and architecture; 1 where a gate fails."""
    failed = 0
    for room, name, launch in launches():
        if not re.search(only, name):
            continue
        for architecture in architectures:
            found = needs(compiled(room, launch, architecture)[0])
            wrong = failed_gates(found, launch, room, architecture)
            failed += bool(wrong)
            print(json.dumps({"kernel": name, "architecture": architecture, **found, "wrong": wrong}), flush=True)
    return int(failed > 0)


def main(arguments: list[str]) -> int:
    if "hotpath" not in sys.modules:
        spec = importlib.util.spec_from_file_location("hotpath", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        sys.modules["hotpath"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    os.environ["TRITON_INTERPRET"] = "0"  # read as kernels are imported
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # it would put this machine's paths into the PTX
    if arguments[:1] == ["ship"]:
        ship(ROOT / "kernels" / "ptx")
        return 0
    if arguments[:1] == ["report"]:
        chosen = [int(text) for text in arguments[1:] if text.isdigit()]
        return report(chosen or list(ARCHITECTURES), "".join(text for text in arguments[1:] if not text.isdigit()))
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
