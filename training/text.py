"""Prompts to text contexts: token states of all-MiniLM-L6-v2, stored in every concept so that inference needs no encoder."""

from functools import cache

import torch
from torch import Tensor

from .sources import Packages
from .teachers import CONCEPT_POOL

TOKENS = 16


@cache
def _states(prompts: tuple[str, ...], packages: Packages) -> Tensor:
    """Last hidden states [N, 16, 384]; a short prompt's tokens are repeated, a long prompt is cut."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packages.minilm, local_files_only=True)
    model = AutoModel.from_pretrained(packages.minilm, local_files_only=True).eval()
    rows = []
    for prompt in prompts:
        with torch.inference_mode():
            tokens = model(**tokenizer(prompt, return_tensors="pt")).last_hidden_state[0]
        rows.append(tokens.repeat(-(-TOKENS // len(tokens)), 1)[:TOKENS])
    return torch.stack(rows).clone()


def encode(prompts: list[str], packages: Packages) -> Tensor:
    """Text contexts [N, 16, 384] float32, standardised by the states of the concept pool's prompts.

    Raw states share most of their length; without that common part, prompts differ by as much as they are long.
    """
    pool = _states(tuple(concept.prompt for concept in CONCEPT_POOL), packages).flatten(0, 1)
    return (_states(tuple(prompts), packages) - pool.mean(0)) / pool.std(0)
