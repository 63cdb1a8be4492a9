"""One run over several processes, through Hugging Face accelerate:

    accelerate launch --num_processes 2 -m hotpath.training.base --out RUN

Every process draws the same global batch and works on its part of it; gradients are averaged before each step, so all weights stay
equal, and N processes of batch B do what one process of batch N * B does.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

PATIENCE_S = 300


class Alone:
    """One process."""

    rank, world = 0, 1

    def first(self) -> AbstractContextManager:
        """A block that the first process runs before the others, for instance to fetch what all of them read."""
        return nullcontext()

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""

    def end(self) -> None:
        """Leave together, at the end of a run that went well."""


class Together:
    """One of several processes started by `accelerate launch`."""

    def __init__(self) -> None:
        from datetime import timedelta

        from accelerate import Accelerator, InitProcessGroupKwargs

        patience = InitProcessGroupKwargs(timeout=timedelta(seconds=PATIENCE_S))
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes

    def first(self) -> AbstractContextManager:
        return self.accelerator.main_process_first()

    def average(self, tensors: Iterable[Tensor]) -> None:
        tensors = list(tensors)
        together = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        try:
            together = self.accelerator.reduce(together, reduction="mean")
        except (RuntimeError, ValueError) as error:
            raise SystemExit(
                f"Expected all {self.world} processes of this run to take part in each step, but one is gone ({str(error).splitlines()[0]}): "
                "start again with --resume."
            ) from error
        for tensor, mean in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def end(self) -> None:
        """Without it a process that leaves late finds the others gone and aborts."""
        self.accelerator.wait_for_everyone()
        torch.distributed.destroy_process_group()


def spread() -> Alone | Together:
    """How this process was started."""
    return Together() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()
