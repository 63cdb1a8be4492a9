"""What the cases of the sampler nodes share: the pack in ComfyUI, a small network shaped like SD 1.5, and files for it."""

import sys
from pathlib import Path

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from hotpath.tests.comfy.inside import Pack
from safetensors.torch import save_file

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # the network is small
PACK = Pack(Path(sys.argv[3]))
MODELS = Path(sys.argv[2]) / "models"
call, case = PACK.call, PACK.case

CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 0,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "num_heads": 4,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
    "dtype": torch.float32,
}


def filled(network, seed):
    source = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            centre = 1.0 if value.ndim == 1 and key.endswith("weight") else 0.0
            value.copy_(torch.randn(value.shape, generator=source) * (0.2 / max(value[0].numel(), 1) ** 0.25) + centre)
    return network


def patcher(network):
    return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))


def tiny(seed=0):
    config = comfy.supported_models.SD15(dict(CONFIG))
    config.set_inference_dtype(torch.float32, None)
    network = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS)
    filled(network.diffusion_model, seed)
    return patcher(network)


MODEL = tiny()
TABLE = MODEL.model.model_sampling.sigmas
TEXT = torch.randn(2, 1, 7, 768, generator=torch.Generator().manual_seed(1))
POSITIVE, NEGATIVE = ([[text, {}]] for text in TEXT)
EMPTY = {"samples": torch.zeros(1, 4, 8, 8)}
PICTURE = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
PLAIN = {"student": "auto", "seed": 11, "steps": 0, "guidance": 0.0, "denoise": 1.0}


def run(model=MODEL, latent=EMPTY, positive=POSITIVE, **options):
    inputs = {"model": model, "positive": positive, "negative": NEGATIVE, "latent_image": latent, **PLAIN, **options}
    return call("EightStepSampler", **inputs)


def samples(*args, **options):
    return run(*args, **options)[0]["samples"]


def apart(a, b):
    """Largest difference, in units of the spread where that is above 1."""
    return ((a - b).abs().max() / b.std().clamp(min=1)).item()


def loaded(model=MODEL, file="none: the model is the student", student="auto", strength=1.0, prediction="student's own"):
    return call("LoadStudent", model=model, file=file, student=student, strength=strength, prediction=prediction)


LAYERS = {
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "input_blocks.1.1.transformer_blocks.0.attn2.to_k": "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "input_blocks.1.1.proj_in": "down_blocks.0.attentions.0.proj_in",
    "input_blocks.1.0.in_layers.2": "down_blocks.0.resnets.0.conv1",
}
OWN = {key: value.clone() for key, value in MODEL.model.diffusion_model.state_dict().items()}


def lora(seed, kind="kohya", layers=LAYERS):
    source, tensors = torch.Generator().manual_seed(seed), {}
    for own, theirs in layers.items():
        weight = OWN[own + ".weight"]
        ends = ("lora_up", "lora_down") if kind == "kohya" else ("lora_B", "lora_A")
        prefix = {"peft": "unet.", "peft alone": "base_model.model.", "bare": ""}.get(kind)
        stem = "lora_unet_" + theirs.replace(".", "_") if kind == "kohya" else prefix + theirs
        tail = [1] * (weight.ndim - 2)
        tensors[f"{stem}.{ends[0]}.weight"] = torch.randn(weight.shape[0], 2, *tail, generator=source) * 0.3
        tensors[f"{stem}.{ends[1]}.weight"] = torch.randn(2, *weight.shape[1:], generator=source) * 0.3
    return tensors


def write(name, tensors, folder="loras", metadata=None):
    save_file({key: value.clone() for key, value in tensors.items()}, MODELS / folder / name, metadata)
    return name


CFG_LORA = write("Hyper-SD15-8steps-CFG-lora.safetensors", lora(3))
OTHER = tiny(7)
NEW = OTHER.model.diffusion_model.state_dict()
NAMES = {own: theirs for theirs, own in comfy.utils.unet_to_diffusers(CONFIG).items() if own in NEW}
DIFFUSERS = {NAMES[key]: value for key, value in NEW.items()}
