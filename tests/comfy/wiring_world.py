"""What the cases of fused U-Nets share: ComfyUI in this process, tiny models, what the node says, and how a case is kept."""

from __future__ import annotations

import logging

import torch
from hotpath.engine import accelerate, precision
from hotpath.nodes import accelerate as node
from hotpath.tests.comfy.inside import accelerated, cases_in, random_model, sample

SD15 = {"model_channels": 32, "context_dim": 64, "num_res_blocks": [1, 1, 1, 1], "transformer_depth": [1, 1, 1, 0]}
SD15 |= {"transformer_depth_output": [1, 1, 1, 1, 1, 1, 0, 0]}
SDXL = {"family": "SDXL", "model_channels": 32, "context_dim": 64, "num_head_channels": 16, "transformer_depth_middle": 2}
SDXL |= {"num_res_blocks": [1, 1, 1], "transformer_depth": [0, 1, 2], "transformer_depth_output": [0, 0, 1, 1, 2, 2]}
LATENT = torch.zeros(1, 4, 16, 16)
CROSS = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_{}.weight"
RESULTS: dict[str, object] = {}
case = cases_in(RESULTS)
FORMAT = {"dtype": torch.float32}
node.choose = lambda device, wanted="auto": precision.Precision(FORMAT["dtype"], "as the test says")


def run(model, seed: int = 1, **options) -> torch.Tensor:
    return sample(model, LATENT, 2, seed=seed, **options)


def fast(model, dtype: torch.dtype = torch.float32):
    FORMAT["dtype"] = dtype
    return accelerated(model)[0]


def telling(**kind: object):
    """A random model whose norms and biases are not the neutral ones."""
    model = random_model(**kind)
    source = torch.Generator().manual_seed(3)
    for parameter in model.model.diffusion_model.parameters():
        if parameter.ndim == 1:
            parameter.add_(torch.randn(parameter.shape, generator=source), alpha=0.2)
    return model


def changed(model, *keys: str, strength: float = 1.0) -> dict:
    """Patches that a LoRA would bring, for these weights."""
    weights = model.model.state_dict()
    random = torch.Generator().manual_seed(5)
    return {key: ("diff", (torch.randn(weights[key].shape, generator=random) * weights[key].std() * strength,)) for key in keys}


def parts_of(wired) -> accelerate.OnParts:
    """What a model of the node fuses its layers by, to be set up as on a GPU."""
    (wrapper,) = wired.wrappers[node.WrappersMP.DIFFUSION_MODEL][node.KEY]
    (parts,) = [cell.cell_contents for cell in wrapper.__closure__ if isinstance(cell.cell_contents, accelerate.OnParts)]
    return parts


def left_over(model) -> int:
    return sum("forward" in vars(module) for module in model.model.modules())


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("hotpath").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def fused(self) -> str:
        """What the last run said about fused layers."""
        return next(part for line in reversed(self.lines) for part in line.split("; ") if "fused layers" in part)


LOG = Log()
logging.getLogger("hotpath").setLevel(logging.INFO)
with torch.inference_mode():
    MODEL, XL = telling(**SD15), telling(**SDXL)
    PLAIN = run(MODEL, cfg=2.0)
KEYS = [name for name, _ in MODEL.model.named_parameters()]
TOUCHED = [
    CROSS.format("k"),
    CROSS.format("v"),
    *(key for key in KEYS if key.endswith(("emb_layers.1.weight", "ff.net.0.proj.weight", "norm2.bias", "in_layers.0.weight"))),
]
