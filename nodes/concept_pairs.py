"""Nodes that collect, load and choose pairs of pictures before and after an edit."""

from dataclasses import replace

import torch
from comfy_api.latest import io

from ..engine.errors import InvalidInput
from ..training import perceptual
from ..training.pair_folder import load_folder, save_folder, stored_pairs
from ..training.pairs import PairSet
from ..training.selection import features, nearest_to_centres
from . import concept_host as host
from . import wires
from .host import Progress, counted, log

CATEGORY = "hotpath/training"


def prompt_input(tooltip: str) -> io.String.Input:
    return io.String.Input("prompt", default="", tooltip=tooltip)


def _side() -> io.Int.Input:
    return io.Int.Input("side", default=256, min=64, max=1024, step=16, tooltip="Pictures become squares of this many px.")


def _report(pairs: PairSet, summary: str) -> str:
    lines = [summary, *(f"Refused: {sentence}" for sentence in pairs.refused)]
    for line in lines[1:]:
        log.warning("E2GAN Pairs: %s", line)
    return "\n".join(lines)


class E2GANPairs(io.ComfyNode):
    """IMAGE lists before and after to pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_E2GANPairs",
            display_name="E²GAN Pairs",
            category=CATEGORY,
            description="Collects pictures before and after an edit, from any graph. With a folder they are kept and grow from run to run.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("before", tooltip="Pictures before the edit: a batch or a list."),
                io.Image.Input("after", tooltip="The same pictures after the edit, in the same order and size."),
                prompt_input("What the edit is, in a few words; kept with the pairs."),
                _side(),
                io.String.Input(
                    "folder", default="", tooltip="Name of a folder in output/hotpath/pairs to keep them in; empty: do not."
                ),
                wires.PAIRS.Input("more", optional=True, tooltip="Pairs to add these to."),
            ],
            outputs=[wires.PAIRS.Output("pairs", display_name="pairs", tooltip="All pairs together.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: list, **_: object) -> int:
        """Run again when what was written is gone or changed."""
        return host.times_changed(host.pairs_folder(folder[0])) if (folder[0] or "").strip() else 0

    @classmethod
    def execute(
        cls, before: list, after: list, prompt: list, side: list, folder: list, more: list | None = None
    ) -> io.NodeOutput:
        befores, afters = ([picture for batch in batches for picture in batch] for batches in (before, after))
        if len(befores) != len(afters):
            raise InvalidInput(
                f"Expected as many pictures after the edit as before, got {len(befores)} before and {len(afters)} after: wire both "
                "from the same pictures."
            )
        place = host.pairs_folder(folder[0]) if folder[0].strip() else None
        start, told, refused = more[0] if more else PairSet(), prompt[0] or (more[0].prompt if more else ""), ()
        if place is not None and (place / "pairs.json").is_file():
            stored = stored_pairs(place, side[0], counted())
            start = start.plus(((pair.name, pair.before, pair.after) for pair in stored.pairs), side[0])
            told, refused = told or stored.prompt, stored.refused
        named = ((f"pair_{index:04d}", *two) for index, two in enumerate(zip(befores, afters, strict=True), len(start) + 1))
        pairs = PairSet(start.pairs, told).plus(named, side[0])
        pairs = replace(pairs, refused=(*refused, *pairs.refused))
        if not len(pairs):
            raise InvalidInput("Expected at least one pair that can be used, got none. " + " ".join(pairs.refused[:3]))
        summary = f"{len(pairs)} pairs, {len(pairs) - len(start)} of them new."
        if place is not None:
            summary += f" {save_folder(pairs, place)} written to {place}."
            host.remember(place)
        return io.NodeOutput(pairs, ui=host.tell(cls, _report(pairs, summary)))


class LoadE2GANPairs(io.ComfyNode):
    """Folder to pairs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_LoadE2GANPairs",
            display_name="Load E²GAN Pairs",
            category=CATEGORY,
            description="Loads pairs from a folder: before/ and after/ with equal file names, or one that E²GAN Pairs has filled.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list(host.pair_folders()) or ["none found"],
                    tooltip="Folders of pairs in input/ and in output/hotpath/pairs, and the bundled examples.",
                ),
                prompt_input("What the edit is, in a few words; empty keeps what the folder says."),
                _side(),
            ],
            outputs=[wires.PAIRS.Output("pairs", display_name="pairs", tooltip="The pairs of the folder.")],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        """A folder's name that comes over a link is None here, and known only when the node runs."""
        return folder is None or folder in host.pair_folders() or _unknown(folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **_: object) -> str:
        place = host.pair_folders().get(folder)
        return "missing" if place is None else host.folder_state(place)

    @classmethod
    def execute(cls, folder: str, prompt: str, side: int) -> io.NodeOutput:
        place = host.pair_folders().get(folder)
        if place is None:
            raise InvalidInput(_unknown(folder))
        pairs = load_folder(place, side, counted())
        pairs = PairSet(pairs.pairs, prompt or pairs.prompt, pairs.refused)
        return io.NodeOutput(pairs, ui=host.tell(cls, _report(pairs, f"{len(pairs)} pairs.")))


def _unknown(folder: str) -> str:
    return f"Expected a folder of pairs, got '{folder}'; there are: {', '.join(host.pair_folders()) or 'none at all'}."


class SelectE2GANPairs(io.ComfyNode):
    """Pairs to the most representative of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_SelectE2GANPairs",
            display_name="E²GAN Select Pairs",
            category=CATEGORY,
            description="Keeps the pairs that stand for the others: k-means over picture features, the nearest to each centre.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                wires.PAIRS.Input("pairs", tooltip="Pairs to choose from."),
                io.Int.Input("count", default=64, min=2, max=5000, tooltip="How many to keep; all, if there are fewer."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, tooltip="Seed of the clusters."
                ),
            ],
            outputs=[
                wires.PAIRS.Output("selected", display_name="pairs", tooltip="The kept pairs."),
                io.Image.Output("sheet", display_name="IMAGE", tooltip="The kept pairs, before above after."),
            ],
        )

    @classmethod
    def execute(cls, pairs: PairSet, count: int, seed: int) -> io.NodeOutput:
        lpips = perceptual.load(host.PERCEPTUAL)
        found = features(lpips, pairs.before, on_chunk=Progress(len(pairs)))
        kept = pairs.chosen(nearest_to_centres(found, min(count, len(pairs)), seed))
        return io.NodeOutput(kept, _sheet(kept), ui=host.tell(cls, f"{len(kept)} of {len(pairs)} pairs kept."))


def _sheet(pairs: PairSet, columns: int = 8, cell: int = 128, most: int = 64) -> torch.Tensor:
    """IMAGE [1, H, W, 3]: each pair's before above its after, in rows."""
    cells = [torch.cat([pair.before, pair.after])[None].movedim(-1, 1).float() / 255 for pair in pairs.pairs[:most]]
    small = [torch.nn.functional.interpolate(tile, (2 * cell, cell), mode="area")[0].movedim(0, -1) for tile in cells]
    small += [torch.ones_like(small[0])] * (-len(small) % columns if len(small) > columns else 0)
    rows = [torch.cat(small[start : start + columns], 1) for start in range(0, len(small), columns)]
    return torch.cat(rows)[None]


NODES = [E2GANPairs, LoadE2GANPairs, SelectE2GANPairs]
