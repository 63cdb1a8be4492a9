"""Training one concept on a user's pairs, step by step and without a host: what the training node runs.

Closest look of the base, then rank search, then training with a held-out score at every tenth of the way; the best factors so far
are kept. All choices follow from the seed, and the checkpoint holds everything else, so interrupted + resumed = uninterrupted.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engine.e2gan.checkpoint import Base, load_concept, save_concept
from ..engine.e2gan.concept import DEFAULT_RANKS, Concept
from ..engine.errors import InvalidInput, WeightsInvalid
from .grid import to_uint8
from .looks import looks
from .loop import Pairs, Settings, Step, Trainer, held_out_losses, to_signed
from .lora import Factors, attach, factors, generator_of
from .pairs import PairSet
from .perceptual import LPIPS
from .plan import Plan, Update, check_worth_learning, split
from .ranks import ROUND_STEPS, ROUNDS, Found, Round, numbers_of, search

SCORES, LEAST_APART = 10, 30  # held-out scores in a run, and steps between two of them
PREVIEW_SHARE = 0.01  # of the time may go into previews
NUMBERS = 87_616  # of all factors together, as many as the default ranks: a file stays below 0.2 MB


class ConceptRun:
    """One run on `device`. Iterate over `updates()`, then take `best`.

    Checkpoint and best concept lie in a subfolder of `folder` that is named after base, pairs and plan, so runs never mix.
    """

    def __init__(self, base: Base, pairs: PairSet, lpips: LPIPS, plan: Plan, folder: Path, device: torch.device) -> None:
        self.base, self.plan, self.device = base, plan, device
        self.lpips = lpips.to(device, torch.bfloat16)
        train, held_out = split(pairs)
        check_worth_learning(pairs)
        context = base.neutral_context.unsqueeze(0).to(device)
        self.train, self.held_out = (
            Pairs(chosen.before, [chosen.after], context, [False]) for chosen in (pairs.chosen(train), pairs.chosen(held_out))
        )
        self.identity = hashlib.sha256(
            json.dumps([base.sha256, pairs.fingerprint, {**asdict(plan), "name": ""}], sort_keys=True).encode()
        ).hexdigest()
        self.folder = folder / self.identity[:12]
        self.history: dict[str, list[float]] = {"loss": [], "score": []}
        self.best: Concept | None = None
        self.best_score = float("inf")
        self.look, self.trace, self.trainer = "", (), None
        self._last_preview, self._preview_cost = 0.0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    # ---- start

    def _begin_at(self, look: str, context: Tensor) -> None:
        self.look = look
        contexts = context.half().float().unsqueeze(0).to(self.device)
        self.train, self.held_out = (replace(pairs, contexts=contexts) for pairs in (self.train, self.held_out))

    def _steps(self, spent: float) -> int:
        """Steps of the plan; what is left of a budget in minutes is turned into steps by timing a few that are thrown away."""
        if self.plan.steps:
            return self.plan.steps
        trainer = self._new_trainer(DEFAULT_RANKS, None, 100)
        trainer.train_step()
        start = time.perf_counter()
        for _ in range(3):
            trainer.train_step()
        return max(SCORES, round(3 * (self.plan.minutes * 60 - spent) / (time.perf_counter() - start)))

    def _new_trainer(self, ranks: Mapping[str, int], start: Factors | None, steps: int) -> Trainer:
        generator = generator_of(self.base, self.device)
        parameters = attach(generator, ranks, self.plan.seed, start)
        return Trainer(generator, parameters, self.train, self.lpips, self._settings(steps))

    def _settings(self, steps: int) -> Settings:
        return self.plan.settings(steps, self.train.photographs.shape[1])

    # ---- checkpoint

    def save(self) -> None:
        """Write the checkpoint, if training has begun; one without finite numbers never replaces a good one."""
        if self.trainer is None or not all(bool(value.isfinite().all()) for value in self.trainer.parameters.values()):
            return
        facts = {
            "identity": self.identity,
            "steps": self.trainer.settings.steps,
            "ranks": self._ranks(),
            "look": self.look,
            "trace": [asdict(found) for found in self.trace],
            "history": self.history,
            "best_score": self.best_score,
        }
        self.trainer.save(self.checkpoint, {"hotpath": json.dumps(facts)})

    def resume(self) -> bool:
        """Go on from this run's checkpoint, if there is one; one of another run is refused."""
        if not self.checkpoint.is_file():
            return False
        try:
            return self._resume()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise WeightsInvalid(
                f"Expected a checkpoint in {self.folder}, but it is damaged ({type(error).__name__}: {error}): "
                "delete it, or switch resume off to start anew."
            ) from error

    def _resume(self) -> bool:
        with safe_open(self.checkpoint, "pt") as file:
            facts = json.loads(file.metadata()["hotpath"])
        if facts["identity"] != self.identity:
            raise InvalidInput(
                f"The checkpoint in {self.folder} is of other pairs, another base or other settings than these: "
                "take it away, or switch resume off to start anew."
            )
        self.history = facts["history"]
        self._begin_at(facts["look"], {"": self.base.neutral_context, **self.base.looks}[facts["look"]])
        self.trace = tuple(Round(**found) for found in facts["trace"])
        self.trainer = self._new_trainer(facts["ranks"], None, facts["steps"])
        self.trainer.resume(self.checkpoint)
        if (self.folder / "best.safetensors").is_file():  # without it the next score is the best again
            self.best_score = facts["best_score"]
            self.best = replace(load_concept(self.folder / "best.safetensors"), name=self.plan.name)
        return True

    # ---- the run

    def updates(self) -> Iterator[Update]:
        """Train to the end, telling of each step. Stop iterating at any time; `save` keeps the place."""
        if self.trainer is None:
            began, ranks, start = time.perf_counter(), DEFAULT_RANKS, None
            for done, total, closest in looks(self.base, self.train, self.lpips):
                self._begin_at(*closest)
                yield Update("choosing a look to start from", done, total, {})
            if self.plan.searched:
                for event in search(self.base, self.train, self.held_out, self.lpips, self._settings(1), budget=NUMBERS):
                    if isinstance(event, Found):
                        ranks, start, self.trace = event.ranks, event.factors, event.trace
                    else:
                        yield Update("searching ranks", event.index, ROUNDS * ROUND_STEPS, event.losses)
            self.trainer = self._new_trainer(ranks, start, self._steps(time.perf_counter() - began))
        first, began, total = self.trainer.step, time.perf_counter(), self.trainer.settings.steps
        for step in self.trainer.steps():
            self.history["loss"].append(step.losses["l1"] + step.losses["lpips"])
            rate = (step.index - first) / (time.perf_counter() - began)
            yield Update("training", step.index, total, step.losses, rate, self._score(step), self._preview())
        if self.best is None:
            self._score(Step(total, {}), always=True)

    def _score(self, step: Step, always: bool = False) -> float | None:
        every = max(LEAST_APART, self.trainer.settings.steps // SCORES)
        if not always and step.index % every and step.index != self.trainer.settings.steps:
            return None
        with self._averaged():
            losses = held_out_losses(self.trainer.generator, self.held_out, self.lpips)
        score = sum(losses.values())
        self.history["score"].append(score)
        if score < self.best_score:
            self.best_score, self.best = score, self._concept(losses, step.index)
            save_concept(self.folder / "best.safetensors", self.best, overwrite=True)
        self.save()
        return score

    def _averaged(self) -> "_Averaged":
        return _Averaged(self.trainer)

    def _ranks(self) -> dict[str, int]:
        return {layer: len(a) for layer, (a, _) in factors(self.trainer.ema).items()}

    def _concept(self, losses: Mapping[str, float], step: int) -> Concept:
        ranks = self._ranks()
        info = {
            "prompt": self.plan.prompt,
            "teacher": "pairs given by the user",
            "teacher_licence": "that of the pairs",
            "seen_by_base": False,
            "start_look": self.look,
            "pictures": len(self.train.photographs),
            "held_out_pictures": len(self.held_out.photographs),
            "held_out": {name: round(value, 4) for name, value in losses.items()},
            "step": step,
            "plan": asdict(self.plan),
            "numbers": numbers_of(ranks, self.base.weights),
            "rank_search": [
                {"numbers": found.numbers, "loss": round(found.loss, 4), "ranks": list(found.ranks.values())}
                for found in self.trace
            ],
        }
        rounded = {layer: (a.half().float(), b.half().float()) for layer, (a, b) in factors(self.trainer.ema).items()}
        return Concept(self.plan.name, rounded, self.train.contexts[0].half().float().cpu(), self.base.sha256, info)

    def _preview(self) -> Tensor | None:
        """The picture, as often as its share of the time allows."""
        start = time.perf_counter()
        if start - self._last_preview < self._preview_cost / PREVIEW_SHARE:
            return None
        grid = self.picture()
        self._last_preview = time.perf_counter()
        self._preview_cost = self._last_preview - start
        return grid

    @property
    def summary(self) -> str:
        info, scores = self.best.info, ", ".join(f"{score:.3f}" for score in self.history["score"])
        return (
            f"{info['pictures']} pairs trained on, {info['held_out_pictures']} held out; began at {info['start_look'] or 'the photograph'}; "
            f"{info['numbers']} numbers; best at step {info['step']} of {self.trainer.settings.steps}; held-out L1 + LPIPS: {scores}."
        )

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Before | teacher | student of up to two held-out pictures, uint8 [H, W, 3]."""
        rows = min(2, len(self.held_out.photographs))
        before, after = self.held_out.photographs[:rows], self.held_out.edits[0][:rows]
        with self._averaged(), torch.autocast(self.device.type, torch.bfloat16):
            student = self.trainer.generator(to_signed(before.to(self.device)), self.held_out.contexts.expand(rows, -1, -1))
        return torch.cat(list(torch.cat([before, after, to_uint8(student)], 2)))


class _Averaged:
    """The averaged factors in the generator for a while, then the trained ones again."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        for name, parameter in self.trainer.parameters.items():
            parameter.data, self.trainer.ema[name] = self.trainer.ema[name], parameter.data
