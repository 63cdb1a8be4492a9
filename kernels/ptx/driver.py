"""The CUDA driver, which every NVIDIA GPU has: loads PTX and launches it. No toolkit, no compiler, no Triton."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
NEEDED = 12080  # the first driver that reads PTX 8.7
MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


class DriverError(RuntimeError):
    """The driver refused."""


@functools.cache
def load(name: str = LIBRARY) -> Any:
    """The driver's library. Raises `DriverError` where there is none or it is too old."""
    try:
        library = (ctypes.WinDLL if sys.platform == "win32" else ctypes.CDLL)(name)
    except OSError as error:
        raise DriverError(f"there is no NVIDIA driver ({name} cannot be loaded)") from error
    version = ctypes.c_int()
    call(library, "cuDriverGetVersion", ctypes.byref(version))
    if version.value < NEEDED:
        found, needed = (f"{number // 1000}.{number % 1000 // 10}" for number in (version.value, NEEDED))
        raise DriverError(f"the NVIDIA driver is for CUDA {found}, and the kernels need {needed}; install a newer driver")
    return library


def call(library: Any, name: str, *arguments: Any) -> None:
    code = getattr(library, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(text))
        raise DriverError(f"{name} failed: {(text.value or b'error %d' % code).decode()}")


def function(library: Any, text: bytes, entry: str, shared: int) -> ctypes.c_void_p:
    """A kernel of a PTX text, ready to launch on the current GPU with `shared` bytes of shared memory. It stays loaded."""
    module, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    call(library, "cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(text))
    call(library, "cuModuleGetFunction", ctypes.byref(kernel), module, ctypes.c_char_p(entry.encode()))
    if shared > 48 * 1024:
        call(library, "cuFuncSetAttribute", kernel, ctypes.c_int(MAX_DYNAMIC_SHARED), ctypes.c_int(shared))
    return kernel


def pack(arguments: Sequence[Any]) -> list[Any]:
    """Arguments as C values in order: pointers of tensors, int32, float32; absent tensors are left out.

    Triton's kernels take two more pointers, to scratch memory that ours do not use.
    """
    values: list[Any] = []
    for value in arguments:
        if isinstance(value, Tensor):
            values.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, float):
            values.append(ctypes.c_float(value))
        elif value is not None:
            values.append(ctypes.c_int32(value))
    return [*values, ctypes.c_void_p(None), ctypes.c_void_p(None)]


def launch(
    library: Any,
    kernel: ctypes.c_void_p,
    grid: tuple[int, int, int],
    threads: int,
    shared: int,
    stream: int,
    arguments: Sequence[Any],
) -> None:
    """Queue a kernel on a stream of the current GPU."""
    values = pack(arguments)
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    sides = [ctypes.c_uint(side) for side in (*grid, threads, 1, 1)]
    call(library, "cuLaunchKernel", kernel, *sides, ctypes.c_uint(shared), ctypes.c_void_p(stream), pointers, None)
