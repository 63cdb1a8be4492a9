"""Which of an operation's ways runs: declared constraints with reasons, one decision per kind of arguments, no silent fallback.

A way is one implementation. An operation has them in order of preference; the last one (plain torch) takes everything. What is
decided depends on shapes, strides, dtypes, devices, alignment and options only, so it is decided once and remembered.
"""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("hotpath")

KEPT = 4096  # decisions remembered by one operation before it starts anew
ALIGNMENT = 16  # bytes; what vector loads need
# Distance to plain torch, relative root mean square, up to which a way is taken in a contest.
AGREES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class Declined(RuntimeError):
    """A way that was asked for by name cannot take these arguments, or failed on them."""


class InvalidArguments(ValueError):
    """Arguments that no way of an operation can take."""


def always(*arguments: object) -> None:
    """The constraint of what takes everything."""


@dataclass(frozen=True)
class Way:
    """name: what to ask for it by. load: imports and returns the function. why_not: the reason it cannot take arguments, or None."""

    name: str
    load: Callable[[], Callable[..., Any]]
    why_not: Callable[..., str | None] = always


class Operation:
    """`operation(*arguments)` runs the best way that takes them; `operation(*arguments, way=name)` that way or `Declined`.

    check: raises where no way can take the arguments; asked once a kind, before any way is.
    contest: where several ways take the arguments, the first call of a kind runs and times each, and the fastest that agrees with
    the last one is kept. Otherwise order decides. A way that fails is dropped for that kind of arguments, and the next one
    answers; memory running out is not a failure of a way.
    """

    def __init__(self, name: str, ways: Sequence[Way], check: Callable[..., None] = always, *, contest: bool = False) -> None:
        self.name, self.ways, self.check, self.contest = name, tuple(ways), check, contest
        self._loaded: dict[str, Callable[..., Any] | str] = {}
        self.forget()

    def forget(self) -> None:
        """Decide everything anew."""
        self._decisions: dict[Hashable, Way] = {}
        self._failed: dict[Hashable, dict[str, str]] = {}

    def __call__(self, *arguments: Any, way: str = "auto") -> Any:
        if way != "auto":
            return self._run_named(way, arguments)
        key = kind(arguments)
        chosen = self._decisions.get(key)
        if chosen is None:
            return self._decide(key, arguments)
        return self._attempt(key, chosen, arguments)

    def explain(self, *arguments: Any) -> str:
        """What would run and why, one line a way. Runs nothing."""
        self.check(*arguments)
        key = kind(arguments)
        chosen, lines = self._decisions.get(key), []
        for way in self.ways:
            reason = self._reason(way, key, arguments)
            if reason is None and chosen is None:
                chosen = None if self._contested(key, arguments) else way
                said = "runs" if chosen else "takes part in a contest on first use"
            else:
                said = f"declined: {reason}" if reason else "runs" if way is chosen else "could run"
            lines.append(f"  {way.name}: {said}")
        return "\n".join([f"{self.name}:", *lines])

    def chosen(self, *arguments: Any) -> str | None:
        """Name of the way remembered for this kind of arguments, or None before its first use."""
        way = self._decisions.get(kind(arguments))
        return way and way.name

    # ---- deciding

    def _run_named(self, name: str, arguments: tuple) -> Any:
        named = {way.name: way for way in self.ways}
        if name not in named:
            raise InvalidArguments(f"Expected a way of {self.name} out of auto, {', '.join(named)}, got '{name}'.")
        way = named[name]
        self.check(*arguments)
        reason = way.why_not(*arguments) or self._missing(way)
        if reason:
            raise Declined(f"{self.name} cannot run by '{name}' because {reason}; use 'auto' or another way.")
        try:
            return self._loaded[name](*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise Declined(f"{self.name} failed by '{name}': {_line(error)}; use 'auto' or another way.") from error

    def _reason(self, way: Way, key: Hashable, arguments: tuple) -> str | None:
        failed = self._failed.get(key, {}).get(way.name)
        return failed or way.why_not(*arguments) or self._missing(way)

    def _missing(self, way: Way) -> str | None:
        """Why a way cannot be loaded on this machine; tried once."""
        if way.name not in self._loaded:
            try:
                self._loaded[way.name] = way.load()
            except ImportError as error:
                self._loaded[way.name] = f"{error.name or 'a part'} is not installed"
            except Exception as error:  # a broken installation may raise anything
                self._loaded[way.name] = f"it cannot be loaded: {_line(error)}"
        loaded = self._loaded[way.name]
        return loaded if isinstance(loaded, str) else None

    def _able(self, key: Hashable, arguments: tuple) -> list[Way]:
        able = [way for way in self.ways if self._reason(way, key, arguments) is None]
        if not able:
            raise Declined(self.explain(*arguments))
        return able

    def _contested(self, key: Hashable, arguments: tuple) -> bool:
        return self.contest and len(self._able(key, arguments)) > 1

    def _decide(self, key: Hashable, arguments: tuple) -> Any:
        self.check(*arguments)
        if len(self._decisions) >= KEPT:
            self.forget()
        able = self._able(key, arguments)
        if not self.contest or len(able) == 1:
            self._decisions[key] = able[0]
            return self._attempt(key, able[0], arguments)
        if capturing():  # nothing may be timed or compiled here; ask again outside of it
            return self._loaded[able[-1].name](*arguments)
        result, best = self._hold_contest(key, able, arguments)
        if best is not None:
            self._decisions[key] = best
        return result

    def _hold_contest(self, key: Hashable, able: list[Way], arguments: tuple) -> tuple[Any, Way | None]:
        """The fastest way whose result agrees with the last one's, and its result: the bits of the first call are those of later ones.

        None in place of the way where memory ran out: that is not a failure of a way, and the next call asks again.
        """
        plain = able[-1]
        wanted = answer = self._loaded[plain.name](*arguments)
        best, best_seconds = plain, seconds(lambda: self._loaded[plain.name](*arguments), arguments)
        for way in able[:-1]:
            run = self._loaded[way.name]
            try:
                result = run(*arguments)
                off, allowed = distance(result, wanted), AGREES[_dtype(wanted)]
                if not off <= allowed:
                    self._drop(key, way, f"its result is {off:.2g} away from torch's, over {allowed:.2g}")
                    continue
                took = seconds(lambda run=run: run(*arguments), arguments)
            except torch.OutOfMemoryError:
                return wanted, None
            except Exception as error:  # compilers and drivers raise anything
                self._drop(key, way, f"it failed: {_line(error)}")
                continue
            if took < best_seconds:
                best, best_seconds, answer = way, took, result
        return answer, best

    def _attempt(self, key: Hashable, way: Way, arguments: tuple) -> Any:
        while True:
            try:
                return self._loaded[way.name](*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                if way is self.ways[-1]:
                    raise
                self._drop(key, way, f"it failed: {_line(error)}")
            way = self._decisions[key] = self._able(key, arguments)[0]

    def _drop(self, key: Hashable, way: Way, reason: str) -> None:
        self._failed.setdefault(key, {})[way.name] = reason
        log.warning("%s no longer runs by '%s' for arguments of this kind because %s.", self.name, way.name, reason)


def explain(operation: Operation, *arguments: Any) -> str:
    """What would run and why, one line a way. Runs nothing."""
    return operation.explain(*arguments)


# ---- what a decision depends on


def kind(arguments: tuple) -> Hashable:
    """All that a decision may depend on: of tensors their form and place, of anything else its value."""
    learning = torch.is_grad_enabled()
    return tuple([_form(value, learning) if isinstance(value, Tensor) else value for value in arguments])


def _form(tensor: Tensor, learning: bool) -> Hashable:
    aligned = tensor.data_ptr() % ALIGNMENT == 0
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device, aligned, learning and tensor.requires_grad


def capturing() -> bool:
    """Whether a CUDA graph is being recorded."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def seconds(run: Callable[[], object], arguments: tuple, repeats: int = 5) -> float:
    """Shortest of some runs; the device has finished when the clock stops."""
    devices = {value.device for value in arguments if isinstance(value, Tensor) and value.device.type == "cuda"}
    best = float("inf")
    for _ in range(repeats):
        for device in devices:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        for device in devices:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def distance(result: Any, wanted: Any) -> float:
    """Largest relative root mean square difference of tensors or tuples of them; not a number where either holds none."""
    if isinstance(wanted, tuple):
        return max(distance(a, b) for a, b in zip(result, wanted, strict=True))
    off = (result.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-12)
    return float(off.nan_to_num(float("inf"), float("inf")))


def _dtype(result: Any) -> torch.dtype:
    return (result[0] if isinstance(result, tuple) else result).dtype


def _line(error: Exception) -> str:
    """First line of an error's text, for a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}{': ' + lines[0].rstrip('.') if lines else ''}"
