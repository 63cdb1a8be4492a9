"""What training listens to: LPIPS and the patch discriminator."""

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.tests.testing import pictures, random
from hotpath.training.losses import LossWeights, PatchDiscriminator, adversarial_loss, discriminator_loss
from hotpath.training.lpips_weights import _NumpyUnpickler, convert_weights
from hotpath.training.perceptual import LPIPS, STAGES
from safetensors.torch import load_file
from torch import Tensor

WIDTHS = (64, 128, 256, 512, 512)  # channels of VGG16's stages


def vgg_shapes() -> Iterator[tuple[int, int]]:
    inputs = 3
    for count, width in zip(STAGES, WIDTHS, strict=True):
        for _ in range(count):
            yield inputs, width
            inputs = width


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    """The real network, in its real shapes, with random weights."""
    source, weights = random(0), {}
    for index, (inputs, width) in enumerate(vgg_shapes()):
        weights[f"conv{index}.weight"] = torch.randn(width, inputs, 3, 3, generator=source) * (2 / (9 * inputs)) ** 0.5
        weights[f"conv{index}.bias"] = torch.randn(width, generator=source) * 0.1
    weights |= {f"head{index}": torch.rand(width, generator=source) for index, width in enumerate(WIDTHS)}
    return LPIPS(weights).eval().requires_grad_(False)


def test_lpips_is_a_distance(lpips: LPIPS) -> None:
    a, b = pictures(2, 32, 32, seed=1), pictures(2, 32, 32, seed=2)
    assert torch.equal(lpips(a, a), torch.zeros(2))
    assert lpips(a, b).shape == (2,)
    assert (lpips(a, b) > 0.01).all()
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    torch.testing.assert_close(lpips(a, b)[1:], lpips(a[1:], b[1:]), rtol=1e-4, atol=1e-6)
    near = lpips(a, a + 0.1 * (b - a))
    assert (near < lpips(a, b)).all()


def test_lpips_is_differentiable_in_both(lpips: LPIPS) -> None:
    a, b = (pictures(1, 32, 32, seed=seed).requires_grad_() for seed in (1, 2))
    lpips(a, b).sum().backward()
    for image in (a, b):
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().max() > 0


def test_lpips_against_a_plain_reading_of_the_paper(lpips: LPIPS) -> None:
    a, b = pictures(1, 32, 48, seed=1), pictures(1, 32, 48, seed=2)
    total, index = 0.0, 0
    x = (torch.cat([a, b]).double() - lpips.shift.double()) / lpips.scale.double()
    for stage, count in enumerate(STAGES):
        x = torch.nn.functional.max_pool2d(x, 2) if stage else x
        for _ in range(count):
            weight, bias = (getattr(lpips, f"conv{index}_{part}").double() for part in ("weight", "bias"))
            x, index = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu(), index + 1
        unit = torch.nn.functional.normalize(x, dim=1)
        head = getattr(lpips, f"head{stage}").double().view(1, -1, 1, 1)
        total += ((unit[0] - unit[1]).square() * head).sum(1).mean()
    assert lpips(a, b).item() == pytest.approx(float(total), rel=1e-4)


def test_lpips_weights_survive_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(0)
    convs = [source.normal(size=(3, 3, 2, 4)).astype(np.float32) for _ in range(sum(STAGES))]
    tree = {"VGG16_0": {f"Conv_{i}": {"kernel": k, "bias": np.zeros(4, np.float32)} for i, k in enumerate(convs)}}
    tree |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.full((1, 1, 4, 1), i, np.float32)}} for i in range(len(STAGES))}
    (tmp_path / "vgg16.ckpt").write_bytes(pickle.dumps(tree))
    convert_weights(tmp_path / "vgg16.ckpt", tmp_path / "cache" / "lpips.safetensors")
    read = load_file(tmp_path / "cache" / "lpips.safetensors")
    assert read["conv2.weight"].shape == (4, 2, 3, 3)
    assert read["conv2.weight"][3, 1, 0, 2].item() == convs[2][0, 2, 1, 3]
    assert read["head4"].tolist() == [4.0] * 4
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lpips.safetensors"]


def test_a_pickle_that_asks_for_code_is_refused() -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, ("exit 1",)

    with pytest.raises(pickle.UnpicklingError, match="refused"):
        _NumpyUnpickler(io.BytesIO(pickle.dumps(Evil()))).load()


# ---- the discriminator


def judge(discriminator: PatchDiscriminator, concept: int) -> Tensor:
    image = pictures(2, 32, 48)
    return discriminator(image, image.flip(1), torch.tensor([concept] * 2))


def test_the_discriminator_gives_a_map_that_knows_the_concept() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8, concepts=3).eval()
    assert judge(discriminator, 0).shape == (2, 1, 8, 12)
    assert not torch.equal(judge(discriminator, 0), judge(discriminator, 2))


def test_a_cell_of_the_map_sees_as_much_as_the_docstring_says() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=4).eval()
    photograph = pictures(1, 96, 96).requires_grad_()
    discriminator(photograph, pictures(1, 96, 96, seed=1), torch.tensor([0]))[0, 0, 12, 12].backward()
    seen = photograph.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert f"{seen.max() - seen.min() + 1} px" in PatchDiscriminator.__doc__


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.25 + 0.5)
    assert discriminator_loss(torch.full((3,), 5.0), torch.full((3,), -5.0)) == 0
    assert adversarial_loss(fake).item() == pytest.approx(1.0)


def test_losses_pull_in_opposite_directions() -> None:
    fake = torch.zeros(4, requires_grad=True)
    (critic,) = torch.autograd.grad(discriminator_loss(torch.zeros(4), fake), fake)
    (generator,) = torch.autograd.grad(adversarial_loss(fake), fake)
    assert (critic > 0).all(), "the critic wants fakes to score low"
    assert (generator < 0).all(), "the generator wants them to score high"


def test_weights_of_the_losses_are_positive() -> None:
    assert all(value > 0 for value in vars(LossWeights()).values())
