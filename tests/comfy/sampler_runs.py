"""Cases of the sampler nodes: the runs themselves beside diffusers' loop, what the rest of a graph does, progress and Cancel."""
# ruff: noqa: B023

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management as mm
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from hotpath.engine.sampling import image_seed
from hotpath.engine.students import STUDENTS
from hotpath.tests.comfy.sampler_world import (
    CONFIG,
    EMPTY,
    MODEL,
    NEGATIVE,
    PICTURE,
    POSITIVE,
    TABLE,
    TEXT,
    apart,
    call,
    case,
    filled,
    loaded,
    samples,
)
from hotpath.tests.engine import few_step


def denoiser(model, scale=1.0, network=None):
    """What the model makes of x, by its own apply_model, with classifier-free guidance done by hand."""
    network = network or model.model

    def denoise(x, sigma):
        said = [network.apply_model(x, sigma.float().reshape(1), c_crossattn=text) for text in TEXT]
        return said[1] + (said[0] - said[1]) * scale if scale != 1 else said[0]

    return denoise


def compared(row, scale=1.0, latent=EMPTY, last=0, **options):
    model = loaded(student=row.id)[0] if row.prediction != "eps" else MODEL
    found = samples(model, latent, student=row.id, **options)
    network = model.model
    before = network.model_sampling
    network.model_sampling = model.get_model_object("model_sampling")
    noise = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(11))
    # the picture in the latent is scaled on its way in and out
    factor = network.latent_format.scale_factor
    picture = latent["samples"] * factor if last else None
    wanted = few_step.reference(row, noise, denoiser(model, scale), image_seed(11, 0), table=TABLE, picture=picture, last=last)[
        -1
    ]
    network.model_sampling = before
    return [apart(found * factor, wanted), wanted.std().item()]


for row in STUDENTS.values():
    case(f"row {row.id}", lambda: compared(row, 1.0 if row.guidance.kind == "embedded" else row.guidance.default))
case("guided", lambda: compared(STUDENTS["hyper_sd_8_cfg"], 6.5, guidance=6.5))
for solver, row in (("ddim", "hyper_sd_8"), ("lcm", "lcm_lora"), ("tcd", "tcd"), ("euler", "sdxl_lightning_8")):
    case(f"on the grid {solver}", lambda: compared(STUDENTS[row], latent=PICTURE, last=4, denoise=0.5))
    case(f"whole grid {solver}", lambda: compared(STUDENTS[row], latent=PICTURE, last=8))


def custom_sampling():
    same, own = [], {"student": "custom", "timesteps": "999, 749, 499, 249", "solver": "tcd"}
    for latent, denoise, chosen in (
        (EMPTY, 1.0, {"student": "lcm_lora"}),
        (PICTURE, 0.5, {"student": "lcm_lora"}),
        (EMPTY, 1.0, own),
    ):
        sigmas = call("StudentSchedule", model=MODEL, steps=0, denoise=denoise, **chosen)[0]
        sampler, cfg = call("StudentSolver", eta=-1.0, **chosen)
        guider = comfy.samplers.CFGGuider(MODEL)
        guider.set_conds(POSITIVE, NEGATIVE)
        guider.set_cfg(cfg)
        noise = comfy.sample.prepare_noise(latent["samples"], 11)
        with torch.inference_mode():
            found = guider.sample(noise, latent["samples"], sampler, sigmas, disable_pbar=True, seed=11)
        same.append(torch.equal(found, samples(latent=latent, denoise=denoise, **chosen)))
    return same


case("custom sampling", custom_sampling)


def asked(**options):
    """The timesteps at which the network is asked, one for each picture that goes through it."""
    seen, model = [], MODEL.clone()

    def note(executor, x, t, *args, **kwargs):
        seen.extend(int(value) for value in t)
        return executor(x, t, *args, **kwargs)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", note)
    samples(model, **options)
    return seen


case(
    "timesteps",
    lambda: [
        asked(student="dmd2_4"),
        asked(student="lcm_lora", denoise=0.5),
        asked(student="custom", timesteps="900, 500 100", solver="euler"),
    ],
)
case("passes", lambda: [len(asked(student="hyper_sd_8")), len(asked(student="hyper_sd_8_cfg"))])

# ---- batches, masks, ControlNet


def batch():
    both = samples(latent={"samples": torch.zeros(2, 4, 8, 8)}, student="lcm_lora")
    first = samples(student="lcm_lora")
    second = samples(latent={"samples": torch.zeros(1, 4, 8, 8), "batch_index": [1]}, student="lcm_lora")
    assert apart(both[:1], both[1:]) > 0.1
    return max(apart(both[:1], first), apart(both[1:], second))


case("batch", batch)


def mask():
    latent, found = {**PICTURE, "noise_mask": torch.zeros(1, 64, 64)}, {}
    latent["noise_mask"][..., 32:] = 1
    for student in ("hyper_sd_8", "lcm_lora", "tcd", "sdxl_turbo"):
        for denoise in (1.0, 0.5):
            changed = (samples(latent=latent, student=student, denoise=denoise) - PICTURE["samples"]).abs()
            found[f"{student} {denoise}"] = [changed[..., :4].max().item(), changed[..., 4:].mean().item()]
    return found


case("mask", mask)


def controlnet():
    config = {
        key: value
        for key, value in CONFIG.items()
        if key not in ("out_channels", "use_temporal_attention", "transformer_depth_output")
    }
    network = filled(comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config), 5)
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    control.set_cond_hint(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3)), 1.0, (0.0, 1.0))
    steered = [[TEXT[0], {"control": control, "control_apply_to_uncond": True}]]
    runs = [samples(positive=positive, student="hyper_sd_8") for positive in (POSITIVE, steered, steered)]
    return [apart(runs[0], runs[1]), apart(runs[1], runs[2])]


case("controlnet", controlnet)
case("denoise 0", lambda: torch.equal(samples(latent=PICTURE, student="tcd", denoise=0.0), PICTURE["samples"]))

# ---- progress and Cancel


def progress():
    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append([value, total]))
    samples(student="dmd2_4")
    return seen


case("progress", progress)
for at in (1, 4, 8):
    steps = []

    def stop(value, total, preview, node_id=None):
        steps.append(value)
        mm.interrupt_current_processing(value == at)
        mm.throw_exception_if_processing_interrupted()  # as the server's own hook does

    comfy.utils.set_progress_bar_global_hook(stop)
    case(f"cancel at {at}", lambda: samples(student="hyper_sd_8"))
    case(f"steps until cancelled at {at}", lambda: len(steps))
