"""The training loop shared by the base and by concepts: paired pictures, pixel + LPIPS + adversarial losses, EMA, exact resume.

`Trainer.steps()` is a generator of `Step`: no printing, no host. The command line turns steps into log lines, a node into
progress. All randomness comes from one generator whose state is in the checkpoint, so interrupted + resumed = uninterrupted.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..engine.e2gan.checkpoint import write_whole
from ..engine.errors import WeightsInvalid
from .losses import LossWeights, PatchDiscriminator, adversarial_loss, discriminator_loss
from .perceptual import LPIPS
from .spread import Alone, Together

MOST_SCORED = 12  # held-out pictures; more would take longer and hardly change which state is the best


@dataclass(frozen=True)
class Settings:
    """One run. Sides in px; `loss_crop` is the part of each crop that LPIPS and the discriminator look at."""

    steps: int
    batch: int = 6
    crop: int = 192
    loss_crop: int = 112
    lr: float = 5e-4
    discriminator_lr: float = 4e-4
    warmup: int = 60
    adversarial_from: int = 500
    ema: float = 0.997
    seed: int = 0
    weights: LossWeights = field(default_factory=LossWeights)

    def lr_scale(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to 4 %."""
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        return ramp * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps))))


@dataclass(frozen=True)
class Pairs:
    """Pictures before and after, uint8 [N, H, W, 3]: one `photographs` for K concepts' `edits`; contexts [K, T, W]."""

    photographs: Tensor
    edits: Sequence[Tensor]
    contexts: Tensor
    grey_input: Sequence[bool]


@dataclass(frozen=True)
class Step:
    index: int
    losses: Mapping[str, float]


