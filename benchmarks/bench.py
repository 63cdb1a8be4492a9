"""Measure hotpath and append to benchmarks/results.jsonl.

python tools/dev.py bench speed             milliseconds next to baselines (run on an otherwise idle machine)
python tools/dev.py bench sampling          8 steps and a decode through ComfyUI, as shipped next to the Accelerate node
python tools/dev.py bench training          a training step next to a plain loop, and a run next to its bare steps
python tools/dev.py bench scores            LPIPS and KID of the bundled concepts on held-out photographs
python tools/dev.py bench agreement         how far their teachers agree with themselves (needs gmic)
python tools/dev.py bench kawahata          iterations per minute by network, picture size and processes
python tools/dev.py bench trust             false alarms, planted slow-downs, accuracy and cost of the probe
python tools/dev.py bench table             the README's tables, from the newest rows
"""

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "sampling", "training", "scores", "agreement", "kawahata", "trust", "table"))
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder with e2gan_base.safetensors and concepts/")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each point of kawahata, each run of trust")
    parser.add_argument("--networks", nargs="+", default=(), choices=("nin", "vgg19"), help="kawahata: only these")
    parser.add_argument("--sides", nargs="+", type=int, default=(), help="kawahata: only these, px")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds")
    parser.add_argument("--full", type=Path, help="folder of full fine-tunes to score next to the concepts")
    parser.add_argument("--corpus", type=Path, help="default: the corpus in the cache folder")
    args = parser.parse_args()
    if args.what == "speed":
        from hotpath.benchmarks.speed import run

        run(args.models, args.rounds)
    elif args.what == "sampling":
        from hotpath.benchmarks.sampling import run

        run(min(args.rounds, 2))
    elif args.what == "training":
        from hotpath.benchmarks.training import run

        run(args.models, args.rounds)
    elif args.what == "scores":
        from hotpath.benchmarks.scores import run

        run(args.models, args.full, args.corpus)
    elif args.what == "agreement":
        from hotpath.benchmarks.agreement import run

        run(args.models, args.corpus)
    elif args.what == "kawahata":
        from hotpath.benchmarks.kawahata import run

        run(args.seconds, args.networks, args.sides)
    elif args.what == "trust":
        from hotpath.benchmarks.trust import run

        run(args.seconds)
    else:
        from hotpath.benchmarks.table import run

        run()


if __name__ == "__main__":
    main()
