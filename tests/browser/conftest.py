"""One real ComfyUI server, one Chromium and one page for all tests in this folder, which run after all others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hotpath.tests.browser.editor import Editor
from hotpath.tests.comfy.outside import comfyui
from hotpath.tests.testing import ROOT
from hotpath.tools.client import Client
from hotpath.tools.comfyui import ComfyUI, python_of
from hotpath.tools.environment import cache_folder
from hotpath.tools.server import require_pack, running

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--lang=en-US",
)  # fmt: skip
# What a user who has been here before has clicked away, and what would cover the graph in a screenshot.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.VueNodes.Enabled": False,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A page that is open draws all the time, so whatever measures time comes first."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("comfy")
            item.add_marker("browser")
    items.sort(key=lambda item: here in item.path.parents)


def executable() -> str | None:
    """The Chromium to drive: what HOTPATH_CHROMIUM names, else one on the path."""
    if named := os.environ.get("HOTPATH_CHROMIUM"):
        return named
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of the screen are kept: HOTPATH_SCREENSHOTS, else a folder in the cache."""
    folder = Path(os.environ.get("HOTPATH_SCREENSHOTS") or cache_folder() / "runs" / "screenshots")
    shutil.rmtree(folder / "hotpath", ignore_errors=True)
    (folder / "hotpath").mkdir(parents=True)
    return folder / "hotpath"


@pytest.fixture(scope="session")
def server() -> Iterator[Client]:
    """A headless ComfyUI with only this pack in it, and with the pictures that the example graphs name."""
    tree = comfyui()
    if executable() is None:
        pytest.skip("needs Chromium: `apt install chromium`, or set HOTPATH_CHROMIUM to the program of a Chromium or Chrome")
    pytest.importorskip("playwright", reason="needs Playwright: run `python tools/dev.py test`, or `pip install playwright`")
    with running(ComfyUI(tree, python_of(tree))) as client:
        require_pack(client)
        photos = ROOT / "examples" / "images"
        client.upload(photos / "parrots.jpg", "example.png")  # the name that ComfyUI's own first picture has
        (client.log_file.parent / "input" / "photos").mkdir()
        for photo in photos.glob("*.jpg"):
            shutil.copy(photo, client.log_file.parent / "input" / "photos" / photo.name)
        yield client


@pytest.fixture(scope="session")
def editor(server: Client, screenshots: Path) -> Iterator[Editor]:
    """ComfyUI's editor, open in a browser window of 1600 x 950."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=OPTIONS)
        context = browser.new_context(viewport={"width": 1600, "height": 950}, locale="en-US")
        context.set_default_timeout(20_000)
        context.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        # Only the server on this machine exists; the editor asks others for news and for file sizes.
        context.route(lambda url: not url.startswith((server.address, "blob:", "data:")), lambda route: route.abort())
        assert context.request.post(f"{server.address}/api/settings", data=SETTINGS).ok
        editor = Editor(context.new_page(), server, screenshots)
        editor.open()
        yield editor
        browser.close()
