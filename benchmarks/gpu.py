"""Proves the fused kernels on this GPU, finds the best tiles, times them next to torch, and appends to benchmarks/results.jsonl.

python benchmarks/gpu.py [--minutes 8] [--float16-only] [--keep-tiles]    on a machine with an NVIDIA GPU
python benchmarks/gpu.py --dry                                            toy sizes on the processor; writes nothing

Nothing is timed unless every result is right. Times of operations are inside a CUDA graph, so the cost of launching is left out; whole
networks (E2GAN, the UNet of SD1.5) are timed both ways. The UNet needs diffusers; comfy-kitchen's kernels run too where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # read as kernels are imported
if importlib.util.find_spec("hotpath") is None:
    spec = importlib.util.spec_from_file_location("hotpath", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["hotpath"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["hotpath"])

import torch
from hotpath.benchmarks.gpu_cases import CANDIDATES, KITCHEN, Timed, cases, tiles
from hotpath.benchmarks.gpu_clock import graph_us, summary, wall_us
from hotpath.benchmarks.gpu_models import networks, timed_network
from hotpath.benchmarks.record import record
from hotpath.kernels import tuning
from hotpath.kernels.dispatch import AGREES, Declined, distance
from hotpath.kernels.launch import architecture
from torch import Tensor

DEVICE = "cpu" if DRY else "cuda"
WAYS = ("triton", "ptx")
COPIES = 2 if DRY else 4  # sets of arguments used in turn, so that caches do not hold the answer
clock = wall_us if DRY else graph_us


# ---- correctness


def doubled(arguments: tuple) -> tuple:
    return tuple(v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in arguments)


def prove(ways: tuple[str, ...]) -> list[str]:
    """Each case of the tests on this device by each way that takes it; what is wrong, in words."""
    from hotpath.kernels.add_layer_norm import ADD_LAYER_NORM
    from hotpath.kernels.attention import ATTENTION
    from hotpath.kernels.geglu import GEGLU
    from hotpath.kernels.group_norm_silu import GROUP_NORM_SILU
    from hotpath.kernels.instance_norm_act import INSTANCE_NORM_ACT
    from hotpath.tests.kernels.cases import CASES

    operations = {one.name: one for one in (ATTENTION, GROUP_NORM_SILU, INSTANCE_NORM_ACT, GEGLU, ADD_LAYER_NORM)}
    wrong, ran, reasons = [], dict.fromkeys(ways, 0), {}
    for case in CASES[:: 40 if DRY else 1]:
        arguments = tuple(v.to(DEVICE) if isinstance(v, Tensor) else v for v in case.arguments())
        exact, plain = case.exact(*doubled(arguments)), distance(case.plain(*arguments), case.exact(*doubled(arguments)))
        for way in ways:
            try:
                error = distance(run_by(operations[case.room], way)(*arguments), exact)
            except Declined as declined:
                if "failed" in str(declined):
                    wrong.append(f"{case.name} by {way}: {declined}")
                reasons[way] = str(declined)
                continue
            ran[way] += 1
            if not error <= 1.5 * max(plain, 1e-7):
                wrong.append(f"{case.name} by {way}: error {error:.2g}, torch's is {plain:.2g}")
    wrong += [f"{way} took no case at all: {reasons[way]}" for way, count in ran.items() if not count]
    print(f"correctness: {ran} cases, {len(wrong)} wrong")
    return wrong


def run_by(operation: Any, way: str) -> Callable[..., Any]:
    """Under the interpreter the kernels run on the processor, which dispatch would decline."""
    if DRY and way == "triton":
        return importlib.import_module(f"hotpath.kernels.{operation.name}.fwd_triton").forward
    return lambda *arguments: operation(*arguments, way=way)


# ---- tiles and times


def best_tiles(case: Timed, sets: list[tuple], deadline: float) -> None:
    """Try the tiles for what a case asks of the tables, unless that was tried before, and put the fastest into the table in memory."""
    asked: list[tuple] = []
    with tiles(case.plan, None, asked):
        case.plan.prepare(*sets[0], arch=ARCHITECTURE)
    wanted = case.rivals[next(iter(case.rivals))](*sets[0])
    for operation, name, usual in asked:
        known = TABLE.setdefault(operation, {})
        if f"{operation} {name}" in TRIED or time.monotonic() > deadline:
            continue
        TRIED.add(f"{operation} {name}")
        best: tuple[float, tuple] | None = None
        for candidate in dict.fromkeys([usual, *CANDIDATES[operation][: 1 if DRY else None]]):
            with tiles(case.plan, candidate):
                run = run_by(case.operation, "triton")
                try:
                    if distance(run(*sets[0]), wanted) > AGREES[sets[0][0].dtype]:
                        print(f"  {operation} {name} {candidate}: wrong result")
                        continue
                    took = median(clock(run, sets))
                except Exception as error:  # a tile may not fit this GPU
                    print(f"  {operation} {name} {candidate}: {type(error).__name__} {str(error).splitlines()[:1]}")
                    continue
            if best is None or took < best[0]:
                best = took, candidate
        if best:
            known[name] = list(best[1])


def timed(case: Timed, sets: list[tuple], ways: tuple[str, ...], floor: Callable[[Timed], float]) -> dict[str, Any]:
    """One row: every way and rival that runs, and how many times faster than torch's best the chosen one is."""
    row: dict[str, Any] = {"case": case.name}
    runs = {**{way: run_by(case.operation, way) for way in ways}, **case.rivals}
    for name, run in runs.items():
        try:
            row[name] = summary(clock(run, sets))
        except Exception as error:  # a backend may not take a shape
            row[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    if isinstance(row.get(KITCHEN), dict):
        row["comfy_kitchen_off"] = distance(case.rivals[KITCHEN](*sets[0]), next(iter(case.rivals.values()))(*sets[0]))
    theirs = [row[name]["median_us"] for name in case.rivals if name != KITCHEN and isinstance(row[name], dict)]
    ours = [row[name]["median_us"] for name in ways if isinstance(row[name], dict)]
    if ours and theirs:
        row["times_best_of_torch"] = round(min(theirs) / min(ours), 2)
    if ours and isinstance(row.get(KITCHEN), dict):
        row["times_comfy_kitchen"] = round(row[KITCHEN]["median_us"] / min(ours), 2)
    if not DRY:
        row["floor_us"] = round(floor(case), 2)
        case.operation.forget()
        case.operation(*sets[0])
        row["auto"] = case.operation.chosen(*sets[0])
    return row


def machine() -> dict[str, float]:
    """What this GPU reaches in a plain copy and a large product."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    copied = median(graph_us(lambda x, y: y.copy_(x), [(a, a.clone())]))
    product = median(graph_us(torch.mm, [(a, a)]))
    return {"copy_tb_s": round(2 * a.numel() * 2 / copied / 1e6, 2), "matmul_tflop_s": round(2 * 8192**3 / product / 1e6)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="toy sizes on the processor; nothing is written")
    parser.add_argument("--minutes", type=float, default=8, help="stop after this long")
    parser.add_argument("--float16-only", action="store_true")
    parser.add_argument("--keep-tiles", action="store_true", help="time with the tiles there are")
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        print("Expected an NVIDIA GPU, found none; try --dry for a run in miniature.")
        return 2
    start = time.monotonic()
    deadline = start + 60 * options.minutes - 20
    torch.manual_seed(0)
    if options.dry:
        from hotpath.tests.kernels import interpreter

        interpreter.install()
    ways = WAYS[:1] if options.dry else WAYS
    with torch.inference_mode():
        wrong = prove(ways)
        if wrong:
            print(*wrong, sep="\n")
            print("Nothing is timed: results have to be right first.")
            return 1
        speed = {} if options.dry else machine()
        keep = (lambda *row: None) if options.dry else record
        keep("gpu_machine", DEVICE, {**speed, "gates": "green"})

        def floor(case: Timed) -> float:
            return max(case.flops / speed["matmul_tflop_s"], case.bytes / speed["copy_tb_s"]) / 1e6

        rows: list[dict[str, Any]] = []

        def keep_row(benchmark: str, row: dict[str, Any]) -> None:
            rows.append(row)
            keep(benchmark, DEVICE, row)
            print(json.dumps(row), flush=True)

        def operations(dtype: torch.dtype) -> None:
            everything = list(cases(dtype, toy=options.dry))
            for done, case in enumerate(everything):
                if time.monotonic() > deadline:
                    print(f"out of time: {len(everything) - done} of {len(everything)} cases of {dtype} left out")
                    break
                sets = [case.make(DEVICE) for _ in range(COPIES)]
                if not options.keep_tiles:
                    best_tiles(case, sets, start + 60 * options.minutes * 0.6)
                keep_row("gpu_kernels", timed(case, sets, ways, floor))

        operations(torch.float16)
        for name, variants in networks(DEVICE, toy=options.dry):
            if time.monotonic() > deadline:
                print(f"out of time: {name} left out")
                continue
            keep_row("gpu_networks", timed_network(name, variants, dry=options.dry))
        if not options.dry and not options.float16_only:
            operations(torch.bfloat16)
    if not options.dry and not options.keep_tiles:
        tuning.FOLDER.mkdir(exist_ok=True)
        found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "tiles": TABLE}
        (tuning.FOLDER / f"sm_{ARCHITECTURE}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"cases": len(rows), "seconds": round(time.monotonic() - start), "tried": sorted(TRIED)}))
    return int(any("wrong" in row for row in rows))


ARCHITECTURE = architecture(torch.empty(1, device=DEVICE)) if DRY or torch.cuda.is_available() else 0
TABLE = tuning.table(ARCHITECTURE)
TRIED: set[str] = set()

if __name__ == "__main__":
    raise SystemExit(main())
