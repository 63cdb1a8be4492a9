"""Training one concept on a user's pairs, step by step and without a host: what the training node runs.

Closest look of the base, then rank search, then training with a held-out score at every tenth of the way; the best factors so far
are kept. With a number of steps all choices follow from the seed; the checkpoint holds them and everything else, so interrupted +
resumed = uninterrupted.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..engine.e2gan.checkpoint import Base, load_concept, save_concept
from ..engine.e2gan.concept import Concept
from ..engine.errors import InvalidInput, NotWritten, WeightsInvalid
from .looks import under
from .loop import Pairs, Step, Trainer, held_out_losses
from .lora import Factors, attach, factors, generator_of
from .pairs import PairSet
from .perceptual import LPIPS
from .place import Place, read_facts
from .plan import Plan, Update, check_worth_learning, scores_every, split
from .preview import Preview, averaged, picture
from .ranks import Round, numbers_of
from .start import Start, prepare

KEPT_EVERY = 120.0  # seconds at most between two checkpoints


class ConceptRun:
    """One run on `device`. Iterate over `updates()`, then take `best`.

    Checkpoint and best concept lie in a subfolder of `folder` that is named after base, pairs and what was asked for, so runs never mix.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)  # seconds, by which minutes are measured

    def __init__(self, base: Base, pairs: PairSet, lpips: LPIPS, plan: Plan, folder: Path, device: torch.device) -> None:
        self.base, self.plan, self.device = base, plan, device
        self.lpips = lpips.to(device, torch.bfloat16)
        train, held_out = split(pairs)
        check_worth_learning(pairs)
        context = base.neutral_context.unsqueeze(0).to(device)
        self.train, self.held_out = (
            Pairs(chosen.before, [chosen.after], context, [False]) for chosen in (pairs.chosen(train), pairs.chosen(held_out))
        )
        self.place = Place(folder, {"base": base.sha256, "pairs": pairs.fingerprint, **plan.asked})
        self.history: dict[str, list[float]] = {"loss": [], "score": []}
        self.best: Concept | None = None
        self.best_score = math.inf
        self.look, self.story, self.trace, self.trainer = "", "", (), None
        self.note, self.warning = "", ""
        self.preview, self._kept_at, self._kept_best = Preview(), 0.0, None

    # ---- start

    def _start(self, start: Start) -> None:
        self._begin_at(start.look, start.context)
        self.story, self.trace = start.story, start.trace
        self.trainer = self._new_trainer(start.ranks, start.factors, start.steps)

    def _begin_at(self, look: str, context: Tensor) -> None:
        self.look, self.train, self.held_out = look, under(self.train, context), under(self.held_out, context)

    def _new_trainer(self, ranks: Mapping[str, int], start: Factors | None, steps: int) -> Trainer:
        generator = generator_of(self.base, self.device)
        parameters = attach(generator, ranks, self.plan.seed, start)
        settings = self.plan.settings(steps, self.train.photographs.shape[1])
        return Trainer(generator, parameters, self.train, self.lpips, settings)

    # ---- checkpoint

    def keep(self) -> bool:
        """Write best concept and checkpoint, if training has begun. Whether that was done; if not, `warning` may say why.

        Factors that are not finite never replace good ones.
        """
        if self.trainer is None:
            return False
        self._kept_at = self.clock()
        if not all(bool(value.isfinite().all()) for value in self.trainer.parameters.values()):
            self.warning = "the factors are not finite, so the checkpoint stays as it was"
            return False
        facts = {
            "identity": self.place.identity,
            "asked": self.place.asked,
            "step": self.trainer.step,
            "steps": self.trainer.settings.steps,
            "ranks": self._ranks(),
            "look": self.look,
            "story": self.story,
            "trace": [asdict(found) for found in self.trace],
            "history": self.history,
            "best_score": self.best_score,
        }
        try:
            if self.best is not self._kept_best:
                save_concept(self.place.best, self.best, overwrite=True)
                self._kept_best = self.best
            self.trainer.save(self.place.checkpoint, {"hotpath": json.dumps(facts)})
        except NotWritten as error:
            self.warning = f"checkpoint not written ({error.__cause__})"
            return False
        self.warning = ""
        return True

    def resume(self) -> bool:
        """Go on from this run's checkpoint, if there is one; one of another run is refused. `note` says what was found."""
        if not self.place.checkpoint.is_file():
            terms = self.place.new_terms()
            self.note = f"begins anew: {terms}" if terms else ""
            return False
        try:
            self._resume()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise WeightsInvalid(
                f"Expected a checkpoint in {self.place.folder}, but it is damaged ({type(error).__name__}: {error}): "
                "delete it, or switch resume off to start anew."
            ) from error
        done, total = self.trainer.step, self.trainer.settings.steps
        self.note = f"resumed at step {done}" if done < total else "trained before, resume off trains anew"
        return True

    def _resume(self) -> None:
        facts = read_facts(self.place.checkpoint)
        if facts["identity"] != self.place.identity:
            raise InvalidInput(
                f"The checkpoint in {self.place.folder} is of other pairs, another base or other settings than these: "
                "take it away, or switch resume off to start anew."
            )
        self.history, self.story = facts["history"], facts["story"]
        self._begin_at(facts["look"], {"": self.base.neutral_context, **self.base.looks}[facts["look"]])
        self.trace = tuple(Round(**found) for found in facts["trace"])
        self.trainer = self._new_trainer(facts["ranks"], None, facts["steps"])
        self.trainer.resume(self.place.checkpoint)
        if facts["best_score"] < math.inf and self.place.best.is_file():  # without it the next score is the best again
            self.best_score, self.best = facts["best_score"], self._stored_best()
            self._kept_best = self.best

    def _stored_best(self) -> Concept:
        try:
            concept = load_concept(self.place.best)
        except WeightsInvalid as error:
            raise WeightsInvalid(
                f"Expected the best concept so far in {self.place.best}, but it is damaged: delete that folder, or switch resume off, "
                "to begin anew."
            ) from error
        info = {**concept.info, "prompt": self.plan.prompt, "plan": asdict(self.plan)}
        return replace(concept, name=self.plan.name, info=info)

    # ---- the run

    def updates(self) -> Iterator[Update]:
        """Train to the end, telling of each step. Stop iterating at any time; `keep` keeps the place."""
        if self.trainer is None:
            for event in prepare(self.base, self.train, self.held_out, self.lpips, self.plan, self.clock):
                if isinstance(event, Update):
                    yield replace(event, note=self.note)
                else:
                    self._start(event)
            self.keep()
        first, began, total = self.trainer.step, time.perf_counter(), self.trainer.settings.steps
        self._kept_at = self.clock()
        for step in self.trainer.steps():
            self.history["loss"].append(step.losses["l1"] + step.losses["lpips"])
            rate = (step.index - first) / (time.perf_counter() - began)
            score = self._score(step) if step.index % scores_every(total) == 0 or step.index == total else None
            if score is not None or self.clock() - self._kept_at > KEPT_EVERY:
                self.keep()
            shown = self.preview(self.picture)
            yield Update("training", step.index, total, step.losses, rate, score, shown, self.note, self.warning)
        if self.best is None:
            self._score(Step(total, {}))
            self.keep()

    def _score(self, step: Step) -> float:
        with averaged(self.trainer):
            losses = held_out_losses(self.trainer.generator, self.held_out, self.lpips)
        score = sum(losses.values())
        self.history["score"].append(score)
        if score < self.best_score:
            self.best_score, self.best = score, self._concept(losses, step.index)
        return score

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

    @property
    def summary(self) -> str:
        """What came out, the most important first: nodes of the classic design show two lines."""
        info, scores = self.best.info, ", ".join(f"{score:.3f}" for score in self.history["score"])
        parts = [
            f"best {self.best_score:.3f} at step {info['step']} of {self.trainer.settings.steps}",
            self.warning,
            self.note,
            f"{info['pictures']} pairs trained on, {info['held_out_pictures']} held out",
            f"{self.story}; {info['numbers']:,} parameters",
            f"held-out L1 + LPIPS {scores}",
        ]
        return "; ".join(filter(None, parts)) + "."

    def picture(self) -> Tensor:
        """Before | teacher | student of up to two held-out pictures, uint8 [H, W, 3]."""
        return picture(self.trainer, self.held_out)
