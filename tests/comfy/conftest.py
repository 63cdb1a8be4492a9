"""One real ComfyUI server for all tests in this folder, and the files that E2GAN graphs on it ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hotpath.engine.e2gan.checkpoint import load_base, save_concept
from hotpath.tests.comfy.e2gan_graphs import FOREIGN
from hotpath.tests.comfy.outside import comfyui
from hotpath.tests.mirror import Mirror, serving
from hotpath.tests.testing import contents, rewrite, tiny_concept, write_base
from hotpath.tools.client import Client
from hotpath.tools.comfyui import ComfyUI, python_of
from hotpath.tools.server import running
from PIL import Image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder needs ComfyUI, so none has to say so."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("comfy")


@pytest.fixture(scope="session")
def mirror() -> Iterator[Mirror]:
    """What the server takes for Hugging Face: a server on this machine."""
    with serving() as mirror:
        yield mirror


@pytest.fixture(scope="session")
def server(mirror: Mirror) -> Iterator[Client]:
    """A client to a headless ComfyUI with only this pack in it: object_info, queue, upload, image, log."""
    tree = comfyui()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", mirror.address)
        patch.setenv("NO_PROXY", "127.0.0.1")
        with running(ComfyUI(tree, python_of(tree))) as client:
            yield client


@pytest.fixture(scope="session")
def weights(server: Client) -> Path:
    """models/e2gan of the server, with a tiny base, two looks for it, and files that cannot be used."""
    folder = server.log_file.parent / "models" / "e2gan"
    base = load_base(write_base(folder / "tiny.safetensors"))
    for name, seed in (("ink", 1), ("oil", 2)):
        save_concept(folder / "concepts" / f"{name}.safetensors", tiny_concept(base, seed, name=name))
    save_concept(folder / "concepts" / "foreign.safetensors", tiny_concept(base, 3, base_sha256=FOREIGN))
    (folder / "concepts" / "damaged.safetensors").write_bytes(b"PK\x03\x04 not safetensors")
    rewrite(write_base(folder / "other.safetensors", seed=5), header={"hotpath.format": "hotpath.student"})
    nan = write_base(folder / "nan.safetensors", seed=6)
    rewrite(nan, tensors={"head.weight": torch.full_like(contents(nan)[1]["head.weight"], torch.nan)})
    return folder


@pytest.fixture(scope="session")
def photo(server: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a picture of 67 x 45 px on the server."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    path = tmp_path_factory.mktemp("photo") / "hotpath-photo.png"
    Image.fromarray(pixels).resize((67, 45), Image.Resampling.BICUBIC).save(path)
    return server.upload(path)
