"""Memory: what is free, the peak and growth of a stretch of work, and the peak that a computation will need."""

import contextlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROCESS = Path("/proc/self")
CGROUP = Path("/sys/fs/cgroup")
GROUPED = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def free_bytes(device: torch.device) -> int:
    """Bytes that could be taken on a device now; of the host's memory what the system and its container leave."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_host_free(), _container_free())


def _host_free() -> int:
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**33


def _container_free() -> int:
    for limit, used in GROUPED:
        with contextlib.suppress(OSError, ValueError):  # no container, or "max"
            return int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
    return 2**62


def _status_bytes(name: str) -> int | None:
    """A line of /proc/self/status in bytes, or None where there is none."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None


class Watch:
    """Peak and growth of memory between the start of the watch and `report`; nothing is asked in between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._device_start = torch.cuda.memory_allocated(device)
        self._peak_is_ours = False
        with contextlib.suppress(OSError):  # sets the peak of this process back to what it holds now
            (PROCESS / "clear_refs").write_text("5")
            self._peak_is_ours = True
        self._host_start = _status_bytes("VmRSS")

    def report(self) -> dict[str, float]:
        """MiB by name; what a system does not tell is left out."""
        found: dict[str, float] = {}
        if self.device.type == "cuda":
            found["device_peak_mib"] = torch.cuda.max_memory_allocated(self.device)
            found["device_peak_growth_mib"] = found["device_peak_mib"] - self._device_start
        now, peak = _status_bytes("VmRSS"), _status_bytes("VmHWM")
        if now is not None and self._host_start is not None:
            found["host_growth_mib"] = now - self._host_start
            if peak is not None and self._peak_is_ours:
                found["host_peak_mib"] = peak
                found["host_peak_growth_mib"] = peak - self._host_start
        return {name: round(value / 2**20, 1) for name, value in found.items()}


class _Living(TorchDispatchMode):
    """Sums the bytes of storages while they live, and keeps the highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._meet(tensor.untyped_storage())
        return result

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_bytes(run: Callable[[], object]) -> int:
    """Highest sum of the tensors that `run` makes on the device "meta", where nothing is computed and no memory is taken."""
    living = _Living()
    with living:
        run()
    return living.peak
