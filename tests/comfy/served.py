"""What tests ask of a ComfyUI server: a node of a graph, the pictures a graph gave, and whether the server lives."""

from __future__ import annotations

import io
import json

import numpy as np
from hotpath.tools.client import Client, Run
from PIL import Image


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def pixels(server: Client, run: Run) -> list[np.ndarray]:
    assert run.error is None, run.error
    return [np.asarray(Image.open(io.BytesIO(server.image(image)))) for image in run.images]


def alive(server: Client) -> bool:
    return server.process.poll() is None and bool(json.loads(server.get("/system_stats")))
