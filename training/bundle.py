"""Put trained weights into models/ with a card each, and write the bundled part of weights_manifest.json.

    python -m hotpath.training.bundle [--base RUN/base.safetensors] [--concepts RUN/comic.safetensors ...]

Without arguments only the cards and the manifest are written again, for instance after new scores.
"""

import argparse
import json
import shutil
from pathlib import Path

from ..engine.e2gan.checkpoint import file_sha256, load_base, load_concept
from .lpips_weights import write_first_stages
from .sources import fetch

ROOT = Path(__file__).resolve().parents[1]
MODELS, RESULTS = ROOT / "models", ROOT / "benchmarks" / "results.jsonl"
MANIFEST = ROOT / "weights_manifest.json"
PERCEPTUAL = MODELS / "training" / "perceptual_vgg16.safetensors"
BASE = "e2gan_base.safetensors"
LICENCE = "apache-2.0"
GOAL = {"lpips": 0.5, "kid": 0.3}


def newest_scores(concepts: Path) -> dict[str, dict]:
    """The newest score row of each concept file that is in the folder now; `teacher`: the newest row of its teacher against itself."""
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []
    newest = {row["sha256"]: row for row in rows if row["benchmark"] == "e2gan_scores" and "sha256" in row}
    teachers = {row["concept"]: row for row in rows if row["benchmark"] == "teacher_agreement"}
    hashes = {path.stem: file_sha256(path) for path in concepts.glob("*.safetensors")}
    scored = {name: newest[sha256] for name, sha256 in hashes.items() if sha256 in newest}
    return {name: {**row, **ratios(row), "teacher": teachers.get(name)} for name, row in scored.items()}


def ratios(row: dict) -> dict[str, float]:
    """Student over untouched input, before rounding."""
    return {f"{name}_ratio": row[f"{name}_student"] / row[f"{name}_input"] for name in GOAL}


def settings_lines(info: dict) -> list[str]:
    return [f"* {key}: {value}" for key, value in sorted(info.get("settings", {}).items())]


def reasons(row: dict, missed: list[str]) -> list[str]:
    """What is known of why these goals are missed."""
    known, teacher = [], row["teacher"]
    if "kid_full" in row:
        better = [name.upper() for name in missed if row[f"{name}_full"] < 0.95 * row[f"{name}_student"]]
        if better:
            known.append(f"a full fine-tune is better in {' and '.join(better)}, so its few numbers limit it")
        elif row.get("steps") == row.get("full_steps"):
            known.append(
                f"a full fine-tune is less than 5 % better in {' and '.join(map(str.upper, missed))}, so not its few numbers limit it "
                "but the base, the network or the short training"
            )
        elif row.get("steps", 0) > row.get("full_steps", 0):
            known.append(f"{row['steps']} steps in place of {row['full_steps']} helped, and more may (benchmarks/LOG.md)")
    if teacher:
        known.append(
            f"part of the distance cannot be learnt from crops: a frame moved by {teacher['moved_px']} px has the teacher itself differ "
            f"by LPIPS {teacher['lpips_itself']:.2f}, a ratio of {teacher['ratio']:.2f}"
        )
    return known


def score_lines(row: dict | None) -> list[str]:
    if row is None:
        return ["Not scored yet."]
    lines = [
        f"On {row['pictures']} held-out pictures of {row['scenes']} scenes, {row['side_px']} px, ± standard error over scenes ({row['date']}, {row['device']}, torch {row['torch']}):",
        "",
        "| | this concept | untouched input | ratio | goal |",
        "|---|---|---|---|---|",
        f"| LPIPS (VGG) to the teacher | {row['lpips_student']:.3f} ± {row['lpips_student_se']:.3f} | {row['lpips_input']:.3f} "
        f"| {row['lpips_ratio']:.2f} | 0.5 |",
        f"| KID (EfficientNet-Lite0) to the teacher | {row['kid_student']:.4f} ± {row['kid_student_se']:.4f} | {row['kid_input']:.4f} | {row['kid_ratio']:.2f} | 0.3 |",
    ]
    if "lpips_full" in row:
        of = f"of {row['full_steps']} steps" if "full_steps" in row else "with the same steps"
        lines += ["", f"A full fine-tune {of}: LPIPS {row['lpips_full']:.3f}, KID {row['kid_full']:.4f}."]
    missed = [name for name, goal in GOAL.items() if row[f"{name}_ratio"] > goal]
    if missed:
        why = "; ".join(reasons(row, missed)) or "see benchmarks/LOG.md"
        lines += ["", f"**Misses its goal in {' and '.join(map(str.upper, missed))}**: {why}."]
    return lines


