"""Cases of the sampler nodes: LoRA and UNet files, which student they are, and that nothing that came in is changed."""
# ruff: noqa: B023

import comfy.model_management as mm
import torch
from hotpath.engine.guidance import scale_embedding
from hotpath.tests.comfy.sampler_world import (
    CFG_LORA,
    DIFFUSERS,
    LAYERS,
    MODEL,
    MODELS,
    NEW,
    OTHER,
    OWN,
    PACK,
    PICTURE,
    apart,
    case,
    loaded,
    lora,
    run,
    samples,
    tiny,
    write,
)


def swap(kind):
    one, two = (write(f"{kind} Hyper-SD15-8steps-lora {seed}.safetensors", lora(seed, kind)) for seed in (1, 2))
    before = samples(student="hyper_sd_8")
    runs = [samples(loaded(file=file)[0]) for file in (one, two, one)]
    return [apart(runs[0], runs[1]), apart(runs[0], runs[2]), apart(before, samples(student="hyper_sd_8"))]


for kind in ("kohya", "peft"):
    case(f"swap {kind}", lambda: swap(kind))


def spellings():
    """The same LoRA as diffusers' pipelines, peft alone and diffusers' UNet alone name it."""
    files = {kind: write(f"{kind} Hyper-SD15-8steps-lora.safetensors", lora(1, kind)) for kind in ("peft", "peft alone", "bare")}
    first, *others = (samples(loaded(file=file)[0]) for file in files.values())
    return [apart(first, other) for other in others]


case("spellings", spellings)


def merged_by_hand():
    tensors, other = lora(1, "peft"), tiny()
    state = other.model.diffusion_model.state_dict()
    for own, theirs in LAYERS.items():
        up, down = (tensors[f"unet.{theirs}.lora_{end}.weight"].flatten(1) for end in "BA")
        state[own + ".weight"] += 0.7 * (up @ down).reshape(state[own + ".weight"].shape)
    model = loaded(file="peft Hyper-SD15-8steps-lora 1.safetensors", strength=0.7)[0]
    return apart(samples(model), samples(other, student="hyper_sd_8"))


case("merged by hand", merged_by_hand)


def auto():
    model, licence = loaded(file=CFG_LORA)
    return [run(model.clone())[1], licence]


case("auto", auto)

UNETS = {
    "comfyui": NEW,
    "diffusers": DIFFUSERS,
    "checkpoint": {f"model.diffusion_model.{key}": value for key, value in NEW.items()},
}
UNETS["checkpoint"]["cond_stage_model.x"] = torch.zeros(1)


def unet(kind):
    file = write(f"{kind}.safetensors", UNETS[kind], "diffusion_models")
    first = loaded(file=CFG_LORA)[0]  # a LoRA that was there before stays
    second = loaded(model=OTHER, file=CFG_LORA)[0]
    return max(
        apart(samples(loaded(file=file, student="tcd")[0]), samples(OTHER, student="tcd")),
        apart(samples(loaded(first, file, "tcd")[0]), samples(second, student="tcd")),
    )


for kind in ("diffusers", "comfyui", "checkpoint"):
    case(f"unet {kind}", lambda: unet(kind))


def embedded():
    projection = torch.randn(32, 48, generator=torch.Generator().manual_seed(9)) * 0.2
    file = write("any.safetensors", {**DIFFUSERS, "time_embedding.cond_proj.weight": projection}, "diffusion_models")
    model, report = loaded(file=file)
    assert "lcm_unet" in report, report

    def by_hand(scale):
        layer = OTHER.model.diffusion_model.time_embed[0]
        hook = layer.register_forward_pre_hook(lambda _, args: (args[0] + projection @ scale_embedding(scale, 48),))
        try:
            return samples(OTHER, student="lcm_unet")
        finally:
            hook.remove()

    runs = [samples(model), samples(model, guidance=3.0)]
    return [apart(runs[0], by_hand(8.0)), apart(runs[1], by_hand(3.0)), apart(runs[0], runs[1])]


