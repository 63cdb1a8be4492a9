"""Names of tensors by what is in them."""

from __future__ import annotations

import torch
from hotpath.engine.contents import Contents

A, B = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


def test_equal_entries_have_one_name_wherever_they_stand() -> None:
    names = Contents()
    a, b = names.names(torch.stack([A, B]))
    assert a != b
    assert names.names(torch.stack([B, A, B])) == (b, a, b)


def test_the_smallest_difference_the_shape_and_the_format_count() -> None:
    names = Contents()
    other = A.clone()
    other[4, 2] = torch.nextafter(other[4, 2], torch.tensor(9.0))
    tensors = [A, other, A[:4], A.bfloat16(), A.double()]
    assert len({names.names(t[None]) for t in tensors}) == 5


def test_what_is_written_to_afterwards_gets_another_name() -> None:
    names, tensor = Contents(), A.clone()[None]
    before = names.names(tensor)
    tensor.mul_(2)
    assert names.names(tensor) != before
    assert names.names(A[None]) == before


def test_what_is_not_a_number_equals_nothing() -> None:
    names, tensor = Contents(), torch.full((1, 3), float("nan"))
    assert names.names(tensor) != names.names(tensor)


def test_the_oldest_are_forgotten_and_their_names_not_used_again() -> None:
    names = Contents(kept=2)
    first = names.names(A[None])
    for i in range(3):
        names.names(A[None] + 1 + i)
    assert names.names(A[None]) != first
    assert len(names._known) == 2
