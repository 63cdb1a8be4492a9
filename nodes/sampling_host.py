"""ComfyUI's models and sampling as the sampler nodes meet them: what can be sampled, which student rides with a model, the run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..engine.errors import InvalidInput
from ..engine.guidance import bias_shift
from ..engine.sampling import SAMPLERS, step_noise
from ..engine.schedules import TRAINED, Plan, Student
from ..engine.students import custom, student

ATTACHED = "hotpath.student"
AUTO, CUSTOM, OWN = "auto", "custom", "student's own"
FAMILIES = {768: "sd15", 1024: "sd2", 2048: "sdxl"}  # by width of the text context
PREDICTIONS = {"eps": comfy.model_sampling.EPS, "v": comfy.model_sampling.V_PREDICTION, "x0": comfy.model_sampling.X0}
GUIDED_BIAS = "diffusion_model.time_embed.0.bias"


@dataclass(frozen=True, eq=False)
class EmbeddedGuidance:
    """The guidance input of an LCM UNet; `scale` is what the model's patches hold already."""

    projection: Tensor
    first_weight: Tensor
    scale: float

    def shift(self, scale: float) -> Tensor:
        """What to add to the bias to go from the scale that is there to another one."""
        there, wanted = (bias_shift(self.projection, self.first_weight, value) for value in (self.scale, scale))
        return wanted - there


@dataclass(frozen=True, eq=False)
class Attached:
    """What rides with a model: the student it is, how that was told, its guidance input where it has one, and the file of
    its weights where a whole UNet took their place."""

    student: str
    evidence: str
    embedded: EmbeddedGuidance | None = None
    unet: str = ""


def prediction(sampling: torch.nn.Module) -> str | None:
    """eps, v or x0; None for anything else, flow and EDM above all."""
    discrete, kinds = comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling
    others = (kinds.ModelSamplingDiscreteEDM, kinds.StableCascadeSampling, kinds.EDM, kinds.IMG_TO_IMG)
    if not isinstance(sampling, discrete) or isinstance(sampling, others):
        return None
    # EPS is the base class of the two others, so it comes last
    return next((name for name in ("v", "x0", "eps") if isinstance(sampling, PREDICTIONS[name])), None)


def set_prediction(model: ModelPatcher, kind: str, zero_snr: bool) -> str:
    """Makes `model`, which the caller has cloned, take its network's output for eps, v or x0, and says so."""
    sampling = type("StudentSampling", (comfy.model_sampling.ModelSamplingDiscrete, PREDICTIONS[kind]), {})
    model.add_object_patch("model_sampling", sampling(model.model.model_config, zsnr=zero_snr))
    return f"The network predicts {kind}{' with zero SNR' if zero_snr else ''}."


def noise_levels(model: ModelPatcher) -> Tensor:
    """Noise level of each training timestep [1000] of a model that few-step students can be run on, or a sentence why not."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    sampling, name = model.get_model_object("model_sampling"), type(model.model).__name__
    if prediction(sampling) is None or not isinstance(model.model.diffusion_model, UNetModel):
        raise InvalidInput(
            f"Expected a UNet of the SD 1.x, 2.x or SDXL family, got {name} ({type(model.model.diffusion_model).__name__}): "
            "flow and DiT models have other students; use ComfyUI's KSampler for them."
        )
    if len(sampling.sigmas) != TRAINED:
        raise InvalidInput(
            f"Expected a model with {TRAINED} timesteps, got {len(sampling.sigmas)}: take the node ModelSamplingDiscrete out, "
            "the student's timesteps are set here."
        )
    return sampling.sigmas.detach().float().cpu()


def latents(model: ModelPatcher, latent: dict) -> Tensor:
    """Samples [B, C, H, W] of a LATENT that fits the model, empty ones brought to its channels, or a sentence why not."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        raise InvalidInput(
            "Expected latents of pictures [B, C, H, W], got those of video or audio: this sampler has no use for them."
        )
    samples, channels = (
        comfy.sample.fix_empty_latent_channels(model, samples),
        model.get_model_object("latent_format").latent_channels,
    )
    if samples.shape[1] != channels:
        raise InvalidInput(f"Expected latents of {channels} channels, got {samples.shape[1]}: encode with the VAE of this model.")
    if not torch.isfinite(samples).all():
        raise InvalidInput(
            "Expected finite latents, got NaN or infinity: look at the node before; a VAE in fp16 often is the cause."
        )
    return samples


def attached(model: ModelPatcher | None) -> Attached | None:
    return None if model is None else model.get_attachment(ATTACHED)


def over(before: Attached | None, now: Attached) -> Attached:
    """`now` put on a model that carries `before`, whose UNet and guidance input stay where it brings none."""
    return replace(now, embedded=now.embedded or before.embedded, unet=now.unet or before.unet) if before else now


def carried(before: Attached | None, whole: bool) -> str:
    """A line on the student that a model carries already; `whole` where a UNet has been put in place of the model's."""
    if before is None:
        return ""
    rest = "what of it is a LoRA stays on top of this UNet" if whole else "which stays under this one"
    return f"It already carried {before.student} ({before.evidence}), {rest}: take that Load Student out unless both are meant."


