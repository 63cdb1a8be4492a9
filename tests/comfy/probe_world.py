"""What the cases of the probe nodes share: the pack in ComfyUI, a tiny model of SD 1.5's kind, and how it is sampled with a probe."""

import sys
from pathlib import Path

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import torch
from hotpath.tests.comfy.inside import Pack

torch.manual_seed(0)
torch.set_num_threads(1)  # the network is small
BASE = Path(sys.argv[2])
PACK = Pack(Path(sys.argv[3]))
call, case = PACK.call, PACK.case
clock, table = PACK.part("engine.probe.clock"), PACK.part("engine.probe.table")
probe, host = PACK.part("nodes.probe"), PACK.part("nodes.probe_host")

CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "num_heads": 2,
    "context_dim": 16,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}


def tiny():
    model = comfy.model_base.BaseModel(comfy.supported_models.SD15(dict(CONFIG)), device=torch.device("cpu"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


MODEL, POSITIVE, NEGATIVE = tiny(), [[torch.randn(1, 77, 16), {}]], [[torch.randn(1, 77, 16), {}]]


def sample(model, steps=4, cfg=7.0, sampler="euler", callback=None):
    latent = torch.zeros(1, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    options = {"callback": callback, "disable_pbar": True, "seed": 0}
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, sampler, "normal", POSITIVE, NEGATIVE, latent, **options)


def probed(enabled=True, blocks=False, compare_overhead=True, model=MODEL):
    """(MODEL, report) of a Probe Model node, which may gather further on what it has measured before."""
    return call("ProbeModel", model=model, enabled=enabled, blocks=blocks, compare_overhead=compare_overhead, rerun=True)


def fresh(**inputs):
    """The same with nothing measured before."""
    probe._RECORDINGS.clear()
    return probed(**inputs)


def hooks():
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in MODEL.model.modules())


def counts(report):
    return {entry.name: len(entry.samples_ms) + len(entry.warmup_ms) for entry in report.measurements}
