"""E2GAN nodes: load a base, chain concepts onto it, apply it to pictures, show all concepts on one sheet."""

import torch
from comfy_api.latest import io

from ..engine.e2gan.checkpoint import load_base, load_concept
from ..engine.e2gan.concept import STRENGTH_RANGE
from ..engine.e2gan.network import E2GAN, check_pictures
from ..engine.e2gan.sheet import fitting_concepts, labelled_grid
from ..engine.errors import InvalidInput
from ..engine.pictures import check_mask, composite, out_of_range, scaled_to
from ..engine.precision import CHOICES
from . import host, wires

CATEGORY = "hotpath/e2gan"


def strength_input(tooltip: str) -> io.Float.Input:
    low, high = STRENGTH_RANGE
    return io.Float.Input("strength", default=1.0, min=low, max=high, step=0.05, tooltip=tooltip)


def _precision() -> io.Combo.Input:
    tooltip = (
        "Number format. auto takes what this machine is fast at: bfloat16 or float16 where the hardware has it, else float32."
    )
    return io.Combo.Input("precision", options=list(CHOICES), default="auto", tooltip=tooltip)


def _file_combo(name: str, kind: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=host.file_names(kind) or ["none found"], tooltip=tooltip)


class LoadE2GAN(io.ComfyNode):
    """Base file to E2GAN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_LoadE2GAN",
            display_name="Load E²GAN",
            category=CATEGORY,
            description="Loads a small image-to-image network. On its own it leaves a picture nearly as it is; concepts give it a look.",
            inputs=[_file_combo("base", host.BASES, "Base network: bundled ones and files in models/e2gan.")],
            outputs=[wires.E2GAN.Output("e2gan", display_name="E²GAN", tooltip="The base without a concept.")],
        )

    @classmethod
    def validate_inputs(cls, base: str | None) -> bool | str:
        return host.check_choice(host.BASES, base)

    @classmethod
    def fingerprint_inputs(cls, base: str | None) -> str:
        return host.file_state(host.BASES, base)

    @classmethod
    def execute(cls, base: str) -> io.NodeOutput:
        return io.NodeOutput(E2GAN(load_base(host.file_path(host.BASES, base))))


class E2GANConcept(io.ComfyNode):
    """E2GAN and a concept file to E2GAN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_E2GANConcept",
            display_name="E²GAN Concept",
            category=CATEGORY,
            description="Adds a concept, a look of 0.2 MB, to an E²GAN. Chain several to blend them by strength.",
            inputs=[
                wires.E2GAN.Input("e2gan", display_name="E²GAN", tooltip="A base, with or without concepts."),
                _file_combo("concept", host.CONCEPTS, "Concept: bundled ones and files in models/e2gan/concepts."),
                strength_input("0 changes nothing, 1 is the look as trained, above 1 exaggerates, below 0 pushes away from it."),
            ],
            outputs=[wires.E2GAN.Output("styled", display_name="E²GAN", tooltip="The E²GAN with this concept added.")],
        )

    @classmethod
    def validate_inputs(cls, concept: str | None) -> bool | str:
        return host.check_choice(host.CONCEPTS, concept)

    @classmethod
    def fingerprint_inputs(cls, concept: str | None, **_: object) -> str:
        return host.file_state(host.CONCEPTS, concept)

    @classmethod
    def execute(cls, e2gan: E2GAN, concept: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(e2gan.with_concept(load_concept(host.file_path(host.CONCEPTS, concept)), strength))


class ApplyE2GAN(io.ComfyNode):
    """Pictures through an E2GAN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_ApplyE2GAN",
            display_name="Apply E²GAN",
            category=CATEGORY,
            description="Edits pictures or video frames of any size with an E²GAN and its concepts.",
            inputs=[
                wires.E2GAN.Input("e2gan", display_name="E²GAN", tooltip="A base with concepts."),
                io.Image.Input("image", tooltip="Pictures of any size; a batch may be a video. Alpha is kept."),
                io.Float.Input(
                    "mix", default=1.0, min=0.0, max=1.0, step=0.05, tooltip="1 is the edit alone, 0 the picture as it came."
                ),
                _precision(),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where to edit: white is edited, black stays. Scaled to the picture."
                ),
            ],
            outputs=[io.Image.Output("edited", display_name="IMAGE", tooltip="The edited pictures, same size as they came.")],
        )

    @classmethod
    def execute(
        cls, e2gan: E2GAN, image: torch.Tensor, mix: float, precision: str, mask: torch.Tensor | None = None
    ) -> io.NodeOutput:
        if sentence := out_of_range(image):
            host.log.warning(sentence)
        pictures, mask = host.to_engine(image), None if mask is None else check_mask(mask, len(image))
        edited = host.to_image(host.run(e2gan.base, pictures, [e2gan.blend], precision, host.Progress(len(image))))
        return io.NodeOutput(composite(image, edited, mix, mask))


class E2GANConceptSheet(io.ComfyNode):
    """One picture in every concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_E2GANConceptSheet",
            display_name="E²GAN Concept Sheet",
            category=CATEGORY,
            description="Shows one picture in every concept made for this base, as a labelled grid to choose from.",
            inputs=[
                wires.E2GAN.Input("e2gan", display_name="E²GAN", tooltip="The base; concepts already chained stay underneath."),
                io.Image.Input("image", tooltip="The picture; of a batch, the first."),
                strength_input("Strength of each concept."),
                io.Int.Input("cell", default=384, min=128, max=1024, step=32, tooltip="Longer side of each cell in px."),
                io.Int.Input("columns", default=0, min=0, max=16, tooltip="Cells in a row; 0 makes the grid about square."),
                _precision(),
            ],
            outputs=[io.Image.Output("sheet", display_name="IMAGE", tooltip="The labelled grid, the picture itself first.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        return " ".join(f"{name} {host.file_state(host.CONCEPTS, name)}" for name in host.file_names(host.CONCEPTS))

    @classmethod
    def execute(
        cls, e2gan: E2GAN, image: torch.Tensor, strength: float, cell: int, columns: int, precision: str
    ) -> io.NodeOutput:
        paths = [host.file_path(host.CONCEPTS, name) for name in host.file_names(host.CONCEPTS)]
        styled, skipped = fitting_concepts(e2gan, paths, strength)
        for reason in skipped:
            host.log.info("Concept sheet leaves one out: %s", reason)
        if not styled:
            raise InvalidInput("Expected at least one concept for this base in models/e2gan/concepts, found none: put one there.")
        picture = scaled_to(check_pictures(host.to_engine(image[:1])), cell)
        batch = picture.expand(len(styled), -1, -1, -1)
        edited = host.run(
            e2gan.base, batch, [variant.blend for variant in styled.values()], precision, host.Progress(len(styled))
        )
        return io.NodeOutput(host.to_image(labelled_grid(torch.cat([picture, edited]), ["photograph", *styled], columns)))


NODES = [LoadE2GAN, E2GANConcept, ApplyE2GAN, E2GANConceptSheet]
