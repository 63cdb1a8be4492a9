"""The demo: the bundled photographs through the example graphs on a real ComfyUI, and one sheet to look at."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import comfyui, server
from .client import Client, Run
from .environment import ROOT, Refusal
from .graph import ui_to_api

EACH_PHOTO = "e2gan_concepts.json"
ONCE = "e2gan_concept_sheet.json"


def run(out: Path, photos: Sequence[Path] = (), port: int | None = None, examples: Path = ROOT / "examples") -> int:
    """Writes the pictures and `contact-sheet.jpg` into `out`; the exit code is 0 only if every picture is there."""
    began = time.monotonic()
    photos = list(photos) or sorted((examples / "images").glob("*.jpg"))
    check_photos(photos, examples / "images")
    graphs = {name: read_graph(examples / name) for name in (EACH_PHOTO, ONCE)}
    make_folder(out)
    comfy, python = comfyui.prepare()
    rows: list[list[dict[str, str]]] = []
    written: set[Path] = set()
    failed = 0
    with server.running(comfy, port=port) as client:
        server.require_pack(client)
        object_info = client.object_info()
        prompts = {name: ui_to_api(graph, object_info) for name, graph in graphs.items()}
        for photo, name in [*((photo, EACH_PHOTO) for photo in photos), (photos[0], ONCE)]:
            title = photo.stem if name == EACH_PHOTO else f"{photo.stem} {Path(name).stem}"
            prompt = with_photo(prompts[name], client.upload(photo))
            result = client.queue(prompt, lambda share, node, title=title: show_progress(title, share, node))
            pictures = save_pictures(client, result, photo.stem, out, written)
            report(title, result, prompt, pictures)
            if pictures and not any(rows):
                print(f"First picture {time.monotonic() - began:.1f} s after the start.", flush=True)
            failed += result.error is not None or not pictures
            row = [{"path": str(path), "label": path.stem.removeprefix(f"{photo.stem}-")} for path in pictures]
            rows.append([{"path": str(photo), "label": photo.stem}, *row] if row and name == EACH_PHOTO else row)
    sheet = out / "contact-sheet.jpg"
    failed += not lay_out(python, [row for row in rows if row], sheet)
    print(f"{failed} of {len(rows) + 1} steps failed." if failed else f"Done. Open {sheet.resolve()}", flush=True)
    return 1 if failed else 0


def read_graph(path: Path) -> dict[str, Any]:
    """An example graph as the editor saved it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(
            f"Expected the example graph {path}, got {error.strerror}; use a complete clone of the repository."
        ) from None


def check_photos(photos: Sequence[Path], folder: Path) -> None:
    """Refusal unless there is at least one photograph and each of them is a file."""
    if not photos:
        raise Refusal(f"Expected photographs (*.jpg) in {folder}, got none; name your own with --photo.")
    for photo in photos:
        if not photo.is_file():
            raise Refusal(f"Expected --photo to name a picture file, got {photo}, which is not one; check the path.")


def with_photo(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    """The prompt with every LoadImage reading the uploaded picture `name`."""
    return {
        number: {**node, "inputs": {**node["inputs"], "image": name}} if node["class_type"] == "LoadImage" else node
        for number, node in prompt.items()
    }


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refusal(f"Expected --out to name a folder to write into, got {out} ({error.strerror}); choose another.") from None


def save_pictures(client: Client, result: Run, photo: str, out: Path, written: set[Path]) -> list[Path]:
    """Downloads a run's pictures as <photo>-<the graph's file name prefix>[-n].png, none over one of those `written` before."""
    paths: list[Path] = []
    for image in result.images:
        file = Path(image["filename"])
        stem = f"{photo}-{re.sub(r'_[0-9]+_$', '', file.stem)}"
        path = out / f"{stem}{file.suffix}"
        count = 2
        while path in written:
            path, count = out / f"{stem}-{count}{file.suffix}", count + 1
        path.write_bytes(client.image(image))
        paths.append(path)
        written.add(path)
    return paths


def show_progress(title: str, share: float, node: str) -> None:
    """Draws a progress bar over the current line of a terminal; prints nothing into a pipe."""
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 1
        bar = "#" * round(24 * share)
        print(f"\r{f'{title}: [{bar:24}] {share:4.0%}  {node}'[:room]:{room}}", end="", flush=True)


def report(title: str, result: Run, prompt: dict[str, Any], pictures: Sequence[Path]) -> None:
    """Prints what a run made: its time, its slowest nodes, and each file with its bytes."""
    if sys.stdout.isatty():
        print("\r" + " " * (shutil.get_terminal_size().columns - 1), end="\r")
    if result.error or not pictures:
        print(f"{title}: FAILED: {result.error or 'the graph ran and saved no picture'}", flush=True)
    else:
        slowest = sorted(result.node_ms.items(), key=lambda item: -item[1])[:3]
        nodes = ", ".join(f"{prompt[number]['_meta']['title']} {ms:.0f}" for number, ms in slowest if number in prompt)
        print(f"{title}: {len(pictures)} pictures in {result.ms:.0f} ms (slowest nodes, ms: {nodes})")
    for path in pictures:
        print(f"    {path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def lay_out(python: Path, rows: list[list[dict[str, str]]], sheet: Path) -> bool:
    """Makes the contact sheet with the Pillow of `python` and prints its size; False if a picture cannot be read."""
    if not rows:
        return False
    job = json.dumps({"sheet": str(sheet), "rows": rows})
    script = [str(python), str(Path(__file__).with_name("contact_sheet.py"))]
    made = subprocess.run(script, input=job, capture_output=True, text=True, encoding="utf-8", check=False)
    if made.returncode:
        print(f"contact sheet: FAILED: {made.stderr.strip().splitlines()[-1]}", flush=True)
        return False
    sizes = {tuple(size) for size in json.loads(made.stdout).values()}
    seen = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
    print(f"{sheet}  {sheet.stat().st_size / 1000:.0f} kB, from pictures of {seen}", flush=True)
    return True
