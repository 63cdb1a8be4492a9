"""Where a training run keeps its place: checkpoint and best concept, in a subfolder named after what was asked for."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open


class Place:
    """The place in `parent` of a run that was asked for in these terms (JSON values by name), so that runs never mix."""

    def __init__(self, parent: Path, asked: Mapping[str, object]) -> None:
        self.parent, self.asked = parent, json.loads(json.dumps(asked))
        self.identity = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        self.folder = parent / self.identity[:12]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    def new_terms(self) -> str:
        """How the terms differ from those of the newest unfinished run beside this one; empty where there is none."""
        found = [path for path in self.parent.glob("*/checkpoint.safetensors") if path != self.checkpoint]
        for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
            try:
                facts = read_facts(path)
                asked, unfinished = dict(facts["asked"]), facts["step"] < facts["steps"]
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                continue  # damaged, or of an older version
            if unfinished:
                new = [key for key in self.asked if self.asked[key] != asked.get(key)]
                return ", ".join(
                    f"{asked.get(key)} became {self.asked[key]}" if key == "length" else f"{key} changed" for key in new
                )
        return ""


def read_facts(checkpoint: Path) -> dict:
    """What a run wrote into its checkpoint beside the tensors."""
    with safe_open(checkpoint, "pt") as file:
        return json.loads(file.metadata()["hotpath"])
