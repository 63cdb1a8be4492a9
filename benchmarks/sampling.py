"""SD1.5 of random weights through ComfyUI in this process: as shipped next to the Accelerate node, and the VAE's decode."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from hotpath.benchmarks.record import record
from hotpath.engine.errors import WeightsMissing
from hotpath.tests.comfy.inside import accelerated, in_16_bits, random_model, random_vae, sample, start_comfyui, watched

STEPS, SIDE = 8, 512


def seconds(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def in_turns(rivals: dict[str, Callable[[], object]], rounds: int) -> tuple[dict[str, float], dict[str, object]]:
    """The median of a few rounds in which each has its turn, and what each gave; what is slow here needs no warming up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    results = {}
    for _ in range(rounds):
        for name, run in rivals.items():
            took, results[name] = seconds(run)
            times[name].append(took)
    return {name: round(sorted(taken)[len(taken) // 2], 2) for name, taken in times.items()}, results


def psnr(picture: torch.Tensor, wanted: torch.Tensor) -> float:
    """Decibels between pictures in 0..1."""
    return round(float(-10 * torch.log10((picture - wanted).square().mean())), 1)


def sampling(rounds: int) -> None:
    model, vae = random_model(), random_vae()
    fast, fast_vae, report = accelerated(model, vae)
    latent = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    calls: list[float] = []

    def timed(executor, *args, **kwargs):
        took, result = seconds(lambda: executor(*args, **kwargs))
        calls.append(took)
        return result

    first, _ = seconds(lambda: sample(fast, latent, STEPS))
    sample(model, latent, 1)
    rivals = {"shipped_s": lambda: sample(model, latent, STEPS), "accelerated_s": lambda: sample(fast, latent, STEPS)}
    times, found = in_turns(rivals, rounds)
    whole, _ = seconds(lambda: sample(watched(fast, timed), latent, STEPS))
    wanted = vae.decode(found["shipped_s"])
    row = {
        "steps": STEPS,
        "side_px": SIDE,
        "report": report,
        **times,
        "times_shipped": round(times["shipped_s"] / times["accelerated_s"], 2),
        "first_run_s": round(first, 2),
        "psnr_after_decode_db": psnr(vae.decode(found["accelerated_s"]), wanted),
        "load_average": round(os.getloadavg()[0], 1),  # about 2 when nothing else runs on two cores
        "outside_model_calls_percent": round(100 * (whole - sum(calls)) / whole, 2),
    }
    record("sampling", "cpu", row)
    sys.stdout.write(f"8 steps: {row}\n")
    decoded = found["shipped_s"]
    fast_vae.decode(decoded)
    rivals = {"shipped_s": lambda: vae.decode(decoded), "accelerated_s": lambda: fast_vae.decode(decoded)}
    times, found = in_turns(rivals, max(3, rounds))
    row = {"side_px": SIDE, **times, "times_shipped": round(times["shipped_s"] / times["accelerated_s"], 2)}
    row["psnr_db"] = psnr(found["accelerated_s"], found["shipped_s"])
    record("vae_decode", "cpu", row)
    sys.stdout.write(f"VAE decode: {row}\n")


def against_plain(rounds: int) -> None:
    """A step next to what a few settings give without our code: bfloat16, channels_last, torch's SDPA."""
    plain = in_16_bits(random_model())
    fast, latent = accelerated(random_model())[0], torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    rivals = {"plain_s": lambda: sample(plain, latent, 4), "accelerated_s": lambda: sample(fast, latent, 4)}
    in_turns(rivals, 1)
    times, _ = in_turns(rivals, max(5, rounds))
    row = {name: round(seconds / 4, 3) for name, seconds in times.items()}
    row["percent_under_plain"] = round(100 * (1 - row["accelerated_s"] / row["plain_s"]), 1)
    record("sampling_step", "cpu", {"side_px": SIDE, **row})
    sys.stdout.write(f"a step: {row}\n")


def run(rounds: int) -> None:
    """rounds: 8-step runs of each; one as shipped takes about a minute on two cores."""
    tree = os.environ.get("HOTPATH_COMFYUI")
    if not tree:
        raise WeightsMissing(
            "Expected HOTPATH_COMFYUI to name a ComfyUI folder, got nothing; run it by `python tools/dev.py bench`."
        )
    with tempfile.TemporaryDirectory() as folder:
        for name in ("custom_nodes", "input", "output"):
            (Path(folder) / name).mkdir()
        start_comfyui(Path(tree), Path(folder))
        with torch.inference_mode():
            sampling(rounds)
            against_plain(rounds)
