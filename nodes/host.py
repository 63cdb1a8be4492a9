"""ComfyUI, met once: folders, devices, memory, progress and interruption become plain callables and tensors here."""

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP
from PIL import Image
from torch import Tensor

from ..engine.e2gan.checkpoint import Base
from ..engine.e2gan.concept import Blend
from ..engine.e2gan.network import TILE, Network, apply
from ..engine.errors import NotFinite, WeightsMissing
from ..engine.precision import choose

log = logging.getLogger("hotpath")

BUNDLED = Path(__file__).parent.parent / "models"
BASES, CONCEPTS = "e2gan", "e2gan_concepts"
SMALLEST_TILE = 256
# Activations alive at once, in numbers per pixel: at 1/2 of the side three maps of 64 channels and one of 128, and the picture twice.
NUMBERS_PER_PIXEL = 110


def register_folders() -> None:
    """Make models/e2gan and models/e2gan/concepts known, with the bundled files as one more place to look."""
    own = Path(folder_paths.models_dir) / "e2gan"
    for name, folders in ((BASES, (own, BUNDLED)), (CONCEPTS, (own / "concepts", BUNDLED / "concepts"))):
        known, extensions = folder_paths.folder_names_and_paths.get(name, ([], set()))
        paths = list(dict.fromkeys([*known, *map(str, folders)]))
        folder_paths.folder_names_and_paths[name] = (paths, set(extensions) | {".safetensors"})


def file_names(kind: str) -> list[str]:
    """Files of a kind that can be chosen; bases leave out what lies in the folders of concepts and training."""
    names = [name.replace("\\", "/") for name in folder_paths.get_filename_list(kind)]
    return [name for name in names if kind != BASES or not name.startswith(("concepts/", "training/"))]


def file_path(kind: str, name: str) -> Path:
    path = folder_paths.get_full_path(kind, name)
    if path is None:
        raise WeightsMissing(missing(kind, name))
    return Path(path)


def missing(kind: str, name: str) -> str:
    """One sentence for a file that is not there."""
    place = "models/e2gan" if kind == BASES else "models/e2gan/concepts"
    known = ", ".join(file_names(kind)) or "none at all"
    return f"Expected '{name}' in {place}, but the files there are: {known}; put the file into that folder or choose another."


def check_choice(kind: str, name: str | None) -> bool | str:
    """True, or a sentence, for ComfyUI's validation; a name that comes over a link is None there, and known only when the node runs."""
    return name is None or name in file_names(kind) or missing(kind, name)


def file_state(kind: str, name: str | None) -> str:
    """Changes when the file does; tells ComfyUI's cache to read it again."""
    path = folder_paths.get_full_path(kind, name) if name is not None else None
    if path is None:
        return "missing"
    stat = Path(path).stat()
    return f"{stat.st_mtime_ns} {stat.st_size}"


def to_engine(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, C] in 0..1 to [B, C, H, W] in -1..1."""
    return image.movedim(-1, 1).float() * 2 - 1


def to_image(pictures: Tensor) -> Tensor:
    """[B, C, H, W] in -1..1 to IMAGE [B, H, W, C] in 0..1."""
    return (pictures.movedim(1, -1) + 1).mul_(0.5).clamp_(0, 1)


class Progress:
    """A progress bar with preview; each update is also where a Cancel takes effect."""

    def __init__(self, total: int) -> None:
        self.total, self.bar = total, comfy.utils.ProgressBar(total)

    def __call__(self, done: int, latest: Tensor | None = None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if self.total > 1 and latest is not None:
            pixels = (to_image(latest.unsqueeze(0))[0] * 255).round().byte().cpu().numpy()
            preview = ("JPEG", Image.fromarray(pixels), 512)
        self.bar.update_absolute(done, self.total, preview)


def counted() -> Callable[[int, int], None]:
    """Progress of work whose length is known only once it has begun; to be called with what is done and what there is."""
    bars: list[Progress] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress(total))
        bars[0](done)

    return show


@lru_cache(maxsize=2)
def _hosted(base: Base, dtype: torch.dtype) -> tuple[Network, object]:
    """The network of a base in a dtype, with the patcher by which ComfyUI loads and offloads it; the last two are kept."""
    network = Network(base, dtype)
    # Looked up now, not at import: newer versions put another class here after start-up.
    patcher_class = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    device = comfy.model_management.get_torch_device()
    patcher = patcher_class(network.module, device, comfy.model_management.unet_offload_device())
    patcher.add_callback(CallbacksMP.ON_DETACH, lambda *_: network.forget())
    return network, patcher


def run(
    base: Base, pictures: Tensor, blends: Sequence[Blend], precision: str, on_progress: Callable[[int, Tensor], None]
) -> Tensor:
    """`engine.e2gan.network.apply` on ComfyUI's device; where 16 bits that were not asked for do not hold the numbers, float32 does."""
    chosen = choose(comfy.model_management.get_torch_device(), precision)
    log.debug("E2GAN runs in %s.", chosen.reason)
    try:
        return _run(base, chosen.dtype, pictures, blends, on_progress)
    except NotFinite:
        if precision != "auto" or chosen.dtype is torch.float32:
            raise
        log.warning("This blend of concepts passes what %s holds: E2GAN runs it in float32.", chosen.dtype)
        return _run(base, torch.float32, pictures, blends, on_progress)


def _run(
    base: Base, dtype: torch.dtype, pictures: Tensor, blends: Sequence[Blend], on_progress: Callable[[int, Tensor], None]
) -> Tensor:
    """With ComfyUI's memory management; tiles shrink when memory is short."""
    network, patcher = _hosted(base, dtype)
    pixels = min(TILE * TILE, pictures.shape[0] * pictures.shape[2] * pictures.shape[3])
    needed = pixels * NUMBERS_PER_PIXEL * dtype.itemsize
    comfy.model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
    network.module.to(comfy.model_management.get_torch_device())
    tile = TILE
    while True:
        try:
            return apply(network, pictures, blends, tile=tile, chunk_pixels=tile * tile, on_progress=on_progress)
        except comfy.model_management.OOM_EXCEPTION:
            if tile <= SMALLEST_TILE:
                raise
            tile = max(tile // 2, SMALLEST_TILE)
            network.forget()
            comfy.model_management.soft_empty_cache()
            log.warning("E2GAN ran out of memory and goes on with tiles of %d px.", tile)