case("embedded", embedded)


def prediction():
    host = PACK.part("nodes.sampling_host")
    kinds = [
        loaded(student="snapfusion_8")[0],
        loaded(file=CFG_LORA)[0],
        loaded(student="custom", prediction="v, zero SNR")[0],
        MODEL,
    ]
    sampling = [model.get_model_object("model_sampling") for model in kinds]
    return [
        host.prediction(sampling[0]),
        host.prediction(sampling[1]),
        sampling[2].zsnr and float(sampling[2].sigma_max) > 1000,
        host.prediction(sampling[3]) == "v",
    ]


case("prediction", prediction)


def evidence():
    sha256_of = PACK.part("engine.weights.recognise").sha256_of
    manifest = PACK.part("engine.weights.manifest")
    titled = write("dmd2_sdxl_4step_a.safetensors", lora(1), metadata={"ss_output_name": "LCM_LoRA_test"})
    hashed, named = (write(f"dmd2_sdxl_4step_{letter}.safetensors", lora(seed)) for letter, seed in (("b", 2), ("c", 3)))
    digest, entries = sha256_of(MODELS / "loras" / hashed), manifest.entries
    size = (MODELS / "loras" / hashed).stat().st_size
    manifest.entries = lambda: (manifest.Entry("a", "a file", "loras", "MIT", size, digest, student="tcd"),)
    try:
        return [loaded(file=file)[1] for file in (titled, hashed, named)]
    finally:
        manifest.entries = entries


case("evidence", evidence)


def hashing(size):
    """Load Student on a file of which nothing tells the student, cancelled before, beside a known file of `size` more bytes."""
    manifest, file = PACK.part("engine.weights.manifest"), write("detail of no name.safetensors", lora(1))
    entries, size = manifest.entries, (MODELS / "loras" / file).stat().st_size + size
    manifest.entries = lambda: (manifest.Entry("a", "a file", "loras", "MIT", size, "0" * 64, student="tcd"),)
    mm.interrupt_current_processing(True)
    try:
        return loaded(file=file)
    finally:
        manifest.entries = entries
        mm.interrupt_current_processing(False)


case("hash cancelled", lambda: hashing(0))
case("hash of another size", lambda: hashing(1))

# ---- one student on top of another


def stacked():
    base, one, two = loaded(file=CFG_LORA)[0], "kohya Hyper-SD15-8steps-lora 1.safetensors", "comfyui.safetensors"
    return [loaded(base, file=one)[1], loaded(base, file=two, student="tcd")[1], loaded(file=one)[1]]


case("stacked", stacked)


def embedded_below():
    """An LCM UNet's guidance input is still found below a LoRA student."""
    model = loaded(loaded(file="any.safetensors")[0], file=CFG_LORA)[0]
    runs = [samples(model, student="lcm_unet", guidance=scale) for scale in (8.0, 3.0)]
    return apart(*runs)


case("embedded below", embedded_below)
case("by hand", lambda: [loaded(file=CFG_LORA, student=student)[1] for student in ("lcm_lora", "hyper_sd_8_cfg", "custom")])


def left_alone():
    latent = {**PICTURE, "noise_mask": torch.ones(1, 64, 64), "other": 1}
    kept, weights = PICTURE["samples"].clone(), {key: value.clone() for key, value in OWN.items()}
    out = run(loaded(file=CFG_LORA)[0], latent)[0]
    samples(student="tcd")  # puts the model's own weights back
    now = MODEL.model.diffusion_model.state_dict()
    return [
        torch.equal(latent["samples"], kept) and "other" in out,
        not MODEL.patches and not MODEL.attachments and not MODEL.object_patches,
        all(torch.equal(now[key], value) for key, value in weights.items()),
        set(latent) == set(out),
    ]


case("left alone", left_alone)
