"""The network on pictures of every size, and `apply` around it."""

import pytest
import torch
import torch.nn.functional as F
from hotpath.engine.e2gan.checkpoint import Base
from hotpath.engine.e2gan.model import Generator, initialise
from hotpath.engine.e2gan.network import E2GAN, Network, apply, check_pictures
from hotpath.engine.errors import InvalidInput, NotFinite
from hotpath.tests.testing import TINY, pictures, random, tiny_base, tiny_concept, tiny_generator
from torch import Tensor


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def network(base: Base) -> Network:
    return Network(base, torch.float32)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (17, 33), (96, 64), (200, 2)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_size_comes_back_in_the_same_size(network: Network, size: tuple[int, int], count: int) -> None:
    output = network(pictures(count, *size), ())
    assert output.shape == (count, 3, *size)
    assert output.dtype == torch.float32
    assert torch.isfinite(output).all()
    assert output.abs().max() <= 1


def test_the_network_is_the_generator(network: Network, base: Base) -> None:
    """Weights, neutral context and layout: the same mathematics as the plain module a training run holds."""
    generator, image = Generator(TINY).eval(), pictures(2, 48, 64)
    generator.load_state_dict(base.weights)
    with torch.no_grad():
        expected = generator(F.pad(image, (8,) * 4, "reflect"), base.neutral_context.expand(2, -1, -1))[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(network(image, ()), expected, rtol=0, atol=1e-4)


def test_each_picture_of_a_batch_may_have_its_own_text() -> None:
    generator, image = tiny_generator(), pictures(2)
    contexts = torch.randn(2, TINY.text_tokens, TINY.text_width, generator=random(3))
    with torch.no_grad():
        singles = [generator(image[i : i + 1], contexts[i : i + 1]) for i in range(2)]
        together = generator(image, contexts)
        read_before = generator(image[:1], text=generator.read(contexts[:1]))
    torch.testing.assert_close(together, torch.cat(singles), rtol=0, atol=1e-4)
    assert torch.equal(read_before, singles[0])


@pytest.mark.parametrize("part", ["keys", "values", "modulations"])
def test_all_that_is_read_in_the_text_matters(part: str) -> None:
    generator, image = tiny_generator(), pictures()
    with torch.no_grad():
        one, other = (
            generator.read(torch.randn(1, TINY.text_tokens, TINY.text_width, generator=random(seed))) for seed in (1, 2)
        )
        changed = one._replace(**{part: getattr(other, part)})
        assert (generator(image, text=one) - generator(image, text=changed)).abs().max() > 1e-4


def test_start_values_carry_the_picture_over_the_skip() -> None:
    """With what the deep layers add taken out, stem, skip and head hand the picture on exactly."""
    generator, image = initialise(Generator(TINY), 0).eval(), pictures()
    with torch.no_grad():
        generator.up2.conv.weight.zero_()
        generator.head.weight[:, 24:] = 0
        torch.testing.assert_close(generator(image, torch.zeros(1, 4, 12)), image.tanh())


def test_a_batch_is_its_pictures_one_by_one(network: Network) -> None:
    image = pictures(3, 40, 56)
    single = torch.cat([network(picture.unsqueeze(0), ()) for picture in image])
    torch.testing.assert_close(network(image, ()), single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_is_close_to_float32(base: Base, network: Network, dtype: torch.dtype) -> None:
    image = pictures(1, 64, 64)
    assert (Network(base, dtype)(image, ()) - network(image, ())).abs().mean() < 0.03


def test_what_is_not_finite_is_not_given_out(base: Base) -> None:
    network = Network(base, torch.float32)
    with torch.no_grad():
        network.module.head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match=r"got NaN or infinity from torch\.float32: choose float32"):
        apply(network, pictures(), [()])


# ---- pictures at the door


def test_channels_are_made_three() -> None:
    rgb, alpha = pictures(2), torch.rand(2, 1, 32, 48)
    assert torch.equal(check_pictures(torch.cat([rgb, alpha], 1)), rgb)
    grey = check_pictures(rgb[:, :1])
    assert grey.shape == rgb.shape
    assert torch.equal(grey[:, 2], rgb[:, 0])


def test_values_outside_are_clamped_and_the_picture_given_is_not_changed(network: Network) -> None:
    image = pictures() * 3
    copy = image.clone()
    assert check_pictures(image).abs().max() == 1
    assert torch.equal(apply(network, image, [()]), apply(network, image.clamp(-1, 1), [()]))
    assert torch.equal(image, copy)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 8, 8), r"\[B, 3, H, W\].*\[3, 8, 8\]"),
        (torch.zeros(1, 2, 8, 8), r"\[1, 2, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"floats.*uint8"),
        (torch.zeros(0, 3, 8, 8), r"at least one picture.*\[0, 3, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), r"1 x 1 px.*\[1, 3, 0, 8\]"),
        (torch.full((1, 3, 8, 8), torch.nan), r"not finite.*check the node"),
        (torch.full((1, 3, 8, 8), -torch.inf), r"not finite.*check the node"),
    ],
    ids=["3 dims", "2 channels", "uint8", "no pictures", "no rows", "NaN", "infinity"],
)
def test_other_pictures_are_refused_in_a_sentence(network: Network, image: Tensor, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        apply(network, image, [()])


# ---- apply


def test_each_picture_gets_its_own_blend(base: Base, network: Network) -> None:
    one, two = (((tiny_concept(base, seed), 1.0),) for seed in (1, 2))
    image, blends = pictures(5), [one, (), two, one, ()]
    together = apply(network, image, blends)
    for picture, blend, output in zip(image, blends, together, strict=True):
        torch.testing.assert_close(output, apply(network, picture.unsqueeze(0), [blend])[0], rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-2, "the blends must differ for this test to say something"


def test_one_blend_serves_all_and_another_count_is_refused(network: Network) -> None:
    image = pictures(3)
    assert torch.equal(apply(network, image, [()]), apply(network, image, [(), (), ()]))
    with pytest.raises(InvalidInput, match=r"1 or 3 blends.*got 2"):
        apply(network, image, [(), ()])


def test_chunks_change_nothing_and_progress_counts_them(network: Network) -> None:
    image, seen = pictures(5), []
    whole = apply(network, image, [()], on_progress=lambda count, latest: seen.append((count, latest.clone())))
    assert [count for count, _ in seen] == [5]
    assert torch.equal(seen[0][1], whole[4])
    seen.clear()
    chunks = apply(network, image, [()], chunk_pixels=2 * 32 * 48, on_progress=lambda count, latest: seen.append((count, latest)))
    assert [count for count, _ in seen] == [2, 4, 5]
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-4)
    assert all(latest.shape == (3, 32, 48) for _, latest in seen)


def test_raising_from_progress_stops_the_run(network: Network) -> None:
    calls = []

    def cancel(count: int, latest: Tensor) -> None:
        calls.append(count)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(network, pictures(4), [()], chunk_pixels=1, on_progress=cancel)
    assert calls == [1]


def test_a_large_picture_is_run_in_tiles(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, run = [], network._run

    def spy(image: Tensor, derived: object) -> Tensor:
        sizes.append(tuple(image.shape[2:]))
        return run(image, derived)

    monkeypatch.setattr(network, "_run", spy)
    output = apply(network, pictures(1, 70, 300), [()], tile=128)
    assert output.shape == (1, 3, 70, 300)
    assert torch.isfinite(output).all()
    assert len(sizes) > 1
    assert all(max(size) <= 128 and not any(side % 16 for side in size) for size in sizes)


def test_the_wire_is_immutable(base: Base) -> None:
    bare = E2GAN(base)
    styled = bare.with_concept(tiny_concept(base, 1), 1)
    assert bare.blend == ()
    assert [strength for _, strength in styled.blend] == [1.0]
    with pytest.raises(AttributeError):
        styled.blend = ()
    assert len(styled.with_concept(tiny_concept(base, 2), 0.5).blend) == 2
