"""Nodes that drive few-step students: one sampler, its schedule and solver for custom sampling, and a loader."""

from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..engine.schedules import SOLVERS, plan
from ..engine.students import STUDENTS
from . import sampling_host as host
from . import student_files as files
from .concept_host import tell
from .host import log

CATEGORY = "hotpath/sampling"
NO_FILE = "none: the model is the student"
SETTINGS = {"eps": ("eps", False), "v": ("v", False), "v, zero SNR": ("v", True), "x0": ("x0", False)}


def _student(tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("student", options=[host.AUTO, *STUDENTS, host.CUSTOM], default=host.AUTO, tooltip=tooltip)


def _steps() -> io.Int.Input:
    return io.Int.Input("steps", default=0, min=0, max=1000, tooltip="Length of the student's grid; 0: the student's own.")


def _denoise() -> io.Float.Input:
    tooltip = "Share of the student's steps that run, the last ones: 1 for a new picture, less to change a picture. The text says which."
    return io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def _timesteps() -> io.String.Input:
    tooltip = "Only for the student custom: falling timesteps such as 999, 749, 499, 249."
    return io.String.Input("timesteps", default="", optional=True, tooltip=tooltip)


def _solver() -> io.Combo.Input:
    tooltip = "Only for the student custom: how to step (student's own: ddim)."
    return io.Combo.Input("solver", options=[host.OWN, *SOLVERS], default=host.OWN, optional=True, tooltip=tooltip)


def _report_output() -> io.String.Output:
    return io.String.Output("report", display_name="report", tooltip="What is run, why, and what speaks against it.")


class EightStepSampler(io.ComfyNode):
    """Model, conditioning and latent to latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_EightStepSampler",
            display_name="8-Step Sampler",
            category=CATEGORY,
            description="Samples with a few-step student (LCM, Hyper-SD, Lightning, TCD, PCM, DMD2, Turbo) as it was distilled.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="A model with a student, from Load Student; LoRAs may follow."),
                io.Conditioning.Input("positive", tooltip="What to show; ControlNet goes in here."),
                io.Conditioning.Input("negative", tooltip="What to avoid; without effect where guidance is off (1)."),
                io.Latent.Input(
                    "latent_image", tooltip="Empty for a new picture; a picture, a mask or a batch work as in KSampler."
                ),
                _student("auto: the one that Load Student has recognised."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="Same seed, same picture."
                ),
                _steps(),
                io.Float.Input(
                    "guidance", default=0.0, min=0.0, max=30.0, step=0.1, tooltip="0: the student's own. 1: off, one pass a step."
                ),
                _denoise(),
                _timesteps(),
                _solver(),
            ],
            outputs=[io.Latent.Output("latent", display_name="LATENT", tooltip="The finished latents."), _report_output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, positive: list, negative: list, latent_image: dict, student: str, seed: int, steps: int,
        guidance: float, denoise: float, timesteps: str = "", solver: str = host.OWN,
    ) -> io.NodeOutput:  # fmt: skip
        host.noise_levels(model)
        samples = host.latents(model, latent_image)
        chosen, why = host.choose(model, student, timesteps, solver)
        run = host.with_doubts(plan(chosen, steps, denoise, guidance), model, samples)
        for sentence in run.warnings:
            log.warning(sentence)
        report = f"{run}\nStudent: {why}"
        shown = tell(cls, report)
        finished = host.sample(model, run, positive, negative, latent_image, samples, seed)
        return io.NodeOutput({**latent_image, "samples": finished}, report, ui=shown)


class StudentSchedule(io.ComfyNode):
    """Model to sigmas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_StudentSchedule",
            display_name="Student Schedule",
            category=CATEGORY,
            description="The noise levels at exactly the timesteps of a few-step student, for SamplerCustomAdvanced.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model that will be sampled; its own noise levels are used."),
                _student("auto: the one that Load Student has recognised."),
                _steps(),
                _denoise(),
                _timesteps(),
                _solver(),
            ],
            outputs=[io.Sigmas.Output("sigmas", display_name="SIGMAS", tooltip="Noise levels, falling."), _report_output()],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, student: str, steps: int, denoise: float, timesteps: str = "", solver: str = host.OWN
    ) -> io.NodeOutput:
        table = host.noise_levels(model)
        chosen, why = host.choose(model, student, timesteps, solver)
        run = host.with_doubts(plan(chosen, steps, denoise), model)
        report = f"{run}\nStudent: {why}"
        return io.NodeOutput(run.sigmas(table), report, ui=tell(cls, report))