def choose(model: ModelPatcher | None, name: str, timesteps: str = "", solver: str = OWN) -> tuple[Student, str]:
    """The student to run and a sentence on why it is this one."""
    known = attached(model)
    if name == AUTO:
        if known is None:
            raise InvalidInput(
                "Expected a model with a student, got one that carries none: put Load Student before this node, or choose "
                "the student by hand (for an 8-step LoRA of unknown make hyper_sd_8 or lcm_lora are the safest)."
            )
        name, why = known.student, known.evidence
    else:
        why = "chosen by hand"
    if name == CUSTOM:
        kind = prediction(model.get_model_object("model_sampling")) if model else None
        return custom(timesteps, "ddim" if solver == OWN else solver, kind or "eps"), why
    if timesteps.strip() or solver != OWN:
        raise InvalidInput(
            f"Expected timesteps and solver to be left alone for {name}, got some: choose the student {CUSTOM} for them."
        )
    return student(name), why


def with_doubts(plan: Plan, model: ModelPatcher, samples: Tensor | None = None) -> Plan:
    """The plan with what speaks against this student on this model and latent size added to its warnings."""
    chosen, doubts, known = plan.student, [], attached(model)
    if known and known.student != chosen.id:
        doubts.append(f"The model carries {known.student} ({known.evidence}), but {chosen.id} was chosen.")
    kind = prediction(model.get_model_object("model_sampling"))
    if chosen.prediction != kind and (chosen.prediction, kind) != ("eps", "v"):  # a LoRA for eps goes onto bases that predict v
        remedy = "set the prediction in Load Student" if chosen.prediction == "eps" else "put Load Student before this node"
        doubts.append(f"{chosen.title} predicts {chosen.prediction}, the model is set to {kind}: {remedy}.")
    family = FAMILIES.get(model.model.model_config.unet_config.get("context_dim"))
    sizes = dict(chosen.resolution)
    if family and sizes and family not in sizes:
        doubts.append(f"{chosen.title} is for {' and '.join(sizes)}, the model is {family}.")
    elif family in sizes and samples is not None:
        height, width = (8 * side for side in samples.shape[2:])
        if not 0.5 <= height * width / sizes[family] ** 2 <= 2:
            doubts.append(f"{chosen.title} was distilled at {sizes[family]} px, this picture is {width} x {height}.")
    if chosen.guidance.kind == "embedded" and (known is None or known.embedded is None):
        doubts.append(
            f"{chosen.title} takes guidance as an input that this model lacks, so it has no effect: load it by Load Student."
        )
    return replace(plan, warnings=(*plan.warnings, *doubts))


def solver(chosen: Student, images: Sequence[int] | None = None) -> comfy.samplers.KSAMPLER:
    """The student's solver as a SAMPLER; `images` are the numbers of the pictures in a batch, by which their noise is drawn."""

    def run(model, x, sigmas, extra_args=None, callback=None, disable=None):
        table = noise_levels(model.inner_model.model_patcher)
        numbers = images if images is not None and len(images) == len(x) else None
        return SAMPLERS[chosen.solver](
            model,
            _started(model, x, sigmas, chosen, table),
            sigmas,
            extra_args,
            callback,
            disable,
            eta=chosen.eta,
            noise_sampler=step_noise(x, (extra_args or {}).get("seed"), numbers),
            table=table,
        )

    run.__name__ = chosen.solver  # by which a probe tells samplers apart
    return comfy.samplers.KSAMPLER(run)


def _started(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, chosen: Student, table: Tensor) -> Tensor:
    """x with its noise as the student's first step expects it.

    ComfyUI scales pure noise by sqrt(1 + sigma^2) at the model's highest sigma and by sigma elsewhere. A student that starts
    from nothing may want either, wherever its grid begins; a picture in the latent is always noised to sigma, as diffusers does.
    """
    if len(sigmas) < 2:
        return x
    first, highest = float(sigmas[0]), float(table[-1])
    unit = math.sqrt(1 + first**2)
    given = unit if first > highest or math.isclose(first, highest, rel_tol=1e-5) else first
    from_nothing = math.isclose(first, float(table[chosen.first_timestep]), rel_tol=1e-5) and not model.latent_image.any()
    wanted = unit if from_nothing and chosen.start == "unit" else first
    return x if wanted == given else x + (wanted - given) * model.noise


def guided(model: ModelPatcher, plan: Plan) -> tuple[ModelPatcher, float]:
    """The model and the scale of classifier-free guidance for a run; embedded guidance becomes a patch on a clone."""
    if plan.student.guidance.kind != "embedded":
        return model, plan.guidance
    known = attached(model)
    if known and known.embedded and known.embedded.scale != plan.guidance:
        model = model.clone()
        model.add_patches({GUIDED_BIAS: ("diff", (known.embedded.shift(plan.guidance),))})
    return model, 1.0


def sample(model: ModelPatcher, plan: Plan, positive: list, negative: list, latent: dict, samples: Tensor, seed: int) -> Tensor:
    """Runs a plan by ComfyUI's own path, with its previews; each step is where a Cancel takes effect."""
    sigmas = plan.sigmas(noise_levels(model))
    if not len(sigmas):
        return samples
    model, scale = guided(model, plan)
    images = latent.get("batch_index")
    return comfy.sample.sample_custom(
        model,
        comfy.sample.prepare_noise(samples, seed, images),
        scale,
        solver(plan.student, images),
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
