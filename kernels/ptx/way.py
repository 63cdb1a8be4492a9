"""The way `ptx` of an operation: what its `prepare` says, carried out by kernels compiled beforehand."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..dispatch import Way
from ..launch import Prepare, on_device
from . import driver
from .manifest import broken_promise, find, manifest, text_of

ANY = 0  # tiles that were tuned for one architecture were not compiled beforehand


def ptx(room: str, prepare: Prepare, why_not: Callable[..., str | None]) -> Way:
    """The way for an operation with these launches and constraints."""

    def refused(*arguments: Any) -> str | None:
        return why_not(*arguments) or _unavailable() or _unknown(room, prepare, arguments)

    def forward(*arguments: Any) -> Any:
        result, launches = prepare(*arguments, arch=ANY)
        device = arguments[0].device
        with on_device(arguments[0]):
            stream = torch.cuda.current_stream(device).cuda_stream
            for one in launches:
                entry = find(room, one)
                kernel = _kernel(entry["file"], device.index)
                driver.launch(driver.load(), kernel, one.grid, 32 * entry["warps"], entry["shared"], stream, one.arguments)
        return result

    return Way("ptx", lambda: forward, refused)


def _unavailable() -> str | None:
    try:
        driver.load()
        manifest()
    except driver.DriverError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error}); install hotpath again"
    return None


def _unknown(room: str, prepare: Prepare, arguments: tuple) -> str | None:
    for one in prepare(*arguments, arch=ANY)[1]:
        entry = find(room, one)
        if entry is None:
            return f"no kernel '{one.kernel}' was compiled beforehand for arguments of this kind"
        if broken := broken_promise(entry, one):
            return broken
    return None


@functools.cache
def _kernel(file: str, device: int) -> Any:
    """Loaded once a GPU, which is the current one."""
    (entry,) = (entry for entry in manifest()["kernels"].values() if entry["file"] == file)
    return driver.function(driver.load(), text_of(entry), entry["entry"], entry["shared"])