class StudentSolver(io.ComfyNode):
    """Student to sampler and guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_StudentSolver",
            display_name="Student Solver",
            category=CATEGORY,
            description="The solver of a few-step student, for SamplerCustomAdvanced, and the guidance that goes with it.",
            inputs=[
                _student("auto: the one that Load Student has recognised; needs the model."),
                io.Float.Input(
                    "eta",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of fresh noise (TCD's gamma); -1: the student's own. Without effect on lcm, which always takes all.",
                ),
                io.Model.Input("model", optional=True, tooltip="A model with a student; needed for auto."),
                _timesteps(),
                _solver(),
            ],
            outputs=[
                io.Sampler.Output("sampler", display_name="SAMPLER", tooltip="The solver."),
                io.Float.Output("cfg", display_name="guidance", tooltip="The student's own guidance, for CFGGuider; 1 is off."),
            ],
        )

    @classmethod
    def execute(
        cls, student: str, eta: float, model: ModelPatcher | None = None, timesteps: str = "", solver: str = host.OWN
    ) -> io.NodeOutput:
        chosen, _ = host.choose(model, student, timesteps, solver)
        scale = 1.0 if chosen.guidance.kind == "embedded" else chosen.guidance.default
        return io.NodeOutput(host.solver(chosen if eta < 0 else replace(chosen, eta=eta)), scale)


class LoadStudent(io.ComfyNode):
    """Model and a student's file to model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_LoadStudent",
            display_name="Load Student",
            category=CATEGORY,
            description="Puts a few-step student (LoRA or UNet file) on a model, recognises which it is, and sets the model up for it.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The base that the student was distilled from."),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *files.file_names()],
                    default=NO_FILE,
                    tooltip="From models/loras or models/diffusion_models; none for a checkpoint that is a student already.",
                ),
                _student("auto: by the file's metadata, keys, SHA-256, name, in this order."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Of a LoRA; students are made for 1. A UNet has 1.",
                ),
                io.Combo.Input(
                    "prediction",
                    options=[host.OWN, *SETTINGS],
                    default=host.OWN,
                    tooltip="What the network predicts; change it only for a student of your own.",
                ),
            ],
            outputs=[
                io.Model.Output("student_model", display_name="MODEL", tooltip="The model with its student."),
                _report_output(),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        """A name that comes over a link is None here, and known only when the node runs."""
        return file in (None, NO_FILE) or file in files.file_names() or files.missing(file)

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_: object) -> str | None:
        return file if file in (None, NO_FILE) else files.file_state(file)

    @classmethod
    def execute(cls, model: ModelPatcher, file: str, student: str, strength: float, prediction: str) -> io.NodeOutput:
        host.noise_levels(model)
        before, model, weights = host.attached(model), model.clone(), None if file == NO_FILE else files.read(file)
        known = files.recognised(weights) if student == host.AUTO else files.by_hand(student, weights)
        applied, embedded = files.put_on(model, weights, strength) if weights else ("", None)
        row, whole = STUDENTS.get(known.student), bool(weights and not weights.is_lora)
        setting = SETTINGS.get(prediction)
        if setting is None and row and (row.prediction != "eps" or whole):
            setting = (row.prediction, False)  # a LoRA for eps leaves the model's own setting
        now = host.Attached(known.student, known.evidence, embedded, file if whole else "")
        model.set_attachments(host.ATTACHED, host.over(before, now))
        report = [
            f"{row.title if row else 'Custom student'} ({known.student}): {known.evidence}",
            applied,
            host.carried(before, whole),
            host.set_prediction(model, *setting) if setting else "",
            f"Licence: {row.licence}" if row else "",
        ]
        text = "\n".join(filter(None, report))
        return io.NodeOutput(model, text, ui=tell(cls, text))


NODES = [EightStepSampler, LoadStudent, StudentSchedule, StudentSolver]
