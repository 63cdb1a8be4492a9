"""Weight files of students: where they lie, how they are read, and how they become patches on a clone of a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.errors import InvalidInput, WeightsInvalid, WeightsMissing
from ..engine.guidance import bias_shift
from ..engine.recognition import EMBEDDED_KEY, Recognised, recognise, unknown
from ..engine.students import STUDENTS
from ..engine.weights import manifest
from ..engine.weights.recognise import recognise as known_file
from .sampling_host import GUIDED_BIAS, EmbeddedGuidance, attached
from .weights import obey_cancel

FOLDERS = ("loras", "diffusion_models")
NETWORK, CHECKPOINT = "diffusion_model.", "model.diffusion_model."
WHOLE_WEIGHTS = (".diff", ".diff_b", ".w_norm", ".b_norm", ".set_weight")  # LoRA files may carry some layers as differences


def file_names() -> dict[str, tuple[str, str]]:
    """Name shown -> folder and name, of every safetensors file in ComfyUI's loras and diffusion_models."""
    found: dict[str, tuple[str, str]] = {}
    for folder in FOLDERS:
        for name in folder_paths.get_filename_list(folder):
            if name.endswith(".safetensors"):
                plain = name.replace("\\", "/")
                found[f"{plain} ({folder})" if plain in found else plain] = (folder, name)
    return found


def file_path(name: str) -> Path:
    folder, file = file_names().get(name, ("", ""))
    path = folder and folder_paths.get_full_path(folder, file)
    if not path:
        raise WeightsMissing(missing(name))
    return Path(path)


def missing(name: str) -> str:
    """One sentence for a file that is not there."""
    return f"Expected '{name}' in models/loras or models/diffusion_models, it is not there: put it there or choose another file."


def file_state(name: str) -> str:
    """Changes when the file does; tells ComfyUI's cache to read it again."""
    try:
        stat = file_path(name).stat()
    except (WeightsMissing, OSError):
        return "missing"
    return f"{stat.st_mtime_ns} {stat.st_size}"


@dataclass(frozen=True, eq=False)
class Weights:
    """A safetensors file as it was read."""

    name: str
    path: Path
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    @property
    def is_lora(self) -> bool:
        return any("lora" in key or "lycoris" in key or key.endswith((".alpha", *WHOLE_WEIGHTS)) for key in self.tensors)


def read(name: str) -> Weights:
    """A file with all its values finite; a whole checkpoint gives its network alone."""
    path = file_path(name)
    try:
        with safe_open(path, "pt") as file:
            keys = list(file.keys())
            kept = [key for key in keys if key.startswith(CHECKPOINT)] or keys
            metadata, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in kept}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsInvalid(
            f"Expected a safetensors file, but {path.name} cannot be read as one ({error}): download or copy it again."
        ) from error
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise WeightsInvalid(f"{path.name} holds values that are not finite (in {key}): download it again.")
    return Weights(name, path, metadata, {key.removeprefix(CHECKPOINT): tensor for key, tensor in tensors.items()})


def recognised(weights: Weights | None) -> Recognised:
    """The student of a file, or a sentence on what to choose."""
    if weights is None:
        raise InvalidInput("Expected a file to recognise, got none: choose a file, or the student that the model is already.")
    students = [entry for entry in manifest.entries() if entry.student]
    found = recognise(weights.name, weights.metadata, weights.tensors, lambda: known_file(weights.path, students, obey_cancel))
    if found is None:
        raise InvalidInput(unknown(weights.name))
    return found


def by_hand(student: str, weights: Weights | None) -> Recognised:
    """A student chosen by hand, and what the file says where it speaks of another; it is not hashed for that."""
    found = weights and recognise(weights.name, weights.metadata, weights.tensors)
    if not found or found.student == student or student not in STUDENTS:
        return Recognised(student, "chosen by hand")
    return Recognised(student, f"chosen by hand, but the file speaks of {found.student}: {found.evidence}")


