"""ComfyUI as the training nodes meet it: their folders, texts on a node, progress, and a place to train in."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ui
from PIL import Image

from ..engine.errors import InvalidInput
from ..training.pair_folder import is_pair_folder
from ..training.plan import Update
from ..training.session import ConceptRun
from .host import BUNDLED, log

PERCEPTUAL = BUNDLED / "training" / "perceptual_vgg16.safetensors"
RESERVED = r"(con|prn|aux|nul|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?"  # by Windows, with any ending; digits may be raised
TRAINING_MEMORY = 4 * 2**30
TOLD_EVERY = 2.0  # seconds at most between two lines on the node
_remembered: dict[Path, tuple[int, str]] = {}  # by folder of pairs: how often it was found changed, and its state


def file_name(name: str) -> str:
    """A name that is one file or folder on every system, or a sentence."""
    bare = name.strip()
    if not re.fullmatch(r"\w[\w .-]{0,79}", bare) or bare.endswith(".") or len(bare.encode()) > 200:
        raise InvalidInput(
            "Expected a name of letters, digits, spaces, dots, dashes and underscores, at most 80 of them and 200 bytes, "
            f"got '{name}': choose another."
        )
    if re.fullmatch(RESERVED, bare, re.IGNORECASE):
        raise InvalidInput(f"Expected a name that Windows does not keep for a device, got '{name}': choose another.")
    return bare


def _output(kind: str, name: str) -> Path:
    return Path(folder_paths.get_output_directory()) / "hotpath" / kind / file_name(name)


def training_folder(name: str) -> Path:
    return _output("training", name)


def pairs_folder(name: str) -> Path:
    return _output("pairs", name)


def folder_state(folder: Path) -> str:
    """Changes when a file in a folder does."""
    return " ".join(f"{path.name} {path.stat().st_mtime_ns}" for path in sorted(folder.rglob("*")))


def remember(folder: Path) -> None:
    """A folder as a node leaves it, for `times_changed`."""
    _remembered[folder] = _remembered.get(folder, (0, ""))[0], folder_state(folder)


def times_changed(folder: Path) -> int:
    """How often a folder was found other than it was left. A node's own writing does not count, or the node would run again."""
    if folder not in _remembered:
        return 0
    count, state = _remembered[folder]
    if (now := folder_state(folder)) != state:
        _remembered[folder] = count + 1, now
    return _remembered[folder][0]


def own_concepts() -> Path:
    return Path(folder_paths.models_dir) / "e2gan" / "concepts"


def is_bundled(concept: str) -> bool:
    """Whether a concept of this file name comes with hotpath."""
    return (BUNDLED / "concepts" / f"{concept}.safetensors").is_file()


def short(path: Path) -> str:
    """A file in the folder of models as a user speaks of it: models/e2gan/concepts/name.safetensors."""
    return f"models/{path.relative_to(folder_paths.models_dir).as_posix()}"


def short_output(path: Path) -> str:
    """A file in the folder of outputs likewise: output/hotpath/training/name/..."""
    return f"output/{path.relative_to(folder_paths.get_output_directory()).as_posix()}"


def pair_folders() -> dict[str, Path]:
    """Folders of pairs by the name that the node offers: in input/, in output/hotpath/pairs, and the bundled examples."""
    output = Path(folder_paths.get_output_directory()) / "hotpath" / "pairs"
    places = {
        "input": Path(folder_paths.get_input_directory()),
        "pairs": output,
        "hotpath": BUNDLED.parent / "examples" / "pairs",
    }
    return {
        f"{label}/{path.name}": path
        for label, place in places.items()
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.is_dir() and is_pair_folder(path)
    }


def tell(node: type, text: str) -> ui.PreviewText:
    """Show a text on the node that runs, and give it back for the history. Nodes render Markdown, where a break takes two blanks."""
    from server import PromptServer

    instance = getattr(PromptServer, "instance", None)
    if instance is not None and node.hidden is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text.replace("\n", "  \n"), node.hidden.unique_id)
    return ui.PreviewText(text)


class TrainingProgress:
    """Progress bar, picture and a line of text of a training run; each update is also where a Cancel takes effect."""

    def __init__(self, node: type) -> None:
        self.node, self.bar, self.last, self.told_at = node, None, ("", ""), 0.0

    def __call__(self, update: Update) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if update.total:
            self.bar = self.bar or comfy.utils.ProgressBar(update.total)
            picture = None if update.preview is None else ("JPEG", Image.fromarray(update.preview.numpy()), 768)
            self.bar.update_absolute(update.done, update.total, picture)
        now, state = time.monotonic(), (update.phase, update.warning)
        due = now - self.told_at > TOLD_EVERY
        if due or state != self.last or update.preview is not None or update.score is not None:
            if update.warning and state != self.last:
                log.warning("E2GAN training goes on: %s.", update.warning)
            self.last, self.told_at = state, now
            tell(self.node, update.text)

    def ended(self, run: ConceptRun) -> None:
        """Keeps the place of a run that was cut short, and says where. Never fails: what ended it is what ComfyUI is to hear of."""
        try:
            kept, trainer = run.keep(), run.trainer
            if trainer is None:
                text = "nothing kept, as training had not begun; queue again to start anew"
            elif kept:
                text = f"kept at step {trainer.step} of {trainer.settings.steps}; queue again to go on"
            else:
                text = f"not kept at step {trainer.step} of {trainer.settings.steps}: {run.warning}"
            if trainer is not None and run.best is not None and run.place.best.is_file():
                text += f". Best so far, at step {run.best.info['step']}: {short_output(run.place.best)}"
            tell(self.node, text)
        except Exception:
            log.exception("E2GAN training could not keep its place.")


@contextmanager
def training() -> Iterator[torch.device]:
    """Outside inference mode and with room on the device; what training took is given back at the end."""
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        comfy.model_management.free_memory(TRAINING_MEMORY, device)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield device
    finally:
        comfy.model_management.soft_empty_cache()
