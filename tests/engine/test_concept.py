"""Concepts: derived from the pristine base each time, bounded in the cache, and readable by peft."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan.checkpoint import Base, load_concept, save_concept
from hotpath.engine.e2gan.concept import (
    CRUCIAL_LAYERS,
    DEFAULT_RANKS,
    Concept,
    blended_context,
    low_rank_product,
    merged_weights,
)
from hotpath.engine.e2gan.model import Architecture, Generator
from hotpath.engine.e2gan.network import CACHED_BLENDS, E2GAN, Network
from hotpath.engine.errors import ConceptMismatch, HotpathError, InvalidInput, WeightsInvalid
from hotpath.tests.testing import TINY, contents, digest, pictures, tiny_base, tiny_concept

IMAGE = pictures(2, 48, 32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def network(base: Base) -> Network:
    return Network(base, torch.float32)


@pytest.fixture(scope="module")
def looks(base: Base) -> tuple[Concept, Concept]:
    return tiny_concept(base, 1), tiny_concept(base, 2, rank=3)


def test_merged_weights_against_float64(base: Base, looks: tuple[Concept, Concept]) -> None:
    one, two = looks
    merged = merged_weights(base.weights, ((one, 0.7), (two, -0.4)))
    assert set(merged) == {f"{layer}.weight" for layer in CRUCIAL_LAYERS}
    for layer in CRUCIAL_LAYERS:
        expected = base.weights[f"{layer}.weight"].double()
        for concept, strength in ((one, 0.7), (two, -0.4)):
            a, b = (factor.double() for factor in concept.factors[layer])
            product = torch.einsum("orxy,rihw->oihw", b, a) if a.ndim == 4 else b @ a
            expected = expected + strength * product
        torch.testing.assert_close(merged[f"{layer}.weight"].double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_low_rank_product_has_the_shape_of_the_weight(kernel: tuple[int, ...]) -> None:
    product = low_rank_product(torch.ones(2, 5, *kernel), torch.ones(7, 2, *(1 for _ in kernel)))
    assert product.shape == (7, 5, *kernel)
    assert (product == 2).all()


def test_blended_contexts(base: Base, looks: tuple[Concept, Concept]) -> None:
    neutral, (one, two) = base.neutral_context, looks
    assert torch.equal(blended_context((), neutral), neutral)
    assert torch.equal(blended_context([(one, 0.0)], neutral), neutral)
    for strength in (1.0, 2.0):  # never further than the concept's own text
        torch.testing.assert_close(blended_context([(one, strength)], neutral), one.context)
    torch.testing.assert_close(blended_context([(one, 1.0), (two, 1.0)], neutral), (one.context + two.context) / 2)
    half = blended_context([(one, 0.5)], neutral)
    torch.testing.assert_close(half, (one.context + neutral) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back_gives_the_same_bits(base: Base, looks: tuple[Concept, Concept], dtype: torch.dtype) -> None:
    network = Network(base, dtype)
    before = digest(base.weights), digest(network.module.state_dict())
    one, two = (((concept, 1.0),) for concept in looks)
    first, other, again = (network(IMAGE, blend) for blend in (one, two, one))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-2
    network.forget()
    assert torch.equal(network(IMAGE, one), first), "derived afresh"
    assert torch.equal(Network(base, dtype)(IMAGE, one), first), "a fresh network"
    assert (digest(base.weights), digest(network.module.state_dict())) == before


def test_strength_zero_is_the_base_bit_for_bit(network: Network, looks: tuple[Concept, Concept]) -> None:
    one, two = looks
    assert torch.equal(network(IMAGE, ((one, 0.0), (two, 0.0))), network(IMAGE, ()))
    assert torch.equal(network(IMAGE, ((one, 1.0), (two, 0.0))), network(IMAGE, ((one, 1.0),)))


def test_concepts_commute(network: Network, looks: tuple[Concept, Concept]) -> None:
    one, two = ((concept, strength) for concept, strength in zip(looks, (0.6, 0.5), strict=True))
    weights = network.base.weights
    here, there = merged_weights(weights, (one, two)), merged_weights(weights, (two, one))
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], rtol=0, atol=1e-6)
    # random weights make more of that rounding than trained ones
    torch.testing.assert_close(network(IMAGE, (one, two)), network(IMAGE, (two, one)), rtol=0, atol=5e-5)


def test_strength_grows_the_effect(network: Network, looks: tuple[Concept, Concept]) -> None:
    bare = network(IMAGE, ())
    effects = [(network(IMAGE, ((looks[0], strength),)) - bare).abs().mean().item() for strength in (0.1, 0.5, 1.0)]
    assert effects == sorted(effects)
    assert effects[0] > 0


@pytest.mark.parametrize("strength", [-1.001, 2.001, float("nan"), float("inf")])
def test_strengths_outside_are_refused(base: Base, looks: tuple[Concept, Concept], strength: float) -> None:
    with pytest.raises(InvalidInput, match=f"between -1 and 2, got {strength:g}"):
        E2GAN(base).with_concept(looks[0], strength)


@pytest.mark.parametrize("strength", [-1, 0, 2])
def test_the_ends_of_the_range_are_taken(base: Base, looks: tuple[Concept, Concept], strength: float) -> None:
    assert E2GAN(base).with_concept(looks[0], strength).blend == ((looks[0], strength),)


def test_the_cache_is_bounded_and_forgets_the_oldest(network: Network, looks: tuple[Concept, Concept]) -> None:
    blends = [((looks[0], index / 100),) for index in range(CACHED_BLENDS + 3)]
    first = network.derived(blends[0])
    for blend in blends[1:]:
        network.derived(blend)
        assert network.derived(blends[0]) is first, "what is used stays"
    assert len(network._derived) == CACHED_BLENDS
    kept = [blend for _, blend in network._derived]
    assert blends[1] not in kept
    assert blends[-1] in kept


# ---- which concepts fit


def test_a_concept_of_another_base_names_both(base: Base) -> None:
    stranger = tiny_concept(base, 1, name="ink", base_sha256="f" * 64)
    with pytest.raises(ConceptMismatch, match=rf"'ink'.*ffffffffffff.*{base.sha256[:12]}.*choose"):
        E2GAN(base).with_concept(stranger, 1.0)


def damaged(concept: Concept, layer: str, a: torch.Tensor, b: torch.Tensor) -> Concept:
    return replace(concept, factors={**concept.factors, layer: (a, b)})


@pytest.mark.parametrize(
    ("layer", "a", "b"),
    [
        ("head", (2, 24, 1, 1), (12, 2, 1, 1)),
        ("head", (2, 24, 3, 3), (13, 2, 1, 1)),
        ("head", (2, 24, 3, 3), (12, 3, 1, 1)),
        ("head", (2, 24, 3, 3), (12, 2, 3, 3)),
        ("transformer.to_q", (2, 32), (32,)),
        ("transformer.to_q", (2, 32), ()),
    ],
    ids=["A kernel", "B rows", "ranks differ", "B kernel", "B a vector", "B a number"],
)
def test_factors_of_a_wrong_shape_are_refused(base: Base, layer: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    concept = damaged(tiny_concept(base, 1, name="ink"), layer, torch.zeros(a), torch.zeros(b))
    with pytest.raises(WeightsInvalid, match=rf"'ink'.*'{layer}'.*expected.*got"):
        E2GAN(base).with_concept(concept, 1.0)


@pytest.mark.parametrize("layer", ["res1.conv1", "nowhere"])
def test_layers_that_are_not_crucial_are_refused(base: Base, layer: str) -> None:
    concept = damaged(tiny_concept(base, 1, name="ink"), layer, torch.zeros(1, 32, 3, 3), torch.zeros(32, 1, 1, 1))
    with pytest.raises(WeightsInvalid, match=rf"'ink'.*'{layer}'.*crucial"):
        E2GAN(base).with_concept(concept, 1.0)


def test_a_context_of_a_wrong_shape_is_refused(base: Base) -> None:
    with pytest.raises(WeightsInvalid, match=r"text context.*\(4, 12\).*got \(4, 13\)"):
        E2GAN(base).with_concept(replace(tiny_concept(base, 1), context=torch.zeros(4, 13)), 1.0)


def test_every_refusal_is_one_of_ours() -> None:
    assert all(issubclass(kind, HotpathError) for kind in (ConceptMismatch, InvalidInput, WeightsInvalid))


def test_default_ranks_cover_the_crucial_layers() -> None:
    assert set(DEFAULT_RANKS) == set(CRUCIAL_LAYERS)
    with torch.device("meta"):
        weights = Generator(Architecture()).state_dict()
    numbers = sum(
        rank * (weights[f"{n}.weight"].shape[0] + weights[f"{n}.weight"][0].numel()) for n, rank in DEFAULT_RANKS.items()
    )
    assert 75_000 < numbers < 90_000


# ---- peft


def test_peft_reads_a_concept_file_and_agrees(base: Base, network: Network, tmp_path: Path) -> None:
    """The independent oracle: peft's own layers, configured by nothing but the file, give our pictures."""
    peft = pytest.importorskip("peft")
    path = tmp_path / "look.safetensors"
    concept = tiny_concept(base, 3)
    ranks = {layer: 1 + index % 3 for index, layer in enumerate(CRUCIAL_LAYERS)}
    sliced = {layer: (a[: ranks[layer]], b[:, : ranks[layer]]) for layer, (a, b) in tiny_concept(base, 3, rank=3).factors.items()}
    concept = replace(concept, factors=sliced)
    save_concept(path, concept)
    header, tensors = contents(path)
    generator = Generator(TINY).eval()
    generator.load_state_dict(base.weights)
    model = peft.get_peft_model(generator, peft.LoraConfig(**json.loads(header["hotpath"])["peft"])).eval()
    context = tensors.pop("context").float()
    result = peft.set_peft_model_state_dict(model, {name: tensor.float() for name, tensor in tensors.items()})
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if "lora" in name]
    padded, inner = torch.nn.functional.pad(IMAGE, (8,) * 4, "reflect"), (..., slice(8, -8), slice(8, -8))
    with torch.no_grad():
        theirs = model(padded, context.expand(2, -1, -1))[inner]
        bare = model.unload()(padded, context.expand(2, -1, -1))[inner]
    ours = network(IMAGE, ((load_concept(path), 1.0),))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert (ours - bare).abs().max() > 1e-2
