"""Reading and writing base and concept files: one safetensors each, every fact as JSON in its metadata."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InvalidInput, NotWritten, WeightsInvalid, WeightsMissing
from .concept import PREFIX, Concept
from .model import Architecture, Generator

BASE_FORMAT = "hotpath.e2gan.base"
CONCEPT_FORMAT = "hotpath.e2gan.concept"
VERSION = 1
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Base:
    """A base network: float32 weights on the CPU by state-dict name, never changed once read."""

    name: str
    sha256: str
    architecture: Architecture
    weights: Mapping[str, Tensor]
    neutral_context: Tensor  # [T, W]: the context under which the base leaves a picture as it is
    info: Mapping[str, object]
    looks: Mapping[str, Tensor] = field(default_factory=dict)  # contexts [T, W] of the looks it was trained on, by name


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path, expected: str) -> tuple[dict[str, object], dict[str, Tensor]]:
    """The JSON facts and the tensors of a file of format `expected`, or one sentence why not."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsInvalid(
            f"Expected a safetensors file, but {path.name} cannot be read as one ({error}): download or copy it again."
        ) from error
    if header.get("hotpath.format") != expected:
        found = header.get("hotpath.format", "no hotpath format at all")
        raise WeightsInvalid(f"Expected {path.name} to be of format {expected}, got {found}: choose a file of that kind.")
    try:
        facts = json.loads(header["hotpath"])
        version = int(facts["version"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise WeightsInvalid(f"The metadata of {path.name} is damaged ({error!r}): download or copy the file again.") from error
    if version != VERSION:
        raise WeightsInvalid(f"{path.name} has format version {version}, this hotpath reads version {VERSION}: update hotpath.")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise WeightsInvalid(
                f"Expected {path.name} to hold float32, float16 or bfloat16, got {tensor.dtype} in {name}: save it so."
            )
        if not torch.isfinite(tensor).all():
            raise WeightsInvalid(f"{path.name} holds values that are not finite (in {name}): download or train it again.")
    return facts, tensors


def _write(path: Path, kind: str, facts: Mapping[str, object], tensors: Mapping[str, Tensor], overwrite: bool) -> None:
    path = Path(path)
    if os.path.exists(path) and not overwrite:  # Path.exists raises where a name is too long
        raise InvalidInput(f"{path.name} exists already in {path.parent}: choose another name or allow overwriting.")
    header = {"hotpath.format": kind, "hotpath": json.dumps({"version": VERSION, **facts}, sort_keys=True)}
    write_whole(path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, header)


def write_whole(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write safetensors beside the target, then rename: the target is the old file or the whole new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        mode = part.stat().st_mode  # safetensors would make a file that only its owner reads
        save_file(dict(tensors), part, dict(header))
        part.chmod(mode)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise NotWritten(
            f"Expected to write {path}, but it failed ({error}): make room, or choose another name or folder."
        ) from error
    finally:
        with suppress(OSError):  # of a place where no file can be, which has been said
            part.unlink(missing_ok=True)


def save_base(
    path: Path,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    neutral_context: Tensor,
    info: Mapping[str, object],
    *,
    looks: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a base in float16. `info` says how it was trained (concepts, data, steps, scores), `looks` are `Base.looks`."""
    tensors = {name: tensor.half() for name, tensor in weights.items()} | {"neutral_context": neutral_context.half()}
    if looks:
        tensors["looks"] = torch.stack([context.half() for context in looks.values()])
    facts = {"architecture": architecture.to_dict(), "info": dict(info), "looks": list(looks or ())}
    _write(path, BASE_FORMAT, facts, tensors, overwrite)


@lru_cache(maxsize=4)
def _load_base(path: Path, _modified: int, _size: int) -> Base:
    facts, tensors = _read(path, BASE_FORMAT)
    try:
        architecture = Architecture(**facts["architecture"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsInvalid(
            f"{path.name} names an architecture this hotpath does not know ({error}): update hotpath."
        ) from error
    context_shape = (architecture.text_tokens, architecture.text_width)
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Generator(architecture).state_dict().items()}
    expected["neutral_context"] = context_shape
    names = facts.get("looks", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsInvalid(
            f"The metadata of {path.name} is damaged (looks: expected a list of names, got {names!r:.80}): download or copy the file again."
        )
    if names:
        expected["looks"] = (len(names), *context_shape)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        name = wrong[0]
        raise WeightsInvalid(
            f"{path.name}: expected {name} of shape {expected.get(name)}, got {found.get(name)} ({len(wrong)} tensors differ): "
            "the file is damaged or of another architecture."
        )
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    neutral, looks = weights.pop("neutral_context"), dict(zip(names, weights.pop("looks", ()), strict=True))
    return Base(path.stem, file_sha256(path), architecture, weights, neutral, facts.get("info", {}), looks)


def save_concept(path: Path, concept: Concept, *, overwrite: bool = False) -> None:
    """Write a concept in float16 under peft's tensor names, with the peft configuration that loads it."""
    tensors: dict[str, Tensor] = {"context": concept.context.half()}
    for layer, (a, b) in concept.factors.items():
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = a.half()
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = b.half()
    ranks = {layer: a.shape[0] for layer, (a, _) in concept.factors.items()}
    peft = {"target_modules": list(ranks), "r": 1, "lora_alpha": 1, "rank_pattern": ranks, "alpha_pattern": ranks}
    facts = {"base_sha256": concept.base_sha256, "ranks": ranks, "peft": peft, "info": dict(concept.info)}
    _write(path, CONCEPT_FORMAT, facts, tensors, overwrite)


def load_base(path: Path) -> Base:
    """Read and check a base: format, version, architecture, every tensor present with its shape, all values finite."""
    return _cached(_load_base, path)


def load_concept(path: Path) -> Concept:
    """Read and check a concept file. Whether it fits a base is checked when the two meet (`Concept.check_fits`)."""
    return _cached(_load_concept, path)


def _cached(load: Callable[..., T], path: Path) -> T:
    """The same object for the same path, size and modification time, so that what is derived from it is found again."""
    path = Path(path)
    if not path.is_file():
        raise WeightsMissing(f"Expected a file at {path}, but there is none: choose another one or put the file back.")
    stat = path.stat()
    return load(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _load_concept(path: Path, _modified: int, _size: int) -> Concept:
    facts, tensors = _read(path, CONCEPT_FORMAT)
    context = tensors.pop("context", None)
    factors = {}
    for name in sorted(tensors):
        layer, _, kind = name.removeprefix(PREFIX).rpartition(".lora_")
        other = tensors.get(f"{PREFIX}{layer}.lora_B.weight")
        if kind == "A.weight" and other is not None:
            factors[layer] = (tensors[name].float(), other.float())
    if context is None or 2 * len(factors) != len(tensors) or "base_sha256" not in facts:
        raise WeightsInvalid(
            f"{path.name} lacks the context, the base's sha256 or half of a LoRA pair: download or train it again."
        )
    return Concept(path.stem, factors, context.float(), str(facts["base_sha256"]), facts.get("info", {}))
