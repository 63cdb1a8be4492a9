"""ComfyUI as the probe nodes meet it: the graph around a node, which nodes run or are cached, folders, versions."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy_execution.progress import ProgressHandler, get_progress_state
from comfy_execution.utils import get_executing_context

from ..engine.probe.clock import Clock, Mark
from ..engine.probe.report import Report, load

HISTORY = "probe_history.jsonl"
# By name of the latent format, as core's nodes for empty latents of each divide.
CELLS = dict.fromkeys(
    ("SD15", "SDXL", "SDXL_Playground_2_5", "SD3", "Flux", "Mochi", "HunyuanVideo", "Cosmos1CV8x8x8", "Wan21"), 8
)
CELLS |= {"Flux2": 16, "Wan22": 16, "HunyuanVideo15": 16, "HunyuanImage21": 32, "LTXV": 32, "ChromaRadiance": 1}


def device() -> torch.device:
    return comfy.model_management.get_torch_device()


def version() -> str:
    from comfyui_version import __version__

    return __version__


def prompt_id() -> str:
    """Names the prompt that runs now; empty outside one."""
    context = get_executing_context()
    return context.prompt_id if context else ""


def cell(model: Any) -> int:
    """Px of a picture to one of the model's latent, along a side; 0 if its latent format is not known here."""
    return CELLS.get(latent_format(model), 0)


def latent_format(model: Any) -> str:
    """Name of the format of a model's latents."""
    return type(model.object_patches.get("latent_format", getattr(model.model, "latent_format", None))).__name__


def obey_cancel() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def history_file() -> Path:
    return Path(folder_paths.get_user_directory()) / "hotpath" / HISTORY


def reports_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / "hotpath" / "reports"


def report_files() -> list[str]:
    folder = reports_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []


def saved_report(name: str) -> Report:
    return load(reports_folder() / f"{Path(name).name}.json")


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a node of an API prompt that make a difference to its work, which a seed does not."""
    return {name: value for name, value in node.get("inputs", {}).items() if not name.lower().endswith("seed")}


def _links(inputs: Mapping[str, Any]) -> set[str]:
    """Numbers of the nodes that feed these inputs."""
    return {str(value[0]) for value in inputs.values() if isinstance(value, list) and len(value) == 2}


def ancestors(prompt: Mapping[str, Any], number: str, *, seeds: bool = True) -> set[str]:
    """Every node that a node of an API prompt depends on; without `seeds`, not by a seed alone."""
    found, left = set(), [number]
    while left:
        node = prompt.get(left.pop(), {})
        for source in _links(node.get("inputs", {}) if seeds else _inputs(node)) - found:
            found.add(source)
            left.append(source)
    return found


def between(prompt: Mapping[str, Any], start: str, stop: str) -> set[str]:
    """Nodes on the ways from one node to another, without the two."""
    return {number for number in ancestors(prompt, stop) if start in ancestors(prompt, number)}


def settings(prompt: Mapping[str, Any], number: str, *left_out: str) -> str:
    """Changes when a node that feeds a node gets another setting, a seed aside: samples of both must not be mixed."""
    numbers = ancestors(prompt, number, seeds=False) - {*left_out}
    found = [(other, prompt[other].get("class_type"), _inputs(prompt[other])) for other in sorted(numbers) if other in prompt]
    return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()[:16]


def title(prompt: Mapping[str, Any], number: str) -> str:
    """What a reader knows a node by."""
    kind = prompt.get(number, {}).get("class_type", "unknown")
    return f"{kind.removeprefix('Hotpath_')} #{number}"


class Events(ProgressHandler):
    """When each node of the prompt began and ended; a node that ends without having begun was answered from the cache."""

    def __init__(self, name: str, clock: Clock, done: Callable[[str, Mark, Mark], None], cached: Callable[[str], None]) -> None:
        super().__init__(name)
        self.clock, self.done, self.cached = clock, done, cached
        self.begun: dict[str, Mark] = {}

    def start_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        self.begun[node_id] = self.clock.mark()

    def finish_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        begin = self.begun.pop(node_id, None)
        if begin is None:
            self.cached(node_id)
        else:
            self.done(node_id, begin, self.clock.mark())

    def listen(self) -> None:
        """Until the end of the prompt, when ComfyUI drops all handlers."""
        get_progress_state().register_handler(self)
