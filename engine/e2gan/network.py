"""E2GAN on the wire: a base with a blend of concepts, and the shared machinery that runs pictures through it.

`Network` holds one base's weights for one (device, dtype) and derives, per blend, the few layers that change; derived weights
and text keys/values are kept in a bounded least-recently-used cache, so a known blend switches in a dictionary lookup.
The base is never written to: A, then B, then A gives identical bits.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from ..errors import InvalidInput, NotFinite
from .checkpoint import Base
from .concept import Blend, Concept, blended_context, check_strength, merged_weights
from .model import Generator, Text
from .tiling import pad_to_multiple, tiled

CACHED_BLENDS = 16
TILE, OVERLAP = 2560, 128
MARGIN = 8  # px around a picture, so that the zeros around the network's maps leave no frame in it: LPIPS 0.01 to 0.02 better


@dataclass(frozen=True)
class Derived:
    """What a blend changes, ready to run: layer weights by name, and what the network reads in its context."""

    weights: Mapping[str, Tensor]
    text: Text


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next picture; a fifth of a picture's time went into getting it back page by page.

    glibc keeps twice the largest block that was ever freed, counting blocks of up to 32 MiB. Elsewhere this does nothing.
    """
    torch.empty(2**25 - 2**14, dtype=torch.uint8)  # never written to, so no memory is taken; freed at once


class _Reader(torch.nn.Module):
    """The generator's `read` as a forward pass, which is what functional_call runs."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor) -> Text:
        return self.generator.read(context)


class Network:
    """One base in one dtype. `module` may be moved between devices by its owner; derived weights follow."""

    def __init__(self, base: Base, dtype: torch.dtype) -> None:
        self.base, self.dtype = base, dtype
        with torch.device("meta"):
            module = Generator(base.architecture)
        module.load_state_dict({name: tensor.to(self.dtype_of(name)) for name, tensor in base.weights.items()}, assign=True)
        self.module = module.to(memory_format=torch.channels_last).unwrapped().eval().requires_grad_(False)
        self._derived: OrderedDict[tuple[torch.device, Blend], Derived] = OrderedDict()
        keep_freed_memory()

    @property
    def device(self) -> torch.device:
        return self.module.head.weight.device

    def dtype_of(self, name: str) -> torch.dtype:
        """That of a weight. In float16 what reads the text and works at 1/16 of the side stays in float32: its sums pass 65504."""
        exact = self.dtype is torch.float16 and name.startswith(("transformer.", "modulation."))
        return torch.float32 if exact else self.dtype

    def forget(self) -> None:
        """Drop derived weights, for instance because the module left a device."""
        self._derived.clear()

    def derived(self, blend: Blend) -> Derived:
        """The blend's weights, from the cache or derived from the pristine base in float32."""
        key = (self.device, blend)
        found = self._derived.get(key)
        if found is None:
            found = self._derive(blend)
            self._derived[key] = found
            while len(self._derived) > CACHED_BLENDS:
                self._derived.popitem(last=False)
        self._derived.move_to_end(key)
        return found

    @torch.inference_mode()
    def _derive(self, blend: Blend) -> Derived:
        weights = {}
        for name, tensor in merged_weights(self.base.weights, blend).items():
            tensor = tensor.to(self.device, self.dtype_of(name))
            weights[name] = tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        context = blended_context(blend, self.base.neutral_context).unsqueeze(0)
        context = context.to(self.device, self.dtype_of("transformer.text_k.weight"))
        read = {f"generator.{name}": tensor for name, tensor in weights.items()}
        text = functional_call(_Reader(self.module), read, (context,))
        return Derived(weights, text._replace(modulations=text.modulations.to(self.dtype)))

    def _run(self, image: Tensor, derived: Derived) -> Tensor:
        image = image.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)
        return functional_call(self.module, dict(derived.weights), (image,), {"text": derived.text})

    @torch.inference_mode()
    def __call__(self, image: Tensor, blend: Blend, *, tile: int | None = None) -> Tensor:
        """[B, 3, H, W] in -1..1 to the same shape, float32 on the image's device. `tile` px splits large pictures."""
        height, width = image.shape[2:]
        derived = self.derived(blend)
        padded = pad_to_multiple(image, self.base.architecture.multiple, MARGIN)
        if tile and max(padded.shape[2:]) > tile:
            output = tiled(lambda part: self._run(part, derived).to(image.device), padded, tile, min(OVERLAP, tile // 2))
        else:
            output = self._run(padded, derived)
        return output[:, :, MARGIN : MARGIN + height, MARGIN : MARGIN + width].to(image.device, torch.float32)


@dataclass(frozen=True)
class E2GAN:
    """What travels on a HOTPATH_E2GAN wire: a base and the concepts chained onto it. Immutable; a concept gives a new one."""

    base: Base
    blend: Blend = ()

    def with_concept(self, concept: Concept, strength: float) -> "E2GAN":
        """Add a concept at a strength of -1 to 2 (0 leaves the picture as the base does)."""
        architecture = self.base.architecture
        concept.check_fits(self.base.sha256, self.base.weights, (architecture.text_tokens, architecture.text_width))
        return E2GAN(self.base, (*self.blend, (concept, check_strength(strength))))


def check_pictures(image: Tensor) -> Tensor:
    """A batch [B, 3 or 4, H, W] in -1..1 that can be run: finite, at least one picture; values outside are clamped."""
    if image.ndim != 4 or image.shape[1] not in (1, 3, 4) or not image.is_floating_point():
        raise InvalidInput(f"Expected pictures [B, 3, H, W] of floats, got {list(image.shape)} of {image.dtype}.")
    if image.shape[0] == 0 or min(image.shape[2:]) == 0:
        raise InvalidInput(f"Expected at least one picture of at least 1 x 1 px, got a batch of shape {list(image.shape)}.")
    if not torch.isfinite(image).all():
        raise InvalidInput("The picture holds values that are not finite (NaN or infinity): check the node that made it.")
    return image[:, :3].expand(-1, 3, -1, -1).clamp(-1, 1)


def apply(
    network: Network,
    image: Tensor,
    blends: Sequence[Blend],
    *,
    tile: int = TILE,
    chunk_pixels: int = TILE * TILE,
    on_progress: Callable[[int, Tensor], None] = lambda count, latest: None,
) -> Tensor:
    """Run pictures [B, 3, H, W] in -1..1, in chunks of at most `chunk_pixels` px.

    `blends` holds one blend for all pictures or one for each. `on_progress` gets the number of pictures done and the latest
    [3, H, W]; raising from it stops the run. Pictures above `tile` px a side are run in tiles blended over OVERLAP px.
    """
    image = check_pictures(image)
    count, _, height, width = image.shape
    if len(blends) not in (1, count):
        raise InvalidInput(f"Expected 1 or {count} blends for {count} pictures, got {len(blends)}.")
    output, done = torch.empty(image.shape, dtype=torch.float32, device=image.device), 0
    size = max(1, chunk_pixels // (height * width))
    for blend in dict.fromkeys(blends):
        members = [index for index in range(count) if blends[index % len(blends)] == blend]
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            edited = network(image[chunk], blend, tile=tile)
            if not torch.isfinite(edited).all():
                raise NotFinite(
                    f"Expected a finite picture, got NaN or infinity from {network.dtype}: choose float32 as precision, or lower strengths."
                )
            output[chunk] = edited
            done += len(chunk)
            on_progress(done, output[chunk[-1]])
    return output
