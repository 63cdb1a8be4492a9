"""Which weight files are known and present; downloads one when its switch is on."""

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..engine.errors import InvalidInput
from ..engine.weights import manifest, report
from ..engine.weights.fetch import fetch
from .concept_host import tell

CATEGORY = "hotpath/sampling"
ALL = "all"


def files_of(directory: str) -> dict[Path, int]:
    """The files of a models folder with their sizes, in every place that ComfyUI looks."""
    if directory not in folder_paths.folder_names_and_paths:
        return {}
    found = (folder_paths.get_full_path(directory, name) for name in folder_paths.get_filename_list(directory))
    return report.sizes_of(Path(path) for path in found if path)


def folder_of(directory: str) -> Path:
    """Where a new file of a kind belongs: of ComfyUI's places the first that is called so."""
    known = folder_paths.folder_names_and_paths.get(directory)
    places = [Path(place) for place in (known[0] if known else ())] or [Path(folder_paths.models_dir) / directory]
    return next((place for place in places if place.name == directory), places[0])


def loader_name(path: Path, directory: str) -> str:
    """The name by which ComfyUI's loaders offer a file: its path within the place where it lies."""
    places = folder_paths.folder_names_and_paths.get(directory, ([], ()))[0]
    return next((str(path.relative_to(place)) for place in places if path.is_relative_to(place)), path.name)


def obey_cancel(*_: int) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


class Download:
    """A progress bar in bytes; each update is also where a Cancel takes effect."""

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(1)

    def __call__(self, done: int, total: int) -> None:
        obey_cancel()
        self.bar.update_absolute(done, max(total, 1))


class Weights(io.ComfyNode):
    """A known file, or all of them, to a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_Weights",
            display_name="Weights",
            category=CATEGORY,
            description="Shows the public weight files that hotpath knows: what is here, what is missing, where it belongs, its licence.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=[ALL, *(entry.id for entry in manifest.entries())],
                    default=ALL,
                    tooltip="One file, or all of them as a list. Files are recognised by their SHA-256 under any name.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip="On: fetch the chosen file into its models folder if it is not here. Off: no connection is made.",
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="The list or what is known of the file, as text; a table in Markdown."),
                io.String.Output("file_name", display_name="file name", tooltip="Name of the chosen file in its folder; of all: empty."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")  # files come and go

    @classmethod
    def execute(cls, weights: str, download: bool) -> io.NodeOutput:
        if weights == ALL:
            if download:
                raise InvalidInput("Expected one file to download, got all of them: choose one, or turn download off.")
            entries = manifest.entries()
            files = {directory: files_of(directory) for directory in {entry.directory for entry in entries}}
            text, name = report.table(report.by_directory(entries, files, obey_cancel)), ""
        else:
            entry = manifest.entry(weights)
            folder = folder_of(entry.directory)
            found = report.find(entry, files_of(entry.directory), obey_cancel)
            if download and not found.there:
                fetch(entry, folder, Download())
                found = report.find(entry, report.sizes_of([folder / entry.name]), obey_cancel)
            text, name = report.sheet(found, folder), loader_name(found.path or folder / entry.name, entry.directory)
        return io.NodeOutput(text, name, ui=tell(cls, text.partition("\n")[0] if weights == ALL else text))


NODES = [Weights]
