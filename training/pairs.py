"""Pairs of pictures before and after an edit: checked, made square, named."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.errors import InvalidInput

MEMORY = 2 * 2**30  # bytes of all pairs together: 5,461 at 256 px
SIDES = (64, 1024)


@dataclass(frozen=True)
class Pair:
    """One edit: uint8 [H, W, 3] before and after."""

    name: str
    before: Tensor
    after: Tensor

    @property
    def key(self) -> str:
        """Equal for pairs with the same pixels."""
        return hashlib.sha256(self.before.numpy().tobytes() + self.after.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of one size, what the edit is, and a sentence for each pair that was refused. Immutable; `plus` gives a new one."""

    pairs: tuple[Pair, ...] = ()
    prompt: str = ""
    refused: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def before(self) -> Tensor:
        """uint8 [N, S, S, 3]."""
        return torch.stack([pair.before for pair in self.pairs])

    @property
    def after(self) -> Tensor:
        """uint8 [N, S, S, 3]."""
        return torch.stack([pair.after for pair in self.pairs])

    @property
    def fingerprint(self) -> str:
        """Equal for the same pairs in the same order."""
        return hashlib.sha256("".join(pair.key for pair in self.pairs).encode()).hexdigest()

    def at(self, side: int) -> "PairSet":
        """The same pairs as squares of `side` px."""
        if all(pair.before.shape[0] == side for pair in self.pairs):
            return self
        scaled = (Pair(pair.name, square(pair.before, side), square(pair.after, side)) for pair in self.pairs)
        return replace(self, pairs=tuple(scaled))

    def chosen(self, indices: Iterable[int]) -> "PairSet":
        return PairSet(tuple(self.pairs[index] for index in indices), self.prompt)

    def plus(self, candidates: Iterable[tuple[str, Tensor, Tensor]], side: int) -> "PairSet":
        """Add pairs of pictures (name, before [H, W, C], after [H, W, C]; floats in 0..1 or uint8) as squares of `side` px.

        Pairs held in another size are scaled to it. Pairs already there, pairs of two sizes, and pictures that cannot be used are
        refused, each with a sentence.
        """
        if not SIDES[0] <= side <= SIDES[1] or side % 16:
            raise InvalidInput(f"Expected a side from {SIDES[0]} to {SIDES[1]} px, a multiple of 16, got {side}.")
        _check_room(len(self), side)
        pairs, refused = list(self.at(side).pairs), []
        known, names = {pair.key: pair.name for pair in pairs}, {pair.name for pair in pairs}
        for name, before, after in candidates:
            if before.shape[:2] != after.shape[:2]:
                (h, w), (h2, w2) = before.shape[:2], after.shape[:2]
                refused.append(f"{name}: before is {w} x {h} px, after {w2} x {h2} px; make both the same size.")
                continue
            if not all(torch.isfinite(picture).all() for picture in (before, after) if picture.is_floating_point()):
                refused.append(f"{name}: it holds values that are not finite (NaN or infinity).")
                continue
            try:
                pair = Pair(free_name(name, names), square(before, side), square(after, side))
            except InvalidInput as error:
                refused.append(f"{name}: {error}")
                continue
            if pair.key in known:
                refused.append(f"{name}: the same pictures as {known[pair.key]}.")
                continue
            known[pair.key] = pair.name
            names.add(pair.name)
            pairs.append(pair)
            _check_room(len(pairs), side)
        return PairSet(tuple(pairs), self.prompt, tuple(refused))


def _check_room(count: int, side: int) -> None:
    most = MEMORY // (6 * side * side)
    if count > most:
        raise InvalidInput(f"Expected at most {most} pairs of {side} px, got more: about 100 well chosen ones are enough.")


def free_name(name: str, taken: set[str]) -> str:
    """A file name from a wish: letters, digits, dash and underscore, and a number where it is taken."""
    clean = re.sub(r"[^\w-]+", "_", name).strip("_")[:80].encode()[:160].decode(errors="ignore") or "pair"
    number, candidate = 2, clean
    while candidate in taken:
        candidate, number = f"{clean}_{number}", number + 1
    return candidate


def square(picture: Tensor, side: int) -> Tensor:
    """[H, W, C] floats in 0..1 or uint8 to uint8 [side, side, 3]: scaled to cover the square, cut around the centre.

    Of a side more than four times the other, the ends are cut off first: scaled whole, a thin picture would take gigabytes.
    """
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4) or min(picture.shape[:2]) < 1:
        raise InvalidInput(f"Expected a picture [H, W, 3], got {list(picture.shape)}: make it an RGB picture.")
    picture = _shortened(picture)[..., :3].expand(-1, -1, 3)
    floats = picture.float() / 255 if picture.dtype == torch.uint8 else picture.float().clamp(0, 1)
    height, width = picture.shape[:2]
    scale = side / min(height, width)
    size = max(side, round(height * scale)), max(side, round(width * scale))
    chw = floats.permute(2, 0, 1).unsqueeze(0).cpu()
    if size != (height, width):
        chw = F.interpolate(chw, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    cut = chw[0, :, top : top + side, left : left + side].permute(1, 2, 0)
    return (cut.clamp(0, 1) * 255).round().byte().contiguous()


def _shortened(picture: Tensor) -> Tensor:
    """[H, W, C] cut around the centre to about 4:1: an even number of pixels goes, and some more than bicubic scaling sees stay."""
    for axis in (0, 1):
        spare = max(0, picture.shape[axis] - 4 * min(picture.shape[:2]) - 4) // 2
        picture = picture.narrow(axis, spare, picture.shape[axis] - 2 * spare)
    return picture
