"""Cases of the sampler nodes: what is warned of and what is refused."""
# ruff: noqa: B023

import comfy.model_sampling
import comfy.nested_tensor
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete as CoreDiscrete
from hotpath.tests.comfy.sampler_world import (
    CFG_LORA,
    DIFFUSERS,
    MODEL,
    MODELS,
    NEW,
    case,
    loaded,
    lora,
    run,
    samples,
    tiny,
    write,
)

# ---- warnings

case("warn guidance", lambda: run(student="hyper_sd_8", guidance=7.0)[1])
case("warn steps", lambda: run(student="hyper_sd_8", steps=5)[1])
case("warn other student", lambda: run(loaded(file=CFG_LORA)[0], student="tcd")[1])
case("warn prediction", lambda: run(student="snapfusion_8")[1])
case("warn x0", lambda: run(loaded(student="sdxl_lightning_x0_1")[0], student="hyper_sd_8")[1])
case("v base", lambda: run(loaded(student="snapfusion_8")[0], student="hyper_sd_8")[1])
case("warn family", lambda: run(student="dmd2_4")[1])
case("warn size", lambda: run(student="tcd")[1])
case("warn embedded", lambda: run(student="lcm_unet")[1])

# ---- bad input


def of_class(kind, network_class=None):
    model = MODEL.clone()
    model.model = type(kind, (), {})()
    model.model.__dict__.update(MODEL.model.__dict__)
    if network_class:
        model.model.diffusion_model = type(network_class, (torch.nn.Module,), {})()
    return model


def flow():
    model = MODEL.clone()
    sampling = type("Flow", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})
    model.add_object_patch("model_sampling", sampling(MODEL.model.model_config))
    return samples(model, student="tcd")


def dit():
    model = tiny()
    model.model.diffusion_model = torch.nn.Linear(1, 1)
    return samples(model, student="tcd")


case("flow", flow)
case("dit", dit)
case("lcm sampling", lambda: samples(CoreDiscrete().patch(MODEL, "lcm", False)[0], student="lcm_lora"))
case("channels", lambda: samples(latent={"samples": torch.ones(1, 16, 8, 8)}, student="tcd"))
case("nan", lambda: samples(latent={"samples": torch.full((1, 4, 8, 8), float("nan"))}, student="tcd"))
nested = comfy.nested_tensor.NestedTensor([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8)])
case("video", lambda: samples(latent={"samples": nested}, student="tcd"))
case("no student", samples)
case("fixed steps", lambda: samples(student="dmd2_4", steps=8))
case("no list", lambda: samples(student="custom"))
case("list for another", lambda: samples(student="tcd", timesteps="999 500"))
case("unknown file", lambda: loaded(file=write("detail.safetensors", lora(1))))
case("no file", loaded)
case("gone", lambda: loaded(file="gone.safetensors"))
case("unet strength", lambda: loaded(file="comfyui.safetensors", student="tcd", strength=0.5))


def unet_on_unet(*between):
    model = loaded(file="comfyui.safetensors", student="tcd")[0]
    for file in between:
        model = loaded(model, file)[0]
    return loaded(model, "diffusers.safetensors", "tcd")


case("unet on unet", unet_on_unet)
case("unet on unet and lora", lambda: unet_on_unet(CFG_LORA))

good = lora(1)
first, *_ = good
stem = first.partition(".")[0]
second = first.replace("lora_up", "lora_down")
half = dict(list(good.items())[2:])
strange = {key.replace("lora_unet", "lora_unet_elsewhere"): value for key, value in good.items()}
bad = {
    "lora of nothing": strange,
    "lora in part": {**good, **dict(list(strange.items())[:2])},
    "lora half": {**half, first: good[first]},
    "lora other half": {**good, "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": torch.zeros(2, 64, 3, 3)},
    "lora alpha alone": {**good, "lora_unet_mid_block_resnets_0_conv1.alpha": torch.tensor(1.0)},
    "lora shape": {**good, second: torch.zeros(2, 5)},
    "lora flat": {**good, first: torch.zeros(4)},
    "lora point": {**good, second: torch.tensor(0.0)},
    "lora empty": {**good, second: good[second][:0], first: good[first][:, :0]},
    "lora two alphas": {**good, f"{stem}.alpha": torch.ones(2)},
    "unet guidance shape": {**NEW, "time_embedding.cond_proj.weight": torch.zeros(7, 48)},
    "unet guidance flat": {**NEW, "time_embedding.cond_proj.weight": torch.zeros(7)},
    "lora nan": {**good, second: good[second] * float("nan")},
    "lora loha": {f"{stem}.hada_{part}": torch.zeros(2, 2) for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
    "lora lokr": {f"{stem}.lokr_{part}": torch.zeros(2, 2) for part in ("w1", "w2")},
    "lora tucker": {**good, f"{stem}.lora_mid.weight": torch.zeros(2, 2, 1, 1)},
    "lora text": {**good, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 2)},
    "unet in part": dict(list(DIFFUSERS.items())[1:]),
    "unet too much": {**DIFFUSERS, "more.weight": torch.zeros(3)},
    "unet shape": {**NEW, "out.2.weight": torch.zeros(8, 32, 3, 3)},
}
for label, tensors in bad.items():
    file = write(f"{label}.safetensors", tensors, "loras" if "lora" in label else "diffusion_models")
    case(label, lambda: loaded(file=file, student="tcd"))
(MODELS / "loras" / "cut.safetensors").write_bytes((MODELS / "loras" / CFG_LORA).read_bytes()[:-100])
case("strength of NaN", lambda: loaded(file=CFG_LORA, student="tcd", strength=float("nan")))
case("cut off", lambda: loaded(file="cut.safetensors", student="tcd"))
