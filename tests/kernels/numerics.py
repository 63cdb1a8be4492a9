"""Runs the Triton kernels on the CPU, for each case and with each planted fault; prints what it finds as JSON.

A program and not a test: the interpreter has to be chosen before kernels are imported, and stays chosen for the whole process.
"""

import importlib
import importlib.util
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hotpath.tests.kernels import interpreter  # isort: skip (chooses the interpreter, before any kernel is imported)
import torch
from hotpath.tests.kernels import cases
from torch import Tensor

REPAIRED = interpreter.install()


def difference(result: Tensor | tuple, exact: Tensor | tuple) -> float:
    """Largest relative root mean square error; infinite where a number is none or a form is wrong."""
    results, wanted = (value if isinstance(value, tuple) else (value,) for value in (result, exact))
    worst = 0.0
    for ours, truth in zip(results, wanted, strict=True):
        if ours.shape != truth.shape or not ours.isfinite().all():
            return float("inf")
        worst = max(worst, float((ours.double() - truth).norm() / truth.norm().clamp_min(1e-12)))
    return worst


def kernels(room: str) -> ModuleType:
    return importlib.import_module(f"hotpath.kernels.{room}.fwd_triton")


def faulty(room: str, old: str, new: str, folder: Path) -> ModuleType:
    """The kernels of a room with a piece of their source replaced."""
    source = inspect.getsource(kernels(room))
    if source.count(old) == 0:
        raise SystemExit(f"the fault '{old}' has no place in {room} any more")
    path = folder / f"{room}_{abs(hash((old, new)))}.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"hotpath.kernels.{room}.fwd_triton_faulty", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(case: cases.Case, module: ModuleType) -> dict:
    start = time.perf_counter()
    arguments = case.arguments()
    result = module.forward(*arguments)
    exact = case.exact(
        *(value.double() if isinstance(value, Tensor) and value.is_floating_point() else value for value in arguments)
    )
    plain = case.plain(*arguments)
    kinds = [tensor.dtype for tensor in (result if isinstance(result, tuple) else (result,))]
    return {
        "error": difference(result, exact),
        "plain": difference(plain, exact),
        "dtype": sorted({str(kind) for kind in kinds}),
        "seconds": round(time.perf_counter() - start, 2),
    }


def attempt(run: Callable[[], dict]) -> dict:
    try:
        return run()
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"}


def main() -> None:
    torch.set_num_threads(1)
    interpreter.poison_memory()
    found = {"repaired": REPAIRED, "cases": {}, "faults": {}}
    for case in cases.CASES:
        found["cases"][case.name] = attempt(lambda case=case: measured(case, kernels(case.room)))
    by_name = {case.name: case for case in cases.CASES}
    with tempfile.TemporaryDirectory() as folder:
        for fault in cases.FAULTS:
            case = by_name[fault.case]
            found["faults"][fault.name] = attempt(
                lambda fault=fault, case=case: measured(case, faulty(case.room, fault.old, fault.new, Path(folder)))
            )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
