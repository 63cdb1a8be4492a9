"""A case of the Accelerate node: a VAE that it makes faster, and VAEs of other kinds."""

from __future__ import annotations

import comfy.model_management as mm
import comfy.sd
import torch
from comfy.taesd.taesd import TAESD
from hotpath.engine import accelerate, attention
from hotpath.tests.comfy.accelerate_world import MODEL, VAE, Spied, case
from hotpath.tests.comfy.inside import VAE as CONFIG
from hotpath.tests.comfy.inside import accelerated
from hotpath.tests.testing import digest


def vae_twin(vae):
    return next(c.cell_contents for c in vae.decode.__closure__ if isinstance(c.cell_contents, accelerate.OnTwin)).twin


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@case
def vae():
    latent = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    before, plain = digest(VAE.get_sd()), VAE.decode(latent)
    _, fast, report = accelerated(MODEL, VAE)
    own = dict(vars(VAE))
    with Spied(attention, "blocked") as blocked:
        got = fast.decode(latent)
    tiled = fast.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2)
    taesd = TAESD()
    for i, parameter in enumerate(taesd.parameters()):
        if parameter.ndim:
            parameter.data.normal_(0, (2 / max(1, parameter[0].numel())) ** 0.5, generator=torch.Generator().manual_seed(i))
    taesd = comfy.sd.VAE(sd=taesd.state_dict())
    video = comfy.sd.VAE(sd=VAE.get_sd(), config={"params": {"ddconfig": {**CONFIG, "ch": 32}, "embed_dim": 4}})
    video.latent_dim = 3
    kept, says = accelerated(MODEL, video)[1:]
    result = {
        "psnr": psnr(got, plain),
        "tiled": psnr(tiled, VAE.decode_tiled(latent, tile_x=8, tile_y=8, overlap=2)),
        "encode": torch.equal(fast.encode(image), VAE.encode(image)),
        "taesd": psnr(accelerated(MODEL, taesd)[1].decode(latent), taesd.decode(latent)),
        "source": digest(VAE.get_sd()) == before
        and all(vars(VAE)[k] is v for k, v in own.items())
        and torch.equal(VAE.decode(latent), plain),
        "dtype": str(got.dtype),
        "differs": not torch.equal(got, plain),
        "blocked": blocked.calls,
        "report": report,
        "video": [kept is video, says],
    }
    with torch.inference_mode(False), torch.no_grad():
        VAE.first_stage_model.decoder.conv_out.bias.add_(0.5)
    result["weights followed"] = psnr(fast.decode(latent), VAE.decode(latent))
    fast.decode(latent)
    mm.unload_all_models()
    result["released"] = vae_twin(fast).module is None
    result["after unloading"] = psnr(fast.decode(latent), VAE.decode(latent))
    return result
