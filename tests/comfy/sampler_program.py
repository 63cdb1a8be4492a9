"""Run inside ComfyUI by test_sampler.py: every case, and what became of it, as JSON."""
# ruff: noqa: B023, E402, T201

import asyncio
import importlib.util
import json
import sys
import types

tree, base, pack = sys.argv[1:4]
sys.argv[1:] = ["--cpu", "--base-directory", base]
sys.path.insert(0, tree)
import comfy.options

comfy.options.enable_args_parsing()
from pathlib import Path

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.nested_tensor
import comfy.samplers
import comfy.supported_models
import comfy.utils
import torch
from comfy_api.internal import make_locked_method_func
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete as CoreDiscrete
from hotpath.engine.guidance import scale_embedding
from hotpath.engine.sampling import image_seed
from hotpath.engine.students import STUDENTS
from hotpath.tests.engine import few_step
from safetensors.torch import save_file

torch.set_grad_enabled(False)
torch.set_num_threads(1)  # the network is small
sys.modules["server"] = types.ModuleType("server")  # no web server here
sys.modules["server"].PromptServer = None
name = pack.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, pack + "/__init__.py", submodule_search_locations=[pack])
sys.modules[name] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


async def nodes():
    return await (await module.comfy_entrypoint()).get_node_list()


NODES = {node.define_schema().node_id: node for node in asyncio.run(nodes())}
results = {}
MODELS = Path(base) / "models"


def call(node, **inputs):
    node = NODES["Hotpath_" + node]
    with torch.inference_mode():
        return make_locked_method_func(node, "execute", node.PREPARE_CLASS_CLONE(None))(**inputs).args


def case(label, function):
    try:
        results[label] = [None, function()]
    except BaseException as error:
        results[label] = [type(error).__name__, str(error)]


# ---- a small network shaped like SD 1.5

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
    same = []
    for latent, denoise in ((EMPTY, 1.0), (PICTURE, 0.5)):
        sigmas = call("StudentSchedule", model=MODEL, student="lcm_lora", steps=0, denoise=denoise)[0]
        sampler, cfg = call("StudentSolver", student="lcm_lora", eta=-1.0)
        guider = comfy.samplers.CFGGuider(MODEL)
        guider.set_conds(POSITIVE, NEGATIVE)
        guider.set_cfg(cfg)
        noise = comfy.sample.prepare_noise(latent["samples"], 11)
        with torch.inference_mode():
            found = guider.sample(noise, latent["samples"], sampler, sigmas, disable_pbar=True, seed=11)
        same.append(torch.equal(found, samples(latent=latent, student="lcm_lora", denoise=denoise)))
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

# ---- student files

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
        stem = "lora_unet_" + theirs.replace(".", "_") if kind == "kohya" else "unet." + theirs
        tail = [1] * (weight.ndim - 2)
        tensors[f"{stem}.{ends[0]}.weight"] = torch.randn(weight.shape[0], 2, *tail, generator=source) * 0.3
        tensors[f"{stem}.{ends[1]}.weight"] = torch.randn(2, *weight.shape[1:], generator=source) * 0.3
    return tensors


def write(name, tensors, folder="loras", metadata=None):
    save_file({key: value.clone() for key, value in tensors.items()}, MODELS / folder / name, metadata)
    return name


def swap(kind):
    one, two = (write(f"{kind} Hyper-SD15-8steps-lora {seed}.safetensors", lora(seed, kind)) for seed in (1, 2))
    before = samples(student="hyper_sd_8")
    runs = [samples(loaded(file=file)[0]) for file in (one, two, one)]
    return [apart(runs[0], runs[1]), apart(runs[0], runs[2]), apart(before, samples(student="hyper_sd_8"))]


for kind in ("kohya", "peft"):
    case(f"swap {kind}", lambda: swap(kind))
CFG_LORA = write("Hyper-SD15-8steps-CFG-lora.safetensors", lora(3))


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

OTHER = tiny(7)
NEW = OTHER.model.diffusion_model.state_dict()
NAMES = {own: theirs for theirs, own in comfy.utils.unet_to_diffusers(CONFIG).items() if own in NEW}
DIFFUSERS = {NAMES[key]: value for key, value in NEW.items()}
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
    host = sys.modules[name + ".nodes.sampling_host"]
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
    sha256_of = sys.modules[name + ".engine.weights.recognise"].sha256_of
    manifest = sys.modules[name + ".engine.weights.manifest"]
    titled = write("dmd2_sdxl_4step_a.safetensors", lora(1), metadata={"ss_output_name": "LCM_LoRA_test"})
    hashed, named = (write(f"dmd2_sdxl_4step_{letter}.safetensors", lora(seed)) for letter, seed in (("b", 2), ("c", 3)))
    digest, entries = sha256_of(MODELS / "loras" / hashed), manifest.entries
    manifest.entries = lambda: (manifest.Entry("a", "a file", "loras", "MIT", None, digest, student="tcd"),)
    try:
        return [loaded(file=file)[1] for file in (titled, hashed, named)]
    finally:
        manifest.entries = entries


case("evidence", evidence)


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

# ---- warnings

case("warn guidance", lambda: run(student="hyper_sd_8", guidance=7.0)[1])
case("warn steps", lambda: run(student="hyper_sd_8", steps=5)[1])
case("warn other student", lambda: run(loaded(file=CFG_LORA)[0], student="tcd")[1])
case("warn prediction", lambda: run(student="snapfusion_8")[1])
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

good = lora(1)
first, *_ = good
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
    "lora nan": {**good, second: good[second] * float("nan")},
    "lora text": {**good, "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.zeros(4, 2)},
    "unet in part": dict(list(DIFFUSERS.items())[1:]),
    "unet too much": {**DIFFUSERS, "more.weight": torch.zeros(3)},
    "unet shape": {**NEW, "out.2.weight": torch.zeros(8, 32, 3, 3)},
}
for label, tensors in bad.items():
    file = write(f"{label}.safetensors", tensors, "loras" if "lora" in label else "diffusion_models")
    case(label, lambda: loaded(file=file, student="tcd"))
(MODELS / "loras" / "cut.safetensors").write_bytes((MODELS / "loras" / CFG_LORA).read_bytes()[:-100])
case("cut off", lambda: loaded(file="cut.safetensors", student="tcd"))

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
print("RESULTS" + json.dumps(results, default=str))
