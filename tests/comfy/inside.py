"""ComfyUI in this process, and an SD1.5 of random weights for it: speed and plumbing do not depend on what the weights are."""

import asyncio
import importlib.util
import json
import math
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "adm_in_channels": None,
    "num_classes": None,
    "use_checkpoint": False,
    "legacy": False,
}
# What of it is otherwise in SDXL.
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
VAE |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def start_comfyui(tree: Path, base: Path) -> None:
    """Make ComfyUI importable, told to use the processor and the folder `base`."""
    before = sys.argv
    sys.argv = [before[0], "--cpu", "--base-directory", str(base)]
    sys.path.insert(0, str(tree))
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # reads the arguments, once

    sys.argv = before


class Pack:
    """The pack as ComfyUI loads it, under its path for a name, and what became of the cases that ran in it."""

    def __init__(self, folder: Path) -> None:
        sys.modules.setdefault("server", types.SimpleNamespace(PromptServer=None))  # no web server here
        self.name = str(folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(self.name, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[self.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        async def nodes() -> list:
            return await (await module.comfy_entrypoint()).get_node_list()

        self.nodes = {node.define_schema().node_id: node for node in asyncio.run(nodes())}
        self.results: dict[str, list] = {}

    def part(self, path: str) -> types.ModuleType:
        """A module of the pack that has been imported, such as "nodes.host"."""
        return sys.modules[f"{self.name}.{path}"]

    def call(self, node: str, method: str = "execute", **inputs: object) -> object:
        """What a node's method gives, its class locked as ComfyUI locks it; of `execute` the tuple of outputs."""
        from comfy_api.internal import make_locked_method_func

        kind = self.nodes[f"Hotpath_{node}"]
        with torch.inference_mode():
            result = make_locked_method_func(kind, method, kind.PREPARE_CLASS_CLONE(None))(**inputs)
        return result.args if hasattr(result, "args") else result

    def case(self, label: str, function: Callable[[], object]) -> None:
        """Run a case and remember [None, what it gives] or [name of the error, its words]."""
        try:
            self.results[label] = [None, function()]
        except BaseException as error:
            self.results[label] = [type(error).__name__, str(error)]

    def print_results(self) -> None:
        sys.stdout.write("RESULTS" + json.dumps(self.results, default=str))


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Distance relative to what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


def cases_in(results: dict[str, object]):
    """A decorator that runs a case at once and keeps what it gives under its name, or how it failed as text."""

    def case(function):
        try:
            with torch.inference_mode():
                results[function.__name__] = function()
        except Exception as error:
            results[function.__name__] = "".join(traceback.format_exception(error))

    return case


def accelerated(model, vae=None, precision: str = "auto") -> tuple:
    """What the Accelerate node gives, run as ComfyUI runs it: (MODEL, VAE, report)."""
    from comfy_api.internal import make_locked_method_func
    from hotpath.nodes.accelerate import Accelerate

    run = make_locked_method_func(Accelerate, "execute", Accelerate.PREPARE_CLASS_CLONE(None))
    return run(model=model, vae=vae, precision=precision).args


def fill(network: nn.Module, seed: int) -> nn.Module:
    """Weights that keep the size of what passes through, the same for the same seed."""
    source = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=source)
        elif parameter.ndim == 1:
            parameter.fill_(float(name.endswith("weight")))
    return network


def random_model(seed: int = 0, family: str = "SD15", **changes: object):
    """A MODEL as the checkpoint loader gives it on a processor: float32, SD1.5's config, or SDXL's, with `changes`."""
    import comfy.model_patcher
    import comfy.model_sampling
    import comfy.supported_models

    unet = {**UNET, **(SDXL if family == "SDXL" else {}), **changes, "dtype": torch.float32}
    config = getattr(comfy.supported_models, family)(unet)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    fill(model.diffusion_model, seed)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    # The network gives the denoised latent itself. Read as noise, random numbers would leave most of the first noise in the
    # result, and two results would seem closer to each other than the networks are.
    kind = type("Sampling", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0), {})
    patcher.add_object_patch("model_sampling", kind(config))
    return patcher


def in_16_bits(model):
    """A model as a few settings make it faster without our code: its network in bfloat16 and channels_last, torch's SDPA for attention."""
    from comfy.ldm.modules.attention import attention_pytorch

    network = model.model.diffusion_model.to(torch.bfloat16, memory_format=torch.channels_last)
    network.dtype = torch.bfloat16
    options = model.model_options["transformer_options"] = dict(model.model_options["transformer_options"])
    options["optimized_attention_override"] = lambda func, *args, **more: attention_pytorch(*args, **more)
    return model


def random_vae(seed: int = 0, **changes: object):
    """A VAE of SD1.5's shape with `changes`."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    network = fill(AutoencoderKL(ddconfig={**VAE, **changes}, embed_dim=4), seed)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": {"ddconfig": {**VAE, **changes}, "embed_dim": 4}})


def sample(model, latent: torch.Tensor, steps: int, seed: int = 1, cfg: float = 1.0, positive=None, negative=None, **options):
    """Euler on the normal schedule through ComfyUI's own sampling function; conditionings default to random ones."""
    import comfy.sample

    width = model.model.model_config.unet_config["context_dim"]
    random = torch.Generator().manual_seed(seed)
    pooled = {"pooled_output": torch.randn(1, 1280, generator=random)} if model.model.adm_channels else {}
    positive = positive or [[torch.randn(1, 77, width, generator=random), pooled]]
    negative = negative or [[torch.randn(1, 77, width, generator=random), pooled]]
    noise = comfy.sample.prepare_noise(latent, seed)
    options = {"disable_pbar": True, "seed": seed, **options}
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "normal", positive, negative, latent, **options)


def watched(model, watch):
    """A clone whose network is called by watch(executor, *arguments)."""
    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "watch", watch)
    return model
