"""The Accelerate node: a model and a VAE as this machine runs them fastest; what came in stays as it is."""

import logging
from collections import Counter
from types import MethodType

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import CallbacksMP, WrapperExecutor, WrappersMP
from comfy_api.latest import io
from torch import nn

from ..engine.accelerate import OnParts, OnTwin, unet_call
from ..engine.attention_override import OVERRIDE, overriding
from ..engine.graphs import Graphs
from ..engine.precision import CHOICES, Precision, choose
from ..engine.twin import twin_of, unfit
from ..engine.unet_parts import parts_of
from ..engine.wiring import Wiring
from .accelerate_vae import KEY, accelerated_vae

log = logging.getLogger("hotpath")

PREFIX = "diffusion_model."
INJECTED = "another node puts modules of its own into it"
ATTENTION = {
    "cpu": "the faster of torch's SDPA and blocked products, once it agrees with ComfyUI's own on first use",
    "cuda": "our kernel, once it agrees with ComfyUI's own on first use and is faster",
}


class Accelerate(io.ComfyNode):
    """MODEL and VAE to the same, faster."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Hotpath_Accelerate",
            display_name="Accelerate",
            category="hotpath/sampling",
            description="Runs a model and a VAE faster: fused layers and attention; on a processor also in 16 bits with channels last.",
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
        chosen = choose(torch.device("cpu"), precision)
        fast_model, lines = _model(model, chosen)
        if vae is not None:
            vae, line = accelerated_vae(vae, chosen)
            lines.append(f"VAE decode: {line}.")
        report = "\n".join(lines)
        log.info("Accelerate: %s", report.replace("\n", " "))
        return io.NodeOutput(fast_model, vae, report)


# ---- model


def _model(model: comfy.model_patcher.ModelPatcher, chosen: Precision) -> tuple[comfy.model_patcher.ModelPatcher, list[str]]:
    """A clone whose attention and network are rerouted, and a line about each."""
    device = model.load_device.type
    if device == "cuda" and torch.version.hip:
        device = "rocm"
    if device not in ATTENTION:
        return model, [f"Model: declined because this node knows processors and NVIDIA GPUs, and this model runs on '{device}'."]
    fast = model.clone()
    fast.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, KEY)
    for event in ("ON_LOAD", "ON_DETACH", "ON_APPLY_HOOKS", "ON_INJECT_MODEL", "ON_EJECT_MODEL", "ON_CLEANUP"):
        fast.remove_callbacks_with_key(getattr(CallbacksMP, event), KEY)
    counts = {name: Counter[str]() for name in ("model calls", "fused layers", "attention calls", "replayed calls")}
    options = fast.model_options["transformer_options"]
    before = getattr(options.get(OVERRIDE), "hotpath_previous", options.get(OVERRIDE))
    options[OVERRIDE] = overriding(before, counts["attention calls"])
    lines = [f"Attention: per shape {ATTENTION[device]}."]
    if before is not None:
        lines[0] += " Another node's attention stays in charge of it."
    network, parts, calls = getattr(fast.model, "diffusion_model", None), None, None
    if isinstance(network, UNetModel) and not _temporal(fast):
        # On a GPU nothing is kept: it would have to be waited for on each step to tell one prompt from another.
        graphs = Graphs(counts=counts["replayed calls"]) if device == "cuda" and before is None else None
        parts = OnParts(Wiring(device == "cpu", counts["fused layers"]), "The model", device == "cuda", graphs)
        more = "channels last" if parts.layout else "keys and values of prompts and time embeddings are kept from step to step"
        lines.append(f"Layers: {sum(1 for _ in parts_of(network))} of the U-Net run fused; {more}.")
        if graphs:
            lines.append("Calls: replayed as CUDA graphs where no other node takes part, once a replay agrees with a call.")
    if device != "cpu":
        lines.append("Number format: as loaded; what this node says about precision is for processors.")
    elif reason := _no_twin(fast, chosen):
        lines.append(f"Model: declined because {reason}.")
    else:
        calls = OnTwin(twin_of(network, chosen.dtype), "The model", counts["model calls"], Wiring(counts=counts["fused layers"]))
        size = sum(parameter.numel() for parameter in network.parameters()) * chosen.dtype.itemsize / 2**30
        lines.append(
            f"Model: {chosen.reason}, channels last, on a copy of {size:.1f} GiB made at the first step; "
            "it follows LoRAs and goes when ComfyUI unloads the model."
        )
    if parts:
        fast.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _wrapper(calls, parts))
    _listen(fast, calls, parts, counts)
    return fast, lines


def _no_twin(model: comfy.model_patcher.ModelPatcher, chosen: Precision) -> str | None:
    """Why the network keeps its number format, or None."""
    network = getattr(model.model, "diffusion_model", None)
    config = getattr(model.model, "model_config", None)
    if chosen.dtype == torch.float32:
        return f"its number format stays {chosen.reason}"
    if not isinstance(network, UNetModel) or _temporal(model):
        kind = type(model.model).__name__
        return f"a copy in 16 bits has been checked for U-Nets of the Stable Diffusion family only, and this is {kind}"
    if chosen.dtype not in config.supported_inference_dtypes:
        return f"this kind of model does not work in {chosen.dtype}"
    if model.injections:
        return INJECTED
    if reason := unfit(network):
        return reason
    needed = sum(parameter.numel() for parameter in network.parameters()) * chosen.dtype.itemsize
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if free < 1.25 * needed:
        return f"a copy needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
    return None


def _temporal(model: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether a U-Net is one for video."""
    return bool(getattr(getattr(model.model, "model_config", None), "unet_config", {}).get("use_temporal_resblock"))


