"""Graphs of the E2GAN nodes, and what a graph with bad input must come to."""

from __future__ import annotations

from collections.abc import Sequence

from hotpath.tests.comfy.served import alive, pixels
from hotpath.tools.client import Client

IDS = ("Hotpath_LoadE2GAN", "Hotpath_E2GANConcept", "Hotpath_ApplyE2GAN", "Hotpath_E2GANConceptSheet")
FOREIGN = "f" * 64  # the SHA-256 of a base that nobody has
Link = list


def graph(
    looks: Sequence[tuple[str, float]] = (("ink", 1.0),),
    *,
    source: dict[str, dict] | None = None,
    base: str = "tiny",
    photo: str = "hotpath-photo.png",
    prefix: str = "hotpath",
    **apply: object,
) -> dict[str, dict]:
    """Picture (node "1", or what `source` gives) through a base and its looks, saved by node "save"."""
    prompt = source or {"1": {"class_type": "LoadImage", "inputs": {"image": photo}}}
    prompt = {**prompt, "base": {"class_type": IDS[0], "inputs": {"base": f"{base}.safetensors"}}}
    last: Link = ["base", 0]
    for index, (name, strength) in enumerate(looks):
        inputs = {"e2gan": last, "concept": f"{name}.safetensors", "strength": strength}
        prompt[f"look{index}"] = {"class_type": IDS[1], "inputs": inputs}
        last = [f"look{index}", 0]
    inputs = {"e2gan": last, "image": ["1", 0], "mix": 1.0, "precision": "float32", **apply}
    prompt["apply"] = {"class_type": IDS[2], "inputs": inputs}
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["apply", 0], "filename_prefix": prefix}}
    return prompt


def empty_image(width: int, height: int, count: int = 1) -> dict[str, dict]:
    inputs = {"width": width, "height": height, "batch_size": count, "color": 0x4080C0}
    return {"1": {"class_type": "EmptyImage", "inputs": inputs}}


def sheet(**inputs: object) -> dict[str, dict]:
    prompt = graph([])
    values = {"e2gan": ["base", 0], "image": ["1", 0], "strength": 1.0, "cell": 128, "columns": 0, "precision": "float32"}
    prompt["apply"] = {"class_type": IDS[3], "inputs": {**values, **inputs}}
    return prompt


def refused(server: Client, prompt: dict[str, dict], *words: str) -> None:
    before = server.log().count("!!! Exception")
    run = server.queue(prompt)
    assert run.error, "expected a refusal"
    missing = [word for word in words if word not in run.error]
    assert not missing, f"{missing} not in: {run.error}"
    assert alive(server)
    assert pixels(server, server.queue(graph(source=empty_image(33, 34)))), "the next graph still works"
    assert server.log().count("!!! Exception") <= before + 1
