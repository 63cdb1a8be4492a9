"""A concept: low-rank changes (LoRA, Hu et al. 2021) to the generator's crucial layers, and its text context.

After E2GAN (arXiv 2401.06127): LoRA on Downsample, DS, TB, US and Upsample, none on the ResNet blocks. Ranks differ by layer.
Tensor names are peft's, so peft can load a concept file. For a layer with weight W [out, in, k, k]:

    A [r, in, k, k], B [out, r, 1, 1],   W' = W + strength * (B A)     (linear layers without k)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import ConceptMismatch, InvalidInput, WeightsInvalid

PREFIX = "base_model.model."
STRENGTH_RANGE = (-1.0, 2.0)
ATTENTION = tuple(f"transformer.{name}" for name in ("to_q", "to_k", "to_v", "to_out"))
TEXT = tuple(f"transformer.{name}" for name in ("text_q", "text_k", "text_v", "text_out"))
FEED_FORWARD = ("transformer.ff_in", "transformer.ff_out")
DOWN = ("stem.conv", "down1.conv", "down2.conv", "ds.conv")
UP = ("us.conv", "up1.conv", "up2.conv", "head")
MODULATION = ("modulation.outer",)
CRUCIAL_LAYERS = (*DOWN, *ATTENTION, *TEXT, *FEED_FORWARD, *UP, *MODULATION)

# 87 thousand numbers with the default architecture: more where the look is made (Upsample), less where tensors are wide.
DEFAULT_RANKS = {
    **{"stem.conv": 8, "down1.conv": 4, "down2.conv": 4, "ds.conv": 4},
    **dict.fromkeys(ATTENTION + TEXT, 3),
    **dict.fromkeys(FEED_FORWARD, 2),
    # For one concept the layer's input is one vector, so rank 1 already sets every scale and shift freely.
    **dict.fromkeys(MODULATION, 1),
    **{"us.conv": 4, "up1.conv": 8, "up2.conv": 8, "head": 8},
}


def low_rank_product(a: Tensor, b: Tensor) -> Tensor:
    """B A in the shape of the layer's weight: [out, in] or [out, in, k, k]."""
    return (b.flatten(1) @ a.flatten(1)).view(b.shape[0], *a.shape[1:])


@dataclass(frozen=True, eq=False)
class Concept:
    """One look: LoRA factors by layer, text context [T, W], the sha256 of its base, and facts about its making.

    Concepts compare by identity; `checkpoint.load_concept` returns the same object while the file stays the same.
    """

    name: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    context: Tensor
    base_sha256: str
    info: Mapping[str, object] = field(default_factory=dict)

    @property
    def numbers(self) -> int:
        return sum(a.numel() + b.numel() for a, b in self.factors.values()) + self.context.numel()

    def check_fits(self, base_sha256: str, weights: Mapping[str, Tensor], context_shape: Sequence[int]) -> None:
        """Raise if this concept was made for another base, or its shapes do not fit."""
        if self.base_sha256 != base_sha256:
            raise ConceptMismatch(
                f"Concept '{self.name}' was made for the base with sha256 {self.base_sha256[:12]}..., but the base loaded here "
                f"has {base_sha256[:12]}...: choose the base named in the concept's card, or a concept made for this base."
            )
        for layer, (a, b) in self.factors.items():
            weight = weights.get(f"{layer}.weight")
            if weight is None or layer not in CRUCIAL_LAYERS:
                raise WeightsInvalid(f"Concept '{self.name}' changes the layer '{layer}', which is not a crucial layer of E2GAN.")
            out, inputs, *kernel = weight.shape
            rank = a.shape[0] if a.ndim else 0
            if a.shape != (rank, inputs, *kernel) or b.shape != (out, rank, *(1 for _ in kernel)):
                raise WeightsInvalid(
                    f"Concept '{self.name}', layer '{layer}': expected factors of a {tuple(weight.shape)} weight, "
                    f"got A {tuple(a.shape)} and B {tuple(b.shape)}; the file is damaged or of another architecture."
                )
        if tuple(self.context.shape) != tuple(context_shape):
            raise WeightsInvalid(
                f"Concept '{self.name}': expected a text context of shape {tuple(context_shape)}, got {tuple(self.context.shape)}."
            )


Blend = tuple[tuple[Concept, float], ...]  # concepts with strengths, in the order they were added


def check_strength(strength: float) -> float:
    low, high = STRENGTH_RANGE
    if not low <= strength <= high:  # also refuses NaN
        raise InvalidInput(f"Expected a concept strength between {low:g} and {high:g}, got {strength:g}.")
    return float(strength)


def merged_weights(weights: Mapping[str, Tensor], blend: Blend) -> dict[str, Tensor]:
    """The layers a blend changes, derived in float32 from the pristine `weights`: W + sum of strength * B A."""
    changed: dict[str, Tensor] = {}
    for concept, strength in blend:
        if strength == 0:
            continue
        for layer, (a, b) in concept.factors.items():
            name = f"{layer}.weight"
            current = changed.get(name, weights[name].float())
            changed[name] = current + strength * low_rank_product(a.float(), b.float()).to(current.device)
    return changed


def blended_context(blend: Iterable[tuple[Concept, float]], neutral: Tensor) -> Tensor:
    """Text context of a blend [T, W]: neutral + sum of s * (context - neutral), strengths s scaled to at most 1 in all."""
    pairs = [(concept.context.float(), strength) for concept, strength in blend]
    scale = max(1.0, sum(abs(strength) for _, strength in pairs))
    context = neutral.float()
    for tensor, strength in pairs:
        context = context + (strength / scale) * (tensor - neutral)
    return context