def _wrapper(calls: OnTwin | None, parts: OnParts):
    """A DIFFUSION_MODEL wrapper: what is wrapped further in runs too, around the twin or the fused layers."""

    def wrapper(executor: WrapperExecutor, *args, **kwargs):
        network = executor.class_obj
        if len(args) != 6 or not isinstance(network, UNetModel):
            return executor(*args, **kwargs)
        bare = getattr(executor.original, "__func__", None)
        if bare is None:  # another node put a function of its own in its place
            return executor(*args, **kwargs)

        def chain(twin: nn.Module):
            return WrapperExecutor.new_class_executor(MethodType(bare, twin), twin, executor.wrappers, executor.idx)

        if calls is not None:
            done, out = unet_call(calls, network, bare, chain, args, kwargs)
            if done:
                return out
        alone = executor.idx + 1 == len(executor.wrappers) and not kwargs
        return parts.run(network, bare, lambda x: executor(x, *args[1:], **kwargs), args, alone)

    return wrapper


def _listen(
    model: comfy.model_patcher.ModelPatcher, calls: OnTwin | None, parts: OnParts | None, counts: dict[str, Counter[str]]
) -> None:
    """Learn when weights are written in place, which nothing else tells, and when memory is wanted back."""

    def loaded(patcher, *_) -> None:
        forget()
        if calls and (patcher.weight_inplace_update or any(entry.inplace_update for entry in patcher.backup.values())):
            calls.twin.doubt([name for name, _ in patcher.model.diffusion_model.named_parameters()])

    def hooked(patcher, *_) -> None:
        forget()
        if calls:
            calls.twin.doubt([key.removeprefix(PREFIX) for key in patcher.hook_backup if key.startswith(PREFIX)])

    def forget() -> None:
        if parts:
            parts.forget()

    def detached(_, unpatch_all: bool) -> None:
        if parts:
            parts.release(unpatch_all)
        if calls and unpatch_all:
            calls.twin.release()
            calls.wiring.forget()

    def injected(_, reason: str | None = INJECTED) -> None:
        for path in filter(None, (calls, parts)):
            path.blocked = reason

    def cleaned(patcher) -> None:
        hooked(patcher)
        _tell(counts)

    for event, function in {
        CallbacksMP.ON_LOAD: loaded,
        CallbacksMP.ON_APPLY_HOOKS: hooked,
        CallbacksMP.ON_DETACH: detached,
        CallbacksMP.ON_INJECT_MODEL: injected,
        CallbacksMP.ON_EJECT_MODEL: lambda _: injected(_, None),
        CallbacksMP.ON_CLEANUP: cleaned,
    }.items():
        model.add_callback_with_key(event, KEY, function)


def _tell(counters: dict[str, Counter[str]]) -> None:
    """One log line about a run: how many calls were taken, how many declined and why."""
    parts = []
    for name, counts in counters.items():
        if counts:
            declined = ", ".join(f"{count} ({reason})" for reason, count in counts.items() if reason != "taken")
            parts.append(f"{name} {counts['taken']}, declined {declined or 0}")
            counts.clear()
    if parts:
        log.info("Accelerate: %s.", "; ".join(parts))


NODES = [Accelerate]
