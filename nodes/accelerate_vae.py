"""A VAE of ComfyUI that decodes on a copy in another number format, and encodes as before."""

import copy

import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ..engine.accelerate import OnTwin, corner
from ..engine.attention import spatial
from ..engine.attention_override import distance
from ..engine.precision import Precision
from ..engine.twin import twin_of, unfit

KEY = "hotpath_accelerate"


def accelerated_vae(vae: comfy.sd.VAE, chosen: Precision) -> tuple[comfy.sd.VAE, str]:
    """A VAE that decodes on a twin in the chosen format, and what was done; or the VAE itself, and why."""
    network = getattr(vae, "first_stage_model", None)
    if not isinstance(vae, comfy.sd.VAE) or network is None or vae.latent_dim != 2 or not hasattr(network, "decode"):
        return vae, f"declined because it is no VAE of ComfyUI for pictures but {type(network or vae).__name__}"
    if vae.device.type != "cpu":
        return vae, f"declined because VAEs are made faster on processors only, and this one runs on '{vae.device.type}'"
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
