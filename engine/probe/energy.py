"""Energy counters of the hardware, where the system lets this user read them; read before and after, never in between."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
NOT_OFFERED = "not offered by this machine"


def _processor_counters() -> list[tuple[Path, int]]:
    """Readable counters of whole processor packages in microjoules, each with the value at which it starts again from 0."""
    found = []
    for folder in sorted(POWERCAP.glob("intel-rapl:*")) if POWERCAP.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):  # since 2020 most systems let only root read them
            if folder.name.count(":") == 1:
                int((folder / "energy_uj").read_text())
                found.append((folder / "energy_uj", int((folder / "max_energy_range_uj").read_text())))
    return found


def _gpu_counter(device: torch.device) -> Callable[[], float] | None:
    """Joules since the driver started, for an NVIDIA GPU where the package pynvml is installed."""
    if device.type != "cuda":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        identity = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no such driver, or a GPU without the counter: each with an error class of its own
        return None
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


class Energy:
    """Joules from here to `report`."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = _gpu_counter(device)
        self._gpu_start = self._gpu() if self._gpu else 0.0
        self._processor = [(path, limit, int(path.read_text())) for path, limit in _processor_counters()]

    def report(self) -> dict[str, float | str]:
        found: dict[str, float | str] = {}
        if self._gpu:
            found["device_joules"] = round(self._gpu() - self._gpu_start, 3)
        if self._processor:
            spent = sum((int(path.read_text()) - start) % limit for path, limit, start in self._processor)
            found["processor_joules"] = round(spent / 1e6, 3)
        return found or {"energy": NOT_OFFERED}