def put_on(model: ModelPatcher, weights: Weights, strength: float) -> tuple[str, EmbeddedGuidance | None]:
    """Puts a file on `model`, which the caller has cloned: what was done, and the guidance input where it has one."""
    if not math.isfinite(strength):
        raise InvalidInput(f"Expected a strength that is a finite number, got {strength}: set it to 1.")
    if weights.is_lora:
        return _put_lora(model, weights.tensors, strength, weights.name), None
    if strength != 1:
        raise InvalidInput(f"Expected a strength of 1 for {weights.name}, which is a whole UNet, got {strength:g}: set it to 1.")
    if (known := attached(model)) and known.unet:
        raise InvalidInput(
            f"Expected a model with the UNet of its checkpoint for {weights.name}, got one that carries the whole UNet "
            f"{known.unet} already (student {known.student}): take the other Load Student out."
        )
    return _put_network(model, weights.tensors, weights.name)


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _put_lora(model: ModelPatcher, tensors: Mapping[str, Tensor], strength: float, name: str) -> str:
    """A LoRA as patches, and how much of it; a key that finds no place is an error."""
    targets = comfy.lora.model_lora_keys_unet(model.model, {})
    for key, own in comfy.utils.unet_to_diffusers(model.model.model_config.unet_config).items():
        if key.endswith(".weight"):  # as peft names them
            for prefix in ("unet.", "base_model.model.", ""):  # of diffusers' pipelines, of peft, of diffusers' UNet alone
                targets.setdefault(prefix + key.removesuffix(".weight"), NETWORK + own)
    try:
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), targets, log_missing=False)
    except KeyError as error:
        raise WeightsInvalid(f"{name} is incomplete, it lacks {error}: download it again.") from error
    except (RuntimeError, IndexError, ValueError) as error:
        raise WeightsInvalid(f"{name} is damaged ({str(error).splitlines()[0]}): download it again.") from error
    if kinds := sorted({kind for patch in patches.values() if (kind := _foreign(patch))}):
        raise WeightsInvalid(
            f"{name} holds {' and '.join(kinds)} adapters, only plain LoRA is known here: load it by ComfyUI's Load LoRA and "
            "choose the student by hand."
        )
    taken = set().union(*(getattr(patch, "loaded_keys", ()) for patch in patches.values()))
    layers = {stem for stem, target in targets.items() if {target, f"{target.removesuffix('.weight')}.bias"} & patches.keys()}
    homeless = [key for key in tensors if _stem(key, targets) not in layers or not (key in taken or key.endswith(WHOLE_WEIGHTS))]
    if homeless:
        texts = any(key.startswith(("lora_te", "text_encoder")) for key in homeless)
        advice = "load it by ComfyUI's Load LoRA, it is for the text encoder too" if texts else "it is for another kind of model"
        raise WeightsInvalid(
            f"Expected every key of {name} to find its layer in this {type(model.model).__name__}, but {len(homeless)} of "
            f"{len(tensors)} match nothing ({_few(homeless)}): {advice}, or it is damaged."
        )
    shapes = {key: tensor.shape for key, tensor in model.model.state_dict().items()}
    if misfits := [target for target, patch in patches.items() if not _fits(patch, shapes.get(target))]:
        raise WeightsInvalid(
            f"Expected LoRA matrices of the shapes of this {type(model.model).__name__}, but {len(misfits)} of {len(patches)} "
            f"layers in {name} do not fit ({_few(misfits)}): it is for another kind of model."
        )
    model.add_patches(patches, strength)
    return f"LoRA on {len(patches)} layers, all {len(tensors)} keys matched, strength {strength:g}"


def _stem(key: str, targets: Mapping[str, str]) -> str | None:
    """The longest beginning of a LoRA's key that names a layer."""
    ends = [index for index, letter in enumerate(key) if letter == "." or key.startswith("_lora.", index)]
    return next((key[:end] for end in reversed(ends) if key[:end] in targets), None)


def _foreign(patch: object) -> str:
    """The name of an adapter's family where it is not plain LoRA, such as loha, lokr, or LoRA with a third matrix."""
    if isinstance(patch, tuple):
        return ""
    family = getattr(patch, "name", type(patch).__name__)
    if family != "lora":
        return family
    return "" if patch.weights[3] is None else "Tucker LoRA"


def _fits(patch: object, shape: torch.Size | None) -> bool:
    """Whether a patch, a difference or plain LoRA, is one of that shape."""
    if shape is None:
        return False
    if isinstance(patch, tuple):
        return patch[1][0].shape == shape
    up, down, *_ = patch.weights
    if min(up.ndim, down.ndim) < 2 or not len(down):
        return False
    return up.flatten(1).shape[1] == down.shape[0] and up.shape[0] == shape[0] and down[0].numel() == shape[1:].numel()


def _put_network(model: ModelPatcher, tensors: Mapping[str, Tensor], name: str) -> tuple[str, EmbeddedGuidance | None]:
    """Every weight of a UNet file as a patch, below the patches that are there already."""
    own = {key.removeprefix(NETWORK): value.shape for key, value in model.model.state_dict().items() if key.startswith(NETWORK)}
    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    given = {key if key in own else names.get(key, key): tensor for key, tensor in tensors.items() if key != EMBEDDED_KEY}
    missed, homeless = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missed or homeless:
        raise WeightsInvalid(
            f"Expected {name} to hold the {len(own)} weights of this {type(model.model).__name__}, but {len(missed)} are not there"
            f" ({_few(missed)}) and {len(homeless)} match nothing ({_few(homeless)}): it is for another kind of model, or damaged."
        )
    misfits = [key for key, tensor in given.items() if tensor.numel() != own[key].numel() or tensor.shape[0] != own[key][0]]
    if misfits:
        raise WeightsInvalid(
            f"{len(misfits)} weights of {name} have another shape than the model's ({_few(misfits)}): load its base."
        )
    patched = model.add_patches({NETWORK + key: ("set", (tensor.reshape(own[key]),)) for key, tensor in given.items()})
    for key in patched:
        *before, whole = model.patches[key]
        model.patches[key] = [whole, *before]
    text = f"UNet of {len(given)} weights in place of the model's"
    if EMBEDDED_KEY not in tensors:
        return text, None
    projection, first = tensors[EMBEDDED_KEY], given["time_embed.0.weight"]
    if projection.ndim != 2 or len(projection) != first.shape[1]:
        raise WeightsInvalid(
            f"Expected the guidance input of {name} to have {first.shape[1]} rows, got {list(projection.shape)}: it is damaged, "
            "download it again."
        )
    scale = STUDENTS["lcm_unet"].guidance.default
    embedded = EmbeddedGuidance(projection, first, scale)
    model.add_patches({GUIDED_BIAS: ("diff", (bias_shift(embedded.projection, embedded.first_weight, scale),))})
    return f"{text}, with embedded guidance of {scale:g}", embedded
