"""One line of results.jsonl: what was measured, on which machine, with which versions, by which command."""

import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from hotpath.engine.probe.environment import processor

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def commit() -> str:
    """The commit measured; "-dirty" if the code is not quite that. Rows just written do not count."""
    changed = git("diff", "--name-only", "HEAD", "--", ".", f":(exclude){RESULTS.relative_to(ROOT).as_posix()}")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("-dirty" if changed else "")


def environment(device: str) -> dict[str, object]:
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ"),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "command": " ".join(["python", *(Path(arg).name if Path(arg).is_absolute() else arg for arg in sys.argv)]),
    }


def record(benchmark: str, device: str, results: Mapping[str, object]) -> None:
    """Append one row; rows are never rewritten."""
    row = {"benchmark": benchmark, **environment(device), **results}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
