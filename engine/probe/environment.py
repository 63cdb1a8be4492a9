"""What a measurement was made on: device, processor, versions."""

import datetime
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Name of the processor and its 16-bit features, as the operating system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    features = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'unknown')} ({', '.join(features[:2]) or 'no wide vectors'})"


def device_name(device: torch.device) -> str:
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_name(device)
    return processor() if device.type == "cpu" else f"{device.type} of {platform.machine()}"


def environment(device: torch.device, **more: str) -> dict[str, object]:
    """Facts for a report; `more` adds versions only the caller knows, such as ComfyUI's."""
    found: dict[str, object] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": str(device),
        "device_name": device_name(device),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found["cuda"] = torch.version.cuda or torch.version.hip or "unknown"
        found["device_memory_mib"] = torch.cuda.get_device_properties(device).total_memory // 2**20
    return found | more


def missing_device(name: str) -> str | None:
    """A sentence if torch cannot use a device here, else None."""
    kind, _, number = name.partition(":")
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "xpu": torch.xpu.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind in present and int(number or 0) < present[kind]:
        return None
    here = ", ".join(kind for kind, count in present.items() if count)
    return f"Expected a device that this machine has ({here}), got '{name}': choose one of them."
