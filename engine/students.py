"""The few-step students and how each must be driven. Facts of their papers, cards and code; `unverified` says what is not."""

from dataclasses import replace

from .errors import InvalidInput
from .schedules import PREDICTIONS, SOLVERS, Guidance, Student, parse_timesteps

OFF = Guidance()
SD15, SDXL = (("sd15", 512),), (("sdxl", 1024),)
HYPER = {
    "licence": "openrail++ in older revisions of ByteDance/Hyper-SD; later ones show no licence",
    "source": "arXiv 2404.13686 and the README of ByteDance/Hyper-SD",
}
LIGHTNING = {
    "rule": "trailing",
    "solver": "euler",
    "start": "sigma",
    "resolution": SDXL,
    "licence": "openrail++",
    "source": "arXiv 2402.13929 and the card of ByteDance/SDXL-Lightning",
}
PCM = {"licence": "none stated", "source": "arXiv 2405.18407 with its demo and training code (wangfuyun/PCM_Weights)"}
PCM_TCD = {"rule": "consistency", "solver": "tcd", "final": "first", **PCM}
DMD2 = {
    "solver": "lcm",
    "resolution": SDXL,
    "licence": "cc-by-nc-4.0: no commercial use",
    "source": "the README of tianweiy/DMD2",
}
TURBO = {
    "rule": "trailing",
    "steps": (1, 2, 3, 4),
    "default_steps": 4,
    "start": "sigma",
    "unverified": "that guidance is off (from memory); four steps as the default are ours",
}


def _hyper_sd(count: int) -> Student:
    """DDIM as its card sets it up, from the base's own scheduler settings: those of SD 1.5 and SDXL end at timestep 0's level."""
    title = f"Hyper-SD {count}-step"
    return Student(f"hyper_sd_{count}", title, "trailing", (count,), count, "ddim", final="first", **HYPER)


def _lightning(count: int) -> Student:
    return Student(f"sdxl_lightning_{count}", f"SDXL-Lightning {count}-step", steps=(count,), default_steps=count, **LIGHTNING)


def _pcm(kind: str, count: int, guidance: Guidance) -> Student:
    title = f"PCM {kind} {count}-step"
    return Student(f"pcm_{kind}_{count}", title, steps=(count,), default_steps=count, guidance=guidance, **PCM_TCD)


_ROWS = (
    Student(
        "snapfusion_8",
        "SnapFusion-style 8-step",
        "trailing",
        (8,),
        8,
        "ddim",
        prediction="v",
        guidance=Guidance("range", 7.5, 7.0, 9.0),
        resolution=SD15,
        licence="no public weights",
        source="arXiv 2306.00980",
        unverified="the trailing timesteps are inferred from its training intervals; 7.5 as the default within 7 to 9 and that "
        "DDIM's last step ends at no noise are ours",
    ),
    Student(
        "lcm_lora",
        "LCM-LoRA",
        "consistency",
        tuple(range(2, 9)),
        8,
        "lcm",
        guidance=Guidance("range", 1.0, 1.0, 2.0),
        licence="openrail++ (SD 1.5; for SDXL from memory)",
        source="the cards of latent-consistency/lcm-lora-sdv1-5 and lcm-lora-sdxl",
    ),
    Student(
        "lcm_unet",
        "LCM UNet with embedded guidance",
        "consistency",
        tuple(range(2, 9)),
        8,
        "lcm",
        guidance=Guidance("embedded", 8.0, 1.0, 14.0),
        source="diffusers' LatentConsistencyModelPipeline",
        unverified="the counts of steps are those of LCM-LoRA; a guidance of 8 as the default and 14 as the end are ours",
    ),
    Student(
        "hyper_sd_1",
        "Hyper-SD 1-step (unified)",
        "consistency",
        tuple(range(1, 9)),
        1,
        "tcd",
        eta=1.0,
        final="first",
        unverified="its card gives eta 1 for one step and says less for more: lower eta brings more detail, how low is open",
        **HYPER,
    ),
    *map(_hyper_sd, (2, 4, 8)),
    replace(
        _hyper_sd(8),
        id="hyper_sd_8_cfg",
        title="Hyper-SD 8-step CFG",
        guidance=Guidance("range", 5.0, 5.0, 8.0),
        unverified="5 as the default within 5 to 8 is ours",
    ),
    Student("hyper_sdxl_unet_1", "Hyper-SDXL 1-step UNet", (800,), (1,), 1, "lcm", resolution=SDXL, **HYPER),
    replace(_lightning(1), id="sdxl_lightning_x0_1", title="SDXL-Lightning 1-step x0 UNet", prediction="x0"),
    *map(_lightning, (2, 4, 8)),
    Student(
        "tcd",
        "TCD-LoRA",
        "consistency",
        tuple(range(1, 51)),
        8,
        "tcd",
        eta=0.3,
        final="first",
        source="arXiv 2402.19159 and its code (h1t/TCD-SD15-LoRA, h1t/TCD-SDXL-LoRA)",
        unverified="8 steps as the default are ours; higher eta suits more steps",
    ),
    *(_pcm("smallcfg", count, OFF) for count in (2, 4, 8, 16)),
    *(_pcm("normalcfg", count, Guidance("range", 7.5, 7.5, 7.5)) for count in (4, 8, 16)),
    Student(
        "pcm_lcmlike",
        "PCM lcm-like",
        "consistency",
        tuple(range(2, 9)),
        8,
        "lcm",
        unverified="the counts of steps are those of LCM-LoRA",
        **PCM,
    ),
    Student("dmd2_4", "DMD2 4-step", (999, 749, 499, 249), (4,), 4, **DMD2),
    Student("dmd2_1", "DMD2 1-step", (399,), (1,), 1, **DMD2),
    Student(
        "sd_turbo",
        "SD-Turbo",
        solver="euler",
        resolution=(("sd2", 512),),
        licence="Stability AI: non-commercial research or community licence",
        source="the scheduler_config of stabilityai/sd-turbo",
        **TURBO,
    ),
    Student(
        "sdxl_turbo",
        "SDXL-Turbo",
        solver="euler",
        eta=1.0,
        resolution=(("sdxl", 512),),
        licence="Stability AI: non-commercial community licence",
        source="the scheduler_config of stabilityai/sdxl-turbo",
        **TURBO,
    ),
)
STUDENTS = {row.id: row for row in _ROWS}
SAFEST = ("hyper_sd_8", "lcm_lora")  # for an eps LoRA of unknown make: no fresh noise, and fresh noise at every step


def custom(timesteps: str, solver: str = "ddim", prediction: str = "eps", eta: float = 0.0) -> Student:
    """A student of the user's own: timesteps as text, no claim about guidance."""
    if solver not in SOLVERS or prediction not in PREDICTIONS:
        raise InvalidInput(f"Expected a solver of {SOLVERS} and a prediction of {PREDICTIONS}, got '{solver}', '{prediction}'.")
    steps = parse_timesteps(timesteps)
    return Student(
        "custom",
        "Custom student",
        steps,
        (len(steps),),
        len(steps),
        solver,
        prediction=prediction,
        guidance=Guidance("range", 1.0, 0.0, float("inf")),
        eta=eta,
        start="sigma" if solver == "euler" else "unit",
        final="first" if solver == "tcd" else "zero",
        resolution=(),
        source="you",
    )


def student(name: str) -> Student:
    """The row of that id."""
    if name not in STUDENTS:
        raise InvalidInput(f"Expected a student out of {', '.join(STUDENTS)}, got '{name}'.")
    return STUDENTS[name]
