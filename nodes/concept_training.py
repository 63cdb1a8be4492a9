"""Nodes that train a concept inside the graph, save it, and use it at once."""

import torch
from comfy_api.latest import io

from ..engine.e2gan.checkpoint import save_concept
from ..engine.e2gan.concept import Concept
from ..engine.e2gan.network import E2GAN
from ..engine.errors import InvalidInput
from ..training import perceptual
from ..training.pairs import PairSet
from ..training.plan import Plan
from ..training.session import ConceptRun
from . import concept_host as host
from . import wires
from .concept_pairs import CATEGORY, prompt_input
from .e2gan import strength_input

QUALITY = {
    "fast": {"searched": False, "batch": 4, "crop": 128, "adversarial": 0.0},
    "balanced": {"searched": True, "batch": 6, "crop": 160},
    "best": {"searched": True, "batch": 8, "crop": 192, "loss_crop": 112},
}


class TrainE2GANConcept(io.ComfyNode):
    """Pairs to a concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_TrainE2GANConcept",
            display_name="Train E²GAN Concept",
            category=CATEGORY,
            description="Learns an edit from pairs as a concept of 0.2 MB. Cancel keeps its place; queue again to go on.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                wires.E2GAN.Input(
                    "e2gan", display_name="E²GAN", tooltip="The base to learn on; concepts chained onto it are left out."
                ),
                wires.PAIRS.Input(
                    "pairs", tooltip="Pictures before and after the edit; one in seven, at most 12, is held out for the score."
                ),
                io.String.Input(
                    "name", default="my_concept", tooltip="Name of the concept and of its folder in output/hotpath/training."
                ),
                prompt_input("What the edit is, in a few words; kept in the file. Empty: what the pairs say."),
                io.Float.Input(
                    "minutes",
                    default=5.0,
                    min=0.1,
                    max=600.0,
                    step=0.5,
                    tooltip="Time in all: closest look, rank search (about a third at most), training and scores; at least 10 steps.",
                ),
                io.Combo.Input(
                    "quality",
                    options=list(QUALITY),
                    default="balanced",
                    tooltip="fast: small crops, default ranks. balanced and best search the ranks; best looks at larger crops.",
                ),
                # Otherwise the editor draws a new seed after each run, and a cancelled run never goes on.
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    tooltip="With steps, the same seed, pairs and settings give the same concept.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    tooltip="Go on where a cancelled run of this name stopped, if pairs and settings are the same (the prompt may change).",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1_000_000, tooltip="Number of steps in place of minutes; 0: minutes."
                ),
                io.Float.Input("lr", default=0.01, min=1e-5, max=0.1, step=0.001, round=False, tooltip="Learning rate of Adam."),
            ],
            outputs=[
                wires.CONCEPT.Output("concept", display_name="concept", tooltip="The best by the held-out score."),
                io.LossMap.Output("loss", display_name="LOSS_MAP", tooltip="Loss of each step, for core's loss graph."),
                io.Image.Output("preview", display_name="IMAGE", tooltip="Held-out pictures: before, after, and by the concept."),
            ],
        )

    @classmethod
    def execute(
        cls, e2gan: E2GAN, pairs: PairSet, name: str, prompt: str, minutes: float, quality: str, seed: int, resume: bool, steps: int, lr: float
    ) -> io.NodeOutput:  # fmt: skip
        if quality not in QUALITY:
            raise InvalidInput(f"Expected the quality to be one of {', '.join(QUALITY)}, got '{quality}': choose one of them.")
        plan = Plan(name, prompt or pairs.prompt, minutes, steps, lr=lr, seed=seed, **QUALITY[quality])
        folder, progress = host.training_folder(name), host.TrainingProgress(cls)
        with host.training() as device:
            result = cls._train(
                ConceptRun(e2gan.base, pairs, perceptual.load(host.PERCEPTUAL), plan, folder, device), resume, progress
            )
        concept, losses, picture, summary = result
        return io.NodeOutput(concept, {"loss": losses}, picture, ui=host.tell(cls, summary))

    @staticmethod
    def _train(run: ConceptRun, resume: bool, progress: host.TrainingProgress) -> tuple[Concept, list[float], torch.Tensor, str]:
        """In a function of its own, so that the run is let go before memory is given back."""
        if resume:
            run.resume()
        try:
            for update in run.updates():
                progress(update)
        except BaseException:
            progress.ended(run)
            raise
        return run.best, run.history["loss"], run.picture()[None].float() / 255, run.summary


class SaveE2GANConcept(io.ComfyNode):
    """Concept to file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_SaveE2GANConcept",
            display_name="Save E²GAN Concept",
            category=CATEGORY,
            description="Writes a trained concept into models/e2gan/concepts, where the concept nodes find it.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                wires.CONCEPT.Input("concept", tooltip="A trained concept."),
                io.String.Input("name", default="", tooltip="File name without ending; empty: the concept's name."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace a file of this name, or stand in front of a bundled concept of this name.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, overwrite: bool) -> io.NodeOutput:
        name = host.file_name(name or concept.name)
        hides = host.is_bundled(name)
        if hides and not overwrite:
            raise InvalidInput(
                f"Expected a name of your own, got '{name}', under which graphs find a concept that comes with hotpath: choose "
                "another, or allow overwriting to put yours in front of it."
            )
        path = host.own_concepts() / f"{name}.safetensors"
        save_concept(path, concept, overwrite=overwrite)
        note = "; it now stands in front of the bundled concept of this name" if hides else ""
        return io.NodeOutput(ui=host.tell(cls, f"{host.short(path)} ({path.stat().st_size / 1e6:.3f} MB){note}"))


class AddE2GANConcept(io.ComfyNode):
    """E2GAN and a concept from the wire to E2GAN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_AddE2GANConcept",
            display_name="Add E²GAN Concept",
            category=CATEGORY,
            description="Adds a concept that was trained in this graph, without a file in between.",
            inputs=[
                wires.E2GAN.Input("e2gan", display_name="E²GAN", tooltip="The base the concept was trained on."),
                wires.CONCEPT.Input("concept", tooltip="The trained concept."),
                strength_input("0 changes nothing, 1 is the look as trained."),
            ],
            outputs=[wires.E2GAN.Output("styled", display_name="E²GAN", tooltip="The E²GAN with this concept added.")],
        )

    @classmethod
    def execute(cls, e2gan: E2GAN, concept: Concept, strength: float) -> io.NodeOutput:
        return io.NodeOutput(e2gan.with_concept(concept, strength))


NODES = [TrainE2GANConcept, SaveE2GANConcept, AddE2GANConcept]