def to_signed(pictures: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in -1..1, channels_last."""
    return pictures.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last) / 127.5 - 1


def to_grey(image: Tensor) -> Tensor:
    """Rec. 601 luma of [B, 3, H, W], in all three channels."""
    luma = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (image * luma).sum(1, keepdim=True).expand_as(image)


@torch.no_grad()
def held_out_losses(generator: nn.Module, pairs: Pairs, lpips: LPIPS) -> dict[str, float]:
    """Mean L1 and LPIPS of the first concept over the first MOST_SCORED pictures, each whole."""
    totals, count = {"l1": 0.0, "lpips": 0.0}, min(MOST_SCORED, len(pairs.photographs))
    device = pairs.contexts.device
    for index in range(count):
        photograph, edit = (to_signed(stack[index : index + 1].to(device)) for stack in (pairs.photographs, pairs.edits[0]))
        photograph = to_grey(photograph) if pairs.grey_input[0] else photograph
        with torch.autocast(device.type, torch.bfloat16):
            output = generator(photograph, pairs.contexts[:1])
            totals["lpips"] += lpips(output, edit).mean().item() / count
        totals["l1"] += F.l1_loss(output.float(), edit).item() / count
    return totals


class Trainer:
    """Trains `parameters` (a subset of the generator's, or LoRA factors in it) on pairs."""

    def __init__(
        self,
        generator: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        pairs: Pairs,
        lpips: LPIPS,
        settings: Settings,
        processes: Alone | Together | None = None,
    ) -> None:
        self.generator, self.parameters, self.pairs, self.lpips = generator, dict(parameters), pairs, lpips
        self.settings, self.processes = settings, processes or Alone()
        self.random = torch.Generator().manual_seed(settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.discriminator = PatchDiscriminator(concepts=len(pairs.edits))
        self.discriminator.to(self.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=settings.lr, betas=(0.8, 0.99), fused=True)
        self.critic = torch.optim.Adam(
            self.discriminator.parameters(), lr=settings.discriminator_lr, betas=(0.5, 0.99), fused=True
        )
        self.ema = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.step = 0

    @property
    def device(self) -> torch.device:
        return self.pairs.contexts.device

    def _choose(self, limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=self.random)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Random crops: photographs and edits [B, 3, crop, crop], concept indices [B]; with several processes, this one's part.

        Never mirrored: light that falls from the left or hatching that leans to the right is part of an edit.
        """
        s, pairs, part = self.settings, self.pairs, self.processes
        concepts = self._choose(len(pairs.edits), s.batch * part.world)
        pictures = self._choose(len(pairs.photographs), s.batch * part.world)
        height, width = pairs.photographs.shape[1:3]
        before, after = [], []
        for index, (concept, picture) in enumerate(zip(concepts.tolist(), pictures.tolist(), strict=True)):
            top, left = (int(self._choose(side - s.crop + 1, 1)) for side in (height, width))
            if index // s.batch != part.rank:
                continue
            window = (slice(top, top + s.crop), slice(left, left + s.crop))
            photograph = to_signed(pairs.photographs[picture][window].unsqueeze(0).to(self.device))
            edit = to_signed(pairs.edits[concept][picture][window].unsqueeze(0).to(self.device))
            if pairs.grey_input[concept]:
                photograph = to_grey(photograph)
            before.append(photograph)
            after.append(edit)
        layout = {"memory_format": torch.channels_last}
        mine = concepts[part.rank * s.batch : (part.rank + 1) * s.batch].to(self.device)
        return torch.cat(before).contiguous(**layout), torch.cat(after).contiguous(**layout), mine

    def window(self) -> tuple:
        """A random place of `loss_crop` px, at even pixels."""
        s = self.settings
        top, left = (int(self._choose((s.crop - s.loss_crop) // 2 + 1, 1)) * 2 for _ in range(2))
        return (..., slice(top, top + s.loss_crop), slice(left, left + s.loss_crop))

    def train_step(self) -> Step:
        s, layout = self.settings, {"memory_format": torch.channels_last}
        for optimiser, lr in ((self.optimiser, s.lr), (self.critic, s.discriminator_lr)):
            for group in optimiser.param_groups:
                group["lr"] = lr * s.lr_scale(self.step)
        photograph, edit, concepts = self.batch()
        adversarial = s.weights.adversarial > 0 and self.step >= s.adversarial_from
        with torch.autocast(self.device.type, torch.bfloat16):
            output = self.generator(photograph, self.pairs.contexts[concepts])
            window = self.window()
            small, wanted, given = (picture[window].contiguous(**layout) for picture in (output, edit, photograph))
            l1, perceptual = F.l1_loss(output.float(), edit), self.lpips(small, wanted).mean()
            loss, losses = s.weights.l1 * l1 + s.weights.lpips * perceptual, {}
            if adversarial:
                self.discriminator.requires_grad_(False)
                opinion = adversarial_loss(self.discriminator(given, small, concepts))
                self.discriminator.requires_grad_(True)
                loss = loss + s.weights.adversarial * opinion
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._average(self.parameters.values())
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimiser.step()
        if adversarial:
            with torch.autocast(self.device.type, torch.bfloat16):
                real = self.discriminator(given, wanted, concepts)
                critic_loss = discriminator_loss(real, self.discriminator(given, small.detach(), concepts))
            self.critic.zero_grad(set_to_none=True)
            critic_loss.backward()
            self._average(self.discriminator.parameters())
            self.critic.step()
            losses["critic"] = critic_loss.item()
        decay = min(s.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)
        self.step += 1
        means = torch.tensor([l1.item(), perceptual.item(), *losses.values()], device=self.device)  # GPUs average only their own
        self.processes.average([means])
        return Step(self.step, dict(zip(("l1", "lpips", *losses), means.tolist(), strict=True)))

    def _average(self, parameters: Iterable[nn.Parameter]) -> None:
        self.processes.average(parameter.grad for parameter in parameters if parameter.grad is not None)

    def steps(self) -> Iterator[Step]:
        while self.step < self.settings.steps:
            step = self.train_step()
            if not math.isfinite(sum(step.losses.values())):
                raise WeightsInvalid(f"Training diverged at step {step.index}: a loss is not finite; lower the learning rate.")
            yield step

    def state(self) -> dict[str, Tensor]:
        """Everything a bit-exact resume needs, as a flat dictionary of tensors."""
        state = {f"parameter/{name}": value.detach() for name, value in self.parameters.items()}
        state |= {f"ema/{name}": value for name, value in self.ema.items()}
        state |= {f"critic/{name}": value for name, value in self.discriminator.state_dict().items()}
        for label, optimiser in (("optimiser", self.optimiser), ("critic_optimiser", self.critic)):
            for index, slots in optimiser.state_dict()["state"].items():
                state |= {f"{label}/{index}/{slot}": value for slot, value in slots.items()}
        return state | {"random": self.random.get_state(), "step": torch.tensor(self.step)}

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        write_whole(path, {name: tensor.contiguous().clone() for name, tensor in self.state().items()}, metadata)

    def resume(self, path: Path) -> None:
        state = load_file(path)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state[f"parameter/{name}"])
                self.ema[name].copy_(state[f"ema/{name}"])
        prefix = "critic/"
        self.discriminator.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        )
        for label, optimiser in (("optimiser", self.optimiser), ("critic_optimiser", self.critic)):
            slots: dict[int, dict[str, Tensor]] = {}
            owners = optimiser.param_groups[0]["params"]
            for name, tensor in state.items():
                if name.startswith(f"{label}/"):
                    _, index, slot = name.split("/")
                    # Adam's fused kernel wants its averages in the memory layout of the parameter.
                    like = torch.empty_like(owners[int(index)]) if tensor.ndim else torch.empty_like(tensor)
                    slots.setdefault(int(index), {})[slot] = like.copy_(tensor)
            if slots:
                optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
        self.random.set_state(state["random"])
        self.step = int(state["step"])
