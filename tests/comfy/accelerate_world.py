"""What the cases of the Accelerate node share: ComfyUI in this process, a tiny model and a VAE, and how a case is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.patcher_extension import WrappersMP
from hotpath.engine import accelerate, precision
from hotpath.nodes import accelerate as node
from hotpath.tests.comfy.inside import cases_in, random_model, random_vae, sample
from hotpath.tests.testing import digest

TINY = {"model_channels": 32, "context_dim": 64}
LATENT = torch.zeros(1, 4, 16, 16)
KEY = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
RESULTS: dict[str, object] = {}
case = cases_in(RESULTS)
OPTION = "optimized_attention_override"
precision.choose = node.choose = lambda device, wanted="auto": precision.Precision(
    torch.bfloat16, "bfloat16 because the test says so"
)


def run(model, steps: int = 2, **options) -> torch.Tensor:
    return sample(model, LATENT, steps, **options)


def lora(strength: float = 1.0) -> dict:
    weight = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(5))
    return {KEY: ("diff", (weight * strength,))}


def with_lora(model, strength: float = 1.0):
    model = model.clone()
    assert model.add_patches(lora(strength))
    return model


def twin(model):
    """The twin a fast model runs on."""
    wrapper = model.wrappers[WrappersMP.DIFFUSION_MODEL][node.KEY][0]
    return next(cell.cell_contents for cell in wrapper.__closure__ if isinstance(cell.cell_contents, accelerate.OnTwin)).twin


def bits(model) -> str:
    return digest(dict(model.model.diffusion_model.named_parameters()))


class Spied:
    """Counts the calls of one of our two ways of attention, or of a network's twin."""

    def __init__(self, owner: object, name: str, instead: Callable | None = None) -> None:
        self.owner, self.name, self.calls, self.kept = owner, name, 0, getattr(owner, name)
        self.instead = instead or self.kept

    def __enter__(self):
        def spy(*args, **kwargs):
            self.calls += 1
            return self.instead(*args, **kwargs)

        setattr(self.owner, self.name, spy)
        return self

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.kept)


with torch.inference_mode():
    MODEL = random_model(**TINY)  # as in a server, where weights are inference tensors that count no changes
    BITS = bits(MODEL)
    PLAIN = run(MODEL)
VAE = random_vae(ch=32)