def concept_card(path: Path, row: dict | None) -> str:
    concept = load_concept(path)
    info = concept.info
    seen = (
        "The base was trained on this look too."
        if info["seen_by_base"]
        else f"The base never saw this look; training began at its look '{info['start_look'] or 'photograph'}'."
    )
    lines = [
        f"# {concept.name}",
        "",
        f'Prompt: "{info["prompt"]}". Teacher: {info["teacher"]} (licence: {info["teacher_licence"]}). {seen}',
        "",
        f"{concept.numbers} numbers, {path.stat().st_size / 1e6:.3f} MB. Base sha256: `{concept.base_sha256}`. Licence: {LICENCE}.",
        "",
        f"Data: {info['pictures']} squares of {info['data']}. Trained on: {info['device']}, {info['minutes_of_last_start']} min.",
        f"Command: `python -m hotpath.training.concept --base models/{BASE} --concept {concept.name} --steps {info['settings']['steps']} --out RUN`, settings:",
        "",
        *settings_lines(info),
        "",
        "## Scores",
        "",
        *score_lines(row),
    ]
    return "\n".join(lines) + "\n"


def base_card(path: Path) -> str:
    base = load_base(path)
    lines = [
        f"# {path.stem}",
        "",
        f"E²GAN base, {sum(t.numel() for t in base.weights.values()) / 1e6:.2f} M weights, {path.stat().st_size / 1e6:.1f} MB. "
        f"sha256: `{base.sha256}`. Licence: {LICENCE}.",
        "",
        f"Data: {base.info['pictures']} squares of {base.info['data']}. Trained on: {base.info['device']}.",
        "Command: `python -m hotpath.training.base --out RUN`, settings:",
        "",
        *settings_lines(dict(base.info)),
        "",
        "## Concepts it was trained on",
        "",
        *(f'* {name}: "{prompt}"' for name, prompt in base.info["concepts"].items()),
    ]
    return "\n".join(lines) + "\n"


def entry(path: Path, measured: str) -> dict[str, object]:
    """A line of the manifest; field names are those of ComfyUI's embedded model metadata."""
    concept = path.parent.name == "concepts"
    return {
        "id": f"e2gan-{path.stem.removeprefix('e2gan_').replace('_', '-')}",
        "name": path.name,
        "directory": "e2gan/concepts" if concept else "e2gan",
        "path": path.relative_to(ROOT).as_posix(),
        "hash": file_sha256(path),
        "hash_type": "SHA256",
        "size": path.stat().st_size,
        "license": LICENCE,
        "needs": ["e2gan-base"] if concept else [],
        "measured": measured,
    }


def write_manifest(bundled: list[dict[str, object]], path: Path = MANIFEST) -> None:
    """Put the bundled files into the manifest; its public ones, which have no `path`, stay as they are."""
    public = [row for row in json.loads(path.read_text(encoding="utf-8"))["weights"] if "path" not in row]
    content = {"schema": 1, "weights": [*bundled, *public]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="base file to bundle")
    parser.add_argument("--perceptual", action="store_true", help="write the perceptual loss again")
    parser.add_argument("--concepts", type=Path, nargs="*", default=[], help="concept files to bundle")
    args = parser.parse_args()
    (MODELS / "concepts").mkdir(parents=True, exist_ok=True)
    if args.base:
        shutil.copyfile(args.base, MODELS / BASE)
    if args.perceptual:
        write_first_stages(fetch(photographs=False), PERCEPTUAL)
    for path in args.concepts:
        shutil.copyfile(path, MODELS / "concepts" / path.name)
    scores, weights = newest_scores(MODELS / "concepts"), [entry(MODELS / BASE, "see benchmarks/results.jsonl, e2gan_speed")]
    (MODELS / BASE).with_suffix(".md").write_text(base_card(MODELS / BASE), encoding="utf-8")
    for path in sorted((MODELS / "concepts").glob("*.safetensors")):
        row = scores.get(path.stem)
        path.with_suffix(".md").write_text(concept_card(path, row), encoding="utf-8")
        measured = (
            f"LPIPS ratio {row['lpips_ratio']:.2f}, KID ratio {row['kid_ratio']:.2f}, {row['date']}" if row else "not scored"
        )
        weights.append(entry(path, measured))
    weights.append({**entry(PERCEPTUAL, "not scored"), "id": "perceptual-vgg16", "directory": "", "license": "bsd"})
    write_manifest(weights)


if __name__ == "__main__":
    main()
