"""What a training step costs: ours against a plain autocast loop over the same networks, and the node's run against the bare loop."""

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from hotpath.benchmarks.record import record
from hotpath.benchmarks.speed import in_turns, summary
from hotpath.engine.e2gan import model
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import DEFAULT_RANKS
from hotpath.kernels.upsample_conv.reference import upsample_conv_reference
from hotpath.training import perceptual
from hotpath.training.loop import Pairs, Settings, Trainer
from hotpath.training.lora import attach, generator_of
from hotpath.training.losses import LossWeights, PatchDiscriminator, adversarial_loss, discriminator_loss
from hotpath.training.pairs import PairSet
from hotpath.training.perceptual import LPIPS
from hotpath.training.plan import Plan
from hotpath.training.session import ConceptRun
from torch import Tensor

SIDE, BATCH = 256, 4
SETTINGS = Settings(10**6, BATCH, SIDE, 96, 1e-2, adversarial_from=0, weights=LossWeights(adversarial=0.02))


def random_pairs(base: Base, count: int = 16) -> Pairs:
    source = torch.Generator().manual_seed(0)
    before, after = (torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=source, dtype=torch.uint8) for _ in range(2))
    return Pairs(before, [after], base.neutral_context.unsqueeze(0), [False])


@contextmanager
def plain_layers() -> Iterator[None]:
    """torch's instance norm, and upsampling before its convolution, in place of ours."""

    def norm(
        x: Tensor, scale: Tensor, shift: Tensor, *, relu: bool = True, residual: Tensor | None = None, gain: Tensor | None = None
    ) -> Tensor:
        y = F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]
        if residual is not None:
            y = y + (residual if gain is None else residual * gain[:, :, None, None])
        return F.relu(y) if relu else y

    ours = model.instance_norm_act, model.upsample_conv
    model.instance_norm_act, model.upsample_conv = norm, upsample_conv_reference
    try:
        yield
    finally:
        model.instance_norm_act, model.upsample_conv = ours


class PlainLoop:
    """The loop as one would write it down: NCHW, autocast, Adam as it comes, every term computed where it is needed."""

    def __init__(self, base: Base, pairs: Pairs, lpips: LPIPS) -> None:
        self.generator = generator_of(base, "cpu").to(memory_format=torch.contiguous_format)
        self.pairs, self.lpips, self.critic = pairs, lpips, PatchDiscriminator()
        self.optimiser = torch.optim.Adam(attach(self.generator, DEFAULT_RANKS, 0).values(), lr=1e-2)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=4e-4)

    def step(self) -> None:
        chosen = torch.randint(len(self.pairs.photographs), (BATCH,))
        before, after = (
            stack[chosen].permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1
            for stack in (self.pairs.photographs, self.pairs.edits[0])
        )
        concept, part = torch.zeros(BATCH, dtype=torch.long), (..., slice(80, 176), slice(80, 176))
        with plain_layers(), torch.autocast("cpu", torch.bfloat16):
            output = self.generator(before, self.pairs.contexts[concept])
            loss = F.l1_loss(output, after) + self.lpips(output[part], after[part]).mean()
            loss = loss + 0.02 * adversarial_loss(self.critic(before[part], output[part], concept))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        with torch.autocast("cpu", torch.bfloat16):
            real, fake = (self.critic(before[part], edit[part], concept) for edit in (after, output.detach()))
            critic_loss = discriminator_loss(real, fake)
        self.critic_optimiser.zero_grad()
        critic_loss.backward()
        self.critic_optimiser.step()


def step_cost(base: Base, network: Path, rounds: int) -> None:
    pairs = random_pairs(base)
    generator = generator_of(base, "cpu")
    ours = Trainer(generator, attach(generator, DEFAULT_RANKS, 0), pairs, perceptual.load(network).bfloat16(), SETTINGS)
    plain = PlainLoop(base, pairs, perceptual.load(network))
    samples = in_turns({"ours": ours.train_step, "plain_loop": plain.step}, rounds)
    row = {name: summary(values) for name, values in samples.items()}
    ratio = round(median(samples["plain_loop"]) / median(samples["ours"]), 2)
    memory = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    record(
        "e2gan_training_step", "cpu", {"side_px": SIDE, "batch": BATCH, **row, "times_plain": ratio, "peak_process_gib": memory}
    )
    sys.stdout.write(f"step of {BATCH} x {SIDE} px: {row}  {ratio} x the plain loop; at most {memory} GiB in this process\n")


def node_overhead(base: Base, network: Path, steps: int) -> None:
    """Seconds of a whole run, scores and previews included, against its bare training steps."""
    stack = random_pairs(base, 14)
    pairs = PairSet().plus(((str(i), a, b) for i, (a, b) in enumerate(zip(stack.photographs, stack.edits[0], strict=True))), SIDE)
    with tempfile.TemporaryDirectory() as folder:
        run = ConceptRun(
            base, pairs, perceptual.load(network), Plan("x", steps=steps, searched=False), Path(folder), torch.device("cpu")
        )
        started = 0.0
        for update in run.updates():
            if update.phase == "training" and not started:
                started = time.perf_counter()
        whole = time.perf_counter() - started
    generator = generator_of(base, "cpu")
    bare = Trainer(generator, attach(generator, DEFAULT_RANKS, 0), run.train, run.lpips, run.plan.settings(steps, SIDE))
    bare.train_step()
    first = time.perf_counter()
    for _ in range(steps - 1):
        bare.train_step()
    alone = time.perf_counter() - first
    share = round(100 * (whole / alone - 1), 1)
    record(
        "e2gan_training_overhead",
        "cpu",
        {"steps": steps, "run_s": round(whole, 2), "bare_s": round(alone, 2), "overhead_percent": share},
    )
    sys.stdout.write(f"{steps} steps: {whole:.1f} s as a run, {alone:.1f} s bare, {share} % more\n")


def run(models: Path, rounds: int) -> None:
    base, network = load_base(models / "e2gan_base.safetensors"), models / "training" / "perceptual_vgg16.safetensors"
    step_cost(base, network, rounds)
    node_overhead(base, network, 100)
