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
# Of both versions: the limit, what is used, and a list in which the names begin with a prefix where children are counted in.
GROUPED = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)


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
    for limit, used, listed, prefix in GROUPED:
        with contextlib.suppress(OSError, ValueError):  # no container, or "max"
            free = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
            return free + _cached_files(CGROUP / listed, prefix)
    return 2**62


def _cached_files(path: Path, prefix: str) -> int:
    """Bytes of files that a container has read or written and that go when memory is asked for; 0 where nobody tells."""
    with contextlib.suppress(OSError, ValueError):
        facts = dict(line.split() for line in path.read_text().splitlines())
        return sum(int(facts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return 0


def _status_bytes(name: str) -> int | None:
    """A line of /proc/self/status in bytes, or None where there is none."""
    with contextlib.suppress(OSError):
        for line in (PROCESS / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    return None


_OPEN: "weakref.WeakSet[Watch]" = weakref.WeakSet()


class Watch:
    """Peak and growth of memory between the start of the watch and `report`; nothing is asked in between.

    Peaks are the process's, and a watch that begins sets them back, so those so far go to the watches that are open.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._peaks = device, {"device": 0, "host": 0}
        for watch in list(_OPEN):
            watch._look()
        _OPEN.add(self)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._device_start = torch.cuda.memory_allocated(device)
        self._peak_is_ours = False
        with contextlib.suppress(OSError):  # sets the peak of this process back to what it holds now
            (PROCESS / "clear_refs").write_text("5")
            self._peak_is_ours = True
        self._host_start = _status_bytes("VmRSS")

    def _look(self) -> None:
        """Take in the peaks since they were set back last."""
        if self.device.type == "cuda":
            self._peaks["device"] = max(self._peaks["device"], torch.cuda.max_memory_allocated(self.device))
        self._peaks["host"] = max(self._peaks["host"], _status_bytes("VmHWM") or 0)

    def report(self) -> dict[str, float]:
        """MiB by name; what a system does not tell is left out. Ends the watch."""
        found: dict[str, float] = {}
        self._look()
        _OPEN.discard(self)
        if self.device.type == "cuda":
            found["device_peak_mib"] = self._peaks["device"]
            found["device_peak_growth_mib"] = found["device_peak_mib"] - self._device_start
        now, peak = _status_bytes("VmRSS"), self._peaks["host"]
        if now is not None and self._host_start is not None:
            found["host_growth_mib"] = now - self._host_start
            if peak and self._peak_is_ours:
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
