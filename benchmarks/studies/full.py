"""All five studies at full size, for a GPU: about the scale of the paper's.

python -m hotpath.benchmarks.studies.full [--device cuda] [--only bases ranks]

Needs the whole corpus (`python -m hotpath.training.corpus`); rows go to results.jsonl as those of the scaled studies do.
"""

import argparse

from hotpath.benchmarks.studies import bases, cost, data, layers, ranks

CONCEPT = {"crop": 192, "loss-crop": 128, "batch": 16, "steps": 1500}
BASE = {**CONCEPT, "side": 256, "pictures": 0, "width": 256, "looks": 20, "base-steps": 20_000}
STUDIES = {
    "bases": (bases, BASE),
    "ranks": (ranks, CONCEPT),
    "data": (data, CONCEPT),
    "cost": (cost, CONCEPT),
    "layers": (layers, CONCEPT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    args = parser.parse_args()
    for name in args.only:
        module, scale = STUDIES[name]
        module.main([f"--{option}={value}" for option, value in (*scale.items(), ("device", args.device))])


if __name__ == "__main__":
    main()
