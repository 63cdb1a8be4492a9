"""The bundled weights: what the manifest says of them, their sizes, and that each concept has a look of its own.

`python -m hotpath.tests.test_bundled` writes the golden looks again; do so when the weights change, and look at the pictures.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.e2gan.checkpoint import file_sha256, load_base, load_concept
from hotpath.engine.e2gan.model import Generator
from hotpath.engine.e2gan.network import E2GAN, Network
from hotpath.tests.testing import ROOT
from hotpath.training.report import live_units
from PIL import Image
from safetensors.torch import load_file, save_file

MANIFEST = json.loads((ROOT / "weights_manifest.json").read_text(encoding="utf-8"))
ENTRIES = {entry["id"]: entry for entry in MANIFEST["weights"] if "path" in entry}
GOLDEN = ROOT / "tests" / "golden" / "looks.safetensors"
CONCEPTS = sorted((ROOT / "models" / "concepts").glob("*.safetensors"))


@pytest.mark.parametrize("name", ENTRIES)
def test_the_manifest_tells_the_truth(name: str) -> None:
    entry = ENTRIES[name]
    path = ROOT / entry["path"]
    assert path.name == entry["name"]
    assert path.stat().st_size == entry["size"]
    assert (entry["hash_type"], entry["hash"]) == ("SHA256", file_sha256(path))
    assert set(entry["needs"]) <= set(ENTRIES)
    assert entry["license"]


def test_every_bundled_file_is_in_the_manifest_and_has_a_card() -> None:
    files = sorted((ROOT / "models").rglob("*.safetensors"))
    assert {path.relative_to(ROOT).as_posix() for path in files} == {entry["path"] for entry in ENTRIES.values()}
    assert all(path.with_suffix(".md").is_file() for path in files)


def test_the_weights_are_readable_as_ours() -> None:
    bases = [load_base(path) for path in (ROOT / "models").glob("*.safetensors")]
    assert bases
    for path in (ROOT / "models" / "concepts").glob("*.safetensors"):
        concept = load_concept(path)
        (base,) = (base for base in bases if base.sha256 == concept.base_sha256)
        E2GAN(base).with_concept(concept, 1.0)


def test_sizes_are_as_promised() -> None:
    assert (ROOT / "models" / "e2gan_base.safetensors").stat().st_size <= 15_000_000
    assert len(CONCEPTS) >= 6
    assert max(path.stat().st_size for path in CONCEPTS) <= 200_000


def photograph() -> torch.Tensor:
    image = Image.open(ROOT / "examples" / "images" / "dogs.jpg").convert("RGB").resize((128, 128))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def all_looks() -> dict[str, torch.Tensor]:
    """A photograph in every concept and under the bare base (named ""), float32."""
    base = load_base(ROOT / "models" / "e2gan_base.safetensors")
    network, e2gan = Network(base, torch.float32), E2GAN(base)
    styled = {path.stem: e2gan.with_concept(load_concept(path), 1.0) for path in CONCEPTS}
    return {name: network(photograph(), variant.blend) for name, variant in {"": e2gan, **styled}.items()}


@pytest.fixture(scope="module")
def looks() -> dict[str, torch.Tensor]:
    return all_looks()


def coarse(look: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.adaptive_avg_pool2d(look, 8)


def test_looks_are_the_golden_ones(looks: dict[str, torch.Tensor]) -> None:
    golden = load_file(GOLDEN)
    assert set(golden) == {name or "base" for name in looks}
    for name, look in looks.items():
        torch.testing.assert_close(coarse(look), golden[name or "base"], atol=2e-3, rtol=0)


def test_the_bare_base_leaves_a_photograph_nearly_alone(looks: dict[str, torch.Tensor]) -> None:
    changed = {name: (look - photograph()).abs().mean().item() for name, look in looks.items()}
    assert changed[""] < 0.12
    assert min(value for name, value in changed.items() if name) > 1.5 * changed[""]


def test_each_concept_has_its_own_look(looks: dict[str, torch.Tensor]) -> None:
    names = sorted(looks)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert (looks[name] - looks[other]).abs().mean() > 0.05, f"{name} and {other}"


BLOCKS = ("stem", "down1", "down2", "res1", "res2", "ds", "transformer", "us", "res3", "up1", "up2", "modulation")
RESIDUAL = ("res1", "res2", "res3", "transformer")


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_the_bundled_base_reaches_the_picture(block: str) -> None:
    """A layer of dead units would cut off all blocks before it, and nothing else here would notice."""
    base = load_base(ROOT / "models" / "e2gan_base.safetensors")
    generator = Generator(base.architecture).eval()
    generator.load_state_dict(base.weights)
    contexts = torch.stack(list(base.looks.values()))
    several = photograph().expand(len(contexts), -1, -1, -1)
    with torch.no_grad():
        whole = generator(several, contexts)

        def silence(_, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            return inputs[0] if block in RESIDUAL else torch.zeros_like(output)

        generator.get_submodule(block).register_forward_hook(silence)
        change = (generator(several, contexts) - whole).abs().mean((1, 2, 3))
    assert change.max() > 0.004, "in the look that needs it most"


def test_nearly_all_units_of_the_bundled_base_are_alive() -> None:
    base = load_base(ROOT / "models" / "e2gan_base.safetensors")
    generator = Generator(base.architecture).eval()
    generator.load_state_dict(base.weights)
    contexts = torch.stack([load_concept(path).context for path in CONCEPTS])
    shares = live_units(generator, photograph().expand(len(contexts), -1, -1, -1), contexts)
    assert len(shares) == 7
    assert min(shares.values()) > 0.8, shares


@pytest.fixture(scope="module")
def networks() -> dict[torch.dtype, Network]:
    base = load_base(ROOT / "models" / "e2gan_base.safetensors")
    return {dtype: Network(base, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)}


def test_edges_are_kept(looks: dict[str, torch.Tensor]) -> None:
    """A look is an edit of the photograph, not a picture of its own: their gradients agree in place."""

    def edges(image: torch.Tensor) -> torch.Tensor:
        grey = torch.nn.functional.avg_pool2d(image.mean(1, keepdim=True), 4)
        return ((grey.diff(dim=2)[..., :-1] ** 2 + grey.diff(dim=3)[..., :-1, :] ** 2) ** 0.5).flatten()

    for name, look in looks.items():
        agreement = torch.corrcoef(torch.stack([edges(look), edges(photograph())]))[0, 1].item()
        assert agreement > 0.2, name


@pytest.mark.parametrize("path", CONCEPTS, ids=lambda path: path.stem)
def test_16_bits_are_close_to_float32(networks: dict[torch.dtype, Network], path: Path) -> None:
    """float16 ends at 65504, and these weights bring sums to a hundred times that."""
    for strength in (1.0, 2.0):
        blend = E2GAN(networks[torch.float32].base).with_concept(load_concept(path), strength).blend
        whole = networks[torch.float32](photograph(), blend)
        for dtype, most in ((torch.bfloat16, 0.03), (torch.float16, 0.003)):
            assert (networks[dtype](photograph(), blend) - whole).abs().mean() < most, (dtype, strength)


def test_all_looks_at_once_at_full_strength_stay_within_float16(networks: dict[torch.dtype, Network]) -> None:
    styled = E2GAN(networks[torch.float16].base)
    for path in CONCEPTS:
        styled = styled.with_concept(load_concept(path), 2.0)
    assert torch.isfinite(networks[torch.float16](photograph(), styled.blend)).all()


def test_cards_are_where_the_files_are() -> None:
    for path in CONCEPTS:
        card = Path(path).with_suffix(".md").read_text(encoding="utf-8")
        assert load_concept(path).info["teacher"] in card


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    save_file({name or "base": coarse(look).contiguous() for name, look in all_looks().items()}, GOLDEN)
