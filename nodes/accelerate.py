"""The Accelerate node: a model and a VAE as this machine runs them fastest; what came in stays as it is."""

import copy
import logging
from collections import Counter
from types import MethodType

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP
from comfy_api.latest import io
from torch import Tensor, nn

from ..engine.accelerate import OnTwin, corner, unet_call
from ..engine.attention import spatial
from ..engine.attention_override import distance, overriding
from ..engine.precision import CHOICES, choose
from ..engine.twin import twin_of, unfit

log = logging.getLogger("hotpath")

KEY = "hotpath_accelerate"
OVERRIDE = "optimized_attention_override"
PREFIX = "diffusion_model."
CUDA = "declined because this node has been measured on processors only, and this {what} runs on '{device}'"


class Accelerate(io.ComfyNode):
    """MODEL and VAE to the same, faster."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_Accelerate",
            display_name="Accelerate",
            category="hotpath/sampling",
            description="Runs a model and a VAE on the processor in 16 bits with channels last and a faster attention.",
            inputs=[
                io.Model.Input("model", tooltip="Any model; LoRAs may be applied before or after this node."),
                io.Vae.Input("vae", optional=True, tooltip="A VAE or TAESD for pictures; its decoding is made faster."),
                io.Combo.Input(
                    "precision",
                    options=list(CHOICES),
                    default="auto",
                    tooltip="auto takes bfloat16 where the processor is fast at it, else it leaves the number format as it is.",
                ),
            ],
            outputs=[
                io.Model.Output("fast_model", display_name="MODEL", tooltip="The model, for any sampler."),
                io.Vae.Output("fast_vae", display_name="VAE", tooltip="The VAE, for any decoding node; nothing if none came in."),
                io.String.Output("report", display_name="report", tooltip="What was done, what was declined, and why."),
            ],
        )

    @classmethod
    def execute(cls, model, precision: str, vae=None) -> io.NodeOutput:
        fast_model, lines = _model(model, precision)
        if vae is not None:
            vae, line = _vae(vae, precision)
            lines.append(f"VAE decode: {line}.")
        report = "\n".join(lines)
        log.info("Accelerate: %s", report.replace("\n", " "))
        return io.NodeOutput(fast_model, vae, report)


# ---- model


def _model(model: comfy.model_patcher.ModelPatcher, precision: str) -> tuple[comfy.model_patcher.ModelPatcher, list[str]]:
    """A clone whose attention and network are rerouted, and a line about each."""
    if model.load_device.type != "cpu":
        return model, [f"Model: {CUDA.format(what='model', device=model.load_device.type)}."]
    fast = model.clone()
    fast.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    for event in ("ON_LOAD", "ON_DETACH", "ON_APPLY_HOOKS", "ON_INJECT_MODEL", "ON_EJECT_MODEL", "ON_CLEANUP"):
        fast.remove_callbacks_with_key(getattr(CallbacksMP, event), KEY)
    attention, options = Counter[str](), fast.model_options["transformer_options"]
    before = getattr(options.get(OVERRIDE), "hotpath_previous", options.get(OVERRIDE))
    options[OVERRIDE] = overriding(before, attention)
    options[OVERRIDE].hotpath_previous = before
    lines = [
        "Attention: per shape the faster of torch's SDPA and blocked products, once it agrees with ComfyUI's own on first use."
    ]
    if before is not None:
        lines[0] += " Another node's attention stays in charge of it."
    chosen = choose(torch.device("cpu"), precision)
    if reason := _no_twin(fast, chosen):
        lines.append(f"Model: declined because {reason}.")
        fast.add_callback_with_key(CallbacksMP.ON_CLEANUP, KEY, lambda _: _tell(None, attention))
        return fast, lines
    network = fast.model.diffusion_model
    calls = OnTwin(twin_of(network, chosen.dtype), "The model")
    fast.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _wrapper(calls))
    _listen(fast, calls, attention)
    size = sum(parameter.numel() for parameter in network.parameters()) * chosen.dtype.itemsize / 2**30
    lines.append(
        f"Model: {chosen.reason}, channels last, on a copy of {size:.1f} GB made at the first step; "
        "it follows LoRAs and goes when ComfyUI unloads the model."
    )
    return fast, lines


def _no_twin(model: comfy.model_patcher.ModelPatcher, chosen) -> str | None:
    """Why the network keeps its number format, or None."""
    network = getattr(model.model, "diffusion_model", None)
    config = getattr(model.model, "model_config", None)
    if chosen.dtype == torch.float32:
        return f"its number format stays {chosen.reason}"
    if not isinstance(network, UNetModel) or getattr(config, "unet_config", {}).get("use_temporal_resblock"):
        kind = type(model.model).__name__
        return f"a copy in 16 bits has been checked for U-Nets of the Stable Diffusion family only, and this is {kind}"
    if chosen.dtype not in config.supported_inference_dtypes:
        return f"this kind of model does not work in {chosen.dtype}"
    if model.injections:
        return "another node puts modules of its own into it"
    if reason := unfit(network):
        return reason
    needed = sum(parameter.numel() for parameter in network.parameters()) * chosen.dtype.itemsize
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if free < 1.25 * needed:
        return f"a copy needs {needed / 2**30:.1f} GB and {free / 2**30:.1f} GB are free"
    return None


def _wrapper(calls: OnTwin):
    """A DIFFUSION_MODEL wrapper: what is wrapped further in runs too, around the twin."""

    def wrapper(executor: WrapperExecutor, *args, **kwargs):
        network = executor.class_obj
        if len(args) != 6 or not isinstance(network, UNetModel):
            return executor(*args, **kwargs)
        bare = executor.original.__func__

        def chain(twin: nn.Module):
            return WrapperExecutor.new_class_executor(MethodType(bare, twin), twin, executor.wrappers, executor.idx)

        done, out = unet_call(calls, network, bare, chain, args, kwargs)
        return out if done else executor(*args, **kwargs)

    return wrapper


def _listen(model: comfy.model_patcher.ModelPatcher, calls: OnTwin, attention: Counter[str]) -> None:
    """Learn when weights are written in place, which a twin cannot see, and when memory is wanted back."""
    twin = calls.twin

    def loaded(patcher, *_) -> None:
        if patcher.weight_inplace_update or any(entry.inplace_update for entry in patcher.backup.values()):
            twin.doubt([name for name, _ in patcher.model.diffusion_model.named_parameters()])

    def hooked(patcher, *_) -> None:
        twin.doubt([key.removeprefix(PREFIX) for key in patcher.hook_backup if key.startswith(PREFIX)])

    def detached(_, unpatch_all: bool) -> None:
        if unpatch_all:
            twin.release()

    def injected(_) -> None:
        calls.blocked = "another node puts modules of its own into it"

    def ejected(_) -> None:
        calls.blocked = None

    def cleaned(patcher) -> None:
        hooked(patcher)
        _tell(calls.counts, attention)

    for event, function in {
        CallbacksMP.ON_LOAD: loaded,
        CallbacksMP.ON_APPLY_HOOKS: hooked,
        CallbacksMP.ON_DETACH: detached,
        CallbacksMP.ON_INJECT_MODEL: injected,
        CallbacksMP.ON_EJECT_MODEL: ejected,
        CallbacksMP.ON_CLEANUP: cleaned,
    }.items():
        model.add_callback_with_key(event, KEY, function)


def _tell(calls: Counter[str] | None, attention: Counter[str]) -> None:
    """One log line about a run: how many calls were taken, how many declined and why."""
    parts = []
    for name, counts in (("model calls", calls), ("attention calls", attention)):
        if counts:
            declined = ", ".join(f"{count} ({reason})" for reason, count in counts.items() if reason != "taken")
            parts.append(f"{name} {counts['taken']}, declined {declined or 0}")
            counts.clear()
    if parts:
        log.info("Accelerate: %s.", "; ".join(parts))


# ---- VAE


def _vae(vae: comfy.sd.VAE, precision: str) -> tuple[comfy.sd.VAE, str]:
    """A VAE that decodes on a twin and encodes as before, and what was done."""
    network = getattr(vae, "first_stage_model", None)
    if not isinstance(vae, comfy.sd.VAE) or network is None or vae.latent_dim != 2 or not hasattr(network, "decode"):
        return vae, f"declined because it is no VAE of ComfyUI for pictures but {type(network or vae).__name__}"
    if vae.device.type != "cpu":
        return vae, CUDA.format(what="VAE", device=vae.device.type)
    chosen = choose(torch.device("cpu"), precision)
    if chosen.dtype == torch.float32:
        return vae, f"declined because its number format stays {chosen.reason}"
    if chosen.dtype not in vae.working_dtypes:
        return vae, f"declined because this kind of VAE does not work in {chosen.dtype}"
    if reason := unfit(network):
        return vae, f"declined because {reason}"
    calls = OnTwin(twin_of(network, chosen.dtype, _spatial_attention), "The VAE")
    fast, source = copy.copy(vae), copy.copy(vae)
    source.patcher = fast.patcher = vae.patcher.clone()
    fast.patcher.add_callback_with_key(CallbacksMP.ON_DETACH, KEY, lambda _, unpatch_all: unpatch_all and calls.twin.release())
    fast.decode = _rerouted(calls, source, "decode")
    fast.decode_tiled = _rerouted(calls, source, "decode_tiled")
    return fast, f"{chosen.reason}, channels last; encoding stays as it was"


def _spatial_attention(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, AttnBlock):
            module.optimized_attention = spatial


def _rerouted(calls: OnTwin, vae: comfy.sd.VAE, method: str):
    """`vae.decode` or `vae.decode_tiled` on the twin."""

    def decode(samples: Tensor, *args, **kwargs) -> Tensor:
        def compare(twin: nn.Module) -> float:
            piece = corner(samples, 8)
            return distance(twin.decode(piece.to(calls.twin.dtype)), vae.first_stage_model.decode(piece.to(vae.vae_dtype)))

        def fast(twin: nn.Module) -> Tensor:
            own = copy.copy(vae)
            own.first_stage_model, own.vae_dtype = twin, calls.twin.dtype
            return getattr(own, method)(samples, *args, **kwargs)

        if samples.ndim == 4:
            comfy.model_management.load_models_gpu([vae.patcher])  # so that what patches the VAE is in the weights
            done, out = calls.run(vae.first_stage_model, samples.shape[1:], compare, fast)
            if done:
                return out
        return getattr(vae, method)(samples, *args, **kwargs)

    return decode


NODES = [Accelerate]
