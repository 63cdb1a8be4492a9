"""Tiny networks, concepts, pictures and files, shared by the tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from hotpath.engine.e2gan.checkpoint import Base, load_base, save_base
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS, Concept
from hotpath.engine.e2gan.model import Architecture, Generator, initialise
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
TINY = Architecture(stem_width=24, down1_width=32, width=32, text_width=12, text_tokens=4, modulation_width=8)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 1, height: int = 32, width: int = 48, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth pictures [B, C, H, W] in -1..1."""
    coarse = torch.rand(count, channels, 4, 4, generator=random(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(-1, 1)


def tiny_generator(seed: int = 0) -> Generator:
    """A generator none of whose weights is zero or one, so that a forgotten one shows."""
    generator, source = initialise(Generator(TINY), seed), random(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=source) * 0.01)
    return generator.eval()


def write_base(path: Path, seed: int = 0) -> Path:
    neutral = torch.randn(TINY.text_tokens, TINY.text_width, generator=random(seed + 100))
    save_base(path, TINY, tiny_generator(seed).state_dict(), neutral, {"seed": seed})
    return path


def tiny_base(folder: Path, seed: int = 0) -> Base:
    return load_base(write_base(folder / f"base{seed}.safetensors", seed))


def tiny_concept(base: Base, seed: int, rank: int = 2, name: str = "", base_sha256: str = "") -> Concept:
    """Random factors on every crucial layer, of values that float16 holds exactly."""
    source, factors = random(seed + 1000), {}
    for layer in CRUCIAL_LAYERS:
        out, inputs, *kernel = base.weights[f"{layer}.weight"].shape
        a = torch.randn(rank, inputs, *kernel, generator=source) * 0.1
        b = torch.randn(out, rank, *(1 for _ in kernel), generator=source) * 0.2
        factors[layer] = (a.half().float(), b.half().float())
    context = torch.randn(base.neutral_context.shape, generator=source).half().float()
    return Concept(name or f"look_{seed}", factors, context, base_sha256 or base.sha256, {"seed": seed})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """One hash of the bits of named tensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + tensors[name].detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def rewrite(path: Path, *, header: dict[str, str] | None = None, facts: dict | None = None, tensors: dict | None = None) -> Path:
    """Change parts of a file of ours behind its back; a value of None takes a fact or a tensor out."""

    def changed(old: dict, new: dict | None) -> dict:
        return {name: value for name, value in {**old, **(new or {})}.items() if value is not None}

    old_header, old_tensors = contents(path)
    if facts is not None:
        old_header["hotpath"] = json.dumps(changed(json.loads(old_header["hotpath"]), facts))
    path.unlink()
    save_file(changed(old_tensors, tensors), path, changed(old_header, header))
    return path
