"""Study (e): which layers carry a concept: each crucial group left out in turn, and the ResNet blocks added.

python -m hotpath.benchmarks.studies.layers [--steps 160] [--seeds 0 1 2]
"""

from collections.abc import Iterator, Mapping, Sequence

from hotpath.benchmarks.studies.ranks import trained
from hotpath.benchmarks.studies.study import Scale, Study, parser, study_from
from hotpath.engine.e2gan.checkpoint import Base, load_base
from hotpath.engine.e2gan.concept import ATTENTION, DEFAULT_RANKS, FEED_FORWARD, MODULATION, TEXT

GROUPS = {
    "downsampling": ("stem.conv", "down1.conv", "down2.conv"),
    "DS and US": ("ds.conv", "us.conv"),
    "transformer": (*ATTENTION, *TEXT, *FEED_FORWARD),
    "upsampling": ("up1.conv", "up2.conv", "head"),
    "modulation": MODULATION,
}
RESNET = {f"res{block}.conv{conv}": 4 for block in (1, 2, 3) for conv in (1, 2)}


def variants() -> Iterator[tuple[str, Mapping[str, int]]]:
    yield "all crucial layers", DEFAULT_RANKS
    for group, layers in GROUPS.items():
        yield f"without {group}", {layer: rank for layer, rank in DEFAULT_RANKS.items() if layer not in layers}
    yield "with ResNet blocks", {**DEFAULT_RANKS, **RESNET}


def runs(study: Study, seed: int, base: Base) -> Iterator[dict[str, object]]:
    for name in study.targets:
        train, held_out = study.target(base, name)
        for variant, ranks in variants():
            yield {"target": name, "layers": variant, **trained(study, base, train, held_out, ranks, seed, None, 0)}


def main(words: Sequence[str] | None = None) -> None:
    args = parser(__doc__, Scale()).parse_args(words)
    known = load_base(args.base)
    study_from("layers", args).run(lambda study, seed: runs(study, seed, known))


if __name__ == "__main__":
    main()
