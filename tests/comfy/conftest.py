"""One real ComfyUI server for all tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hotpath.tests.comfy.outside import comfyui
from hotpath.tests.mirror import Mirror, serving
from hotpath.tools.client import Client
from hotpath.tools.comfyui import ComfyUI, python_of
from hotpath.tools.server import running


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
