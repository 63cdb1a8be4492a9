"""The training loop on tiny synthetic pairs: it learns, it resumes bit for bit, and it trains only what it may."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import Base, load_concept, save_concept
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS, Concept
from hotpath.engine.e2gan.model import Generator, initialise
from hotpath.engine.e2gan.network import E2GAN, Network
from hotpath.engine.errors import WeightsInvalid
from hotpath.tests.testing import TINY, digest, pictures, random, tiny_base
from hotpath.training.loop import Pairs, Settings, Trainer, to_grey, to_signed
from hotpath.training.lora import attach, factors
from torch import Tensor, nn

SETTINGS = Settings(steps=40, batch=2, crop=32, loss_crop=24, lr=3e-3, warmup=3, adversarial_from=2, ema=0.8, seed=3)


class FakeLPIPS(nn.Module):
    """Called like LPIPS, without its weights: the distance of two fixed random features."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.randn(4, 3, 3, 3, generator=random(0)) * 0.2 * scale)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        kernel = self.kernel.to(a.dtype)
        return (nn.functional.conv2d(a, kernel) - nn.functional.conv2d(b, kernel)).float().square().mean((1, 2, 3))


def pairs(concepts: int = 2, grey: bool = False) -> Pairs:
    """Six photographs; the first edit is the negative, the second swaps red and blue."""
    photographs = ((pictures(6, 48, 40) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous()
    edits = [255 - photographs, photographs.flip(3)][:concepts]
    contexts = torch.randn(concepts, TINY.text_tokens, TINY.text_width, generator=random(7))
    return Pairs(photographs, edits, contexts, [grey] * concepts)


def base_trainer(seed: int = 0, settings: Settings = SETTINGS) -> Trainer:
    generator = initialise(Generator(TINY), seed).to(memory_format=torch.channels_last)
    return Trainer(generator, dict(generator.named_parameters()), pairs(), FakeLPIPS(), settings)


def concept_trainer(base: Base, seed: int = 0, settings: Settings = SETTINGS) -> Trainer:
    generator = Generator(TINY)
    generator.load_state_dict(base.weights)
    parameters = attach(generator, dict.fromkeys(CRUCIAL_LAYERS, 2), seed)
    return Trainer(generator, parameters, pairs(concepts=1), FakeLPIPS(), settings)


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny_base(tmp_path)


def run(trainer: Trainer, until: int | None = None) -> list[dict[str, float]]:
    losses = []
    for step in trainer.steps():
        losses.append(dict(step.losses))
        if step.index == until:
            break
    return losses


def state_digest(trainer: Trainer) -> str:
    return digest(trainer.state())


def test_the_loss_falls() -> None:
    losses = run(base_trainer(settings=replace(SETTINGS, steps=40, adversarial_from=38)))
    assert len(losses) == 40
    early, late = (sum(step["l1"] for step in part) / 5 for part in (losses[:5], losses[-5:]))
    assert late < 0.8 * early
    assert ["critic" in step for step in losses] == [False] * 38 + [True] * 2, "it starts at `adversarial_from`"


@pytest.mark.parametrize("kind", ["base", "concept"])
@pytest.mark.parametrize("cut", [1, 5])
def test_interrupted_and_resumed_is_uninterrupted(base: Base, tmp_path: Path, kind: str, cut: int) -> None:
    def fresh(seed: int = 0) -> Trainer:
        settings = replace(SETTINGS, steps=8)
        return base_trainer(seed, settings) if kind == "base" else concept_trainer(base, seed, settings)

    path, whole, first = tmp_path / "checkpoint.safetensors", fresh(), fresh()
    losses = run(whole)
    before = run(first, until=cut)
    first.save(path, {})
    second = fresh(seed=99)  # nothing may depend on the start values
    assert state_digest(second) != state_digest(first)
    second.resume(path)
    assert state_digest(second) == state_digest(first)
    assert before + run(second) == losses
    assert state_digest(second) == state_digest(whole)
    assert digest(second.ema) == digest(whole.ema)
    assert digest(second.discriminator.state_dict()) == digest(whole.discriminator.state_dict())
    assert not list(tmp_path.glob("*.part"))


def test_a_run_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = run(base_trainer(), until=3)
    torch.manual_seed(2)
    assert run(base_trainer(), until=3) == one
    assert run(base_trainer(settings=replace(SETTINGS, seed=4)), until=3) != one


def test_a_trainer_leaves_the_global_random_numbers_alone() -> None:
    generator = Generator(TINY)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    run(Trainer(generator, attach(generator, {"head": 2}, 0), pairs(), FakeLPIPS(), SETTINGS), until=3)
    assert torch.equal(torch.rand(1), expected)


def test_divergence_is_said_in_a_sentence(base: Base) -> None:
    trainer = concept_trainer(base)
    trainer.lpips = FakeLPIPS(scale=float("inf"))
    with pytest.raises(WeightsInvalid, match=r"diverged at step 1.*lower the learning rate"):
        run(trainer)


# ---- LoRA in training and at inference


def test_only_the_factors_are_trained(base: Base) -> None:
    trainer = concept_trainer(base)
    trained = {id(parameter) for parameter in trainer.parameters.values()}
    frozen = {name: value for name, value in trainer.generator.named_parameters() if id(value) not in trained}
    assert len(frozen) == len(base.weights)
    assert not any(value.requires_grad for value in frozen.values())
    before, start = digest(frozen), digest(trainer.parameters)
    run(trainer, until=4)
    assert digest(frozen) == before
    assert digest(trainer.parameters) != start
    assert all(factor.abs().sum() > 0 for factor in trainer.parameters.values()), "every factor learns"


def test_fresh_factors_change_nothing(base: Base) -> None:
    plain = Generator(TINY)
    plain.load_state_dict(base.weights)
    image, context = pictures(), base.neutral_context.unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(concept_trainer(base).generator(image, context), plain(image, context))


def test_what_was_trained_is_what_inference_gives(base: Base, tmp_path: Path) -> None:
    """Trained factors, written, read and derived from the base, draw the picture the training generator drew."""
    trainer = concept_trainer(base)
    run(trainer, until=12)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.copy_(parameter.half())  # the precision of the file
    context = trainer.pairs.contexts[0].half().float()
    found = factors(trainer.parameters)
    assert list(found) == list(CRUCIAL_LAYERS)
    save_concept(tmp_path / "negative.safetensors", Concept("negative", found, context, base.sha256))
    e2gan = E2GAN(base).with_concept(load_concept(tmp_path / "negative.safetensors"), 1.0)
    image = pictures(2, 48, 64, seed=5)
    with torch.no_grad():
        mirrored = nn.functional.pad(image, (8,) * 4, "reflect")
        trained = trainer.generator(mirrored, context.expand(2, -1, -1))[:, :, 8:-8, 8:-8]
    network = Network(base, torch.float32)
    torch.testing.assert_close(network(image, e2gan.blend), trained, rtol=0, atol=1e-4)
    assert (network(image, ()) - trained).abs().max() > 1e-2


# ---- batches


@pytest.mark.parametrize("grey", [False, True])
def test_batches_are_matching_crops(grey: bool) -> None:
    trainer = base_trainer()
    trainer.pairs = pairs(grey=grey)
    for _ in range(4):
        photograph, edit, concepts = trainer.batch()
        assert photograph.shape == edit.shape == (2, 3, 32, 32)
        for before, after, concept in zip(photograph, edit, concepts.tolist(), strict=True):
            original = -after if concept == 0 else after.flip(0)
            expected = to_grey(original.unsqueeze(0))[0] if grey else original
            torch.testing.assert_close(before, expected, rtol=0, atol=1e-5)


def test_crops_reach_every_edge() -> None:
    trainer = base_trainer(settings=replace(SETTINGS, crop=16, batch=64))
    picture = torch.arange(48 * 40).view(48, 40) % 256
    trainer.pairs = replace(pairs(), photographs=picture.byte()[None, :, :, None].expand(1, -1, -1, 3))
    trainer.pairs = replace(trainer.pairs, edits=[trainer.pairs.photographs] * 2)
    corners = {round((crop[0, 0, 0].item() + 1) * 127.5) for _ in range(8) for crop in trainer.batch()[0]}
    assert 0 in corners, "the first row and column, not mirrored"
    assert len(corners) > 100


def test_crops_are_never_mirrored() -> None:
    trainer = base_trainer(settings=replace(SETTINGS, batch=16))
    across, down = torch.arange(40).expand(48, 40), torch.arange(48)[:, None].expand(48, 40)
    rising = torch.stack([across, down, across], -1).byte()[None]
    trainer.pairs = replace(pairs(), photographs=rising, edits=[rising] * 2)
    for crops in trainer.batch()[:2]:
        assert (crops[:, 0].diff(dim=2) > 0).all(), "an edit with light from the left is another one mirrored"
        assert (crops[:, 1].diff(dim=1) > 0).all()


def test_grey_is_luma_in_three_channels() -> None:
    image = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert to_grey(image).flatten().tolist() == pytest.approx([0.299] * 3)
    white = torch.ones(1, 3, 2, 2)
    torch.testing.assert_close(to_grey(white), white)


def test_bytes_to_signed() -> None:
    signed = to_signed(torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3))
    torch.testing.assert_close(signed.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_learning_rate_warms_up_and_falls() -> None:
    settings = Settings(steps=100, warmup=10)
    scales = [settings.lr_scale(step) for step in range(101)]
    assert scales[0] == pytest.approx(0.1)
    assert max(scales) == pytest.approx(1, abs=0.03)
    assert scales.index(max(scales)) == 9
    assert scales[-1] == pytest.approx(0.04)
    assert all(math.isfinite(Settings(steps=1, warmup=0).lr_scale(step)) for step in range(3))
