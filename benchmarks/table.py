"""The README's tables, from the newest row of each kind in results.jsonl."""

import json
import sys

from hotpath.benchmarks.record import RESULTS
from hotpath.training.bundle import MODELS, newest_scores

ORDER = ("e2gan", "pix2pix_resnet9_fp32", "onnxruntime_style26_fp32")


def newest(benchmark: str, key: str) -> dict[str, dict]:
    rows = (json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines())
    return {row[key]: row for row in rows if row["benchmark"] == benchmark}


def tables() -> list[str]:
    """The lines of both tables."""
    lines = [
        "| picture | E²GAN | pix2pix ResNet-9, fp32 | onnxruntime style net, fp32 | times ResNet-9 |",
        "|---|---|---|---|---|",
    ]
    for side, row in newest("e2gan_speed", "side_px").items():
        cells = " | ".join(f"{row[name]['median_ms']:.1f} ms" for name in ORDER)
        lines.append(f"| {side} x {side} | {cells} | {row['times_resnet9']} |")
    lines += [
        "",
        "| concept | LPIPS student / input | ratio | KID student / input | ratio | LPIPS, KID of a full fine-tune | teacher, frame moved |",
        "|" + "---|" * 7,
    ]
    for name, row in sorted(newest_scores(MODELS / "concepts").items()):
        full = f"{row['lpips_full']:.3f}, {row['kid_full']:.4f}" if "lpips_full" in row else "not trained"
        lpips = f"{row['lpips_student']:.3f} ± {row['lpips_student_se']:.3f} / {row['lpips_input']:.3f}"
        kid = f"{row['kid_student']:.4f} ± {row['kid_student_se']:.4f} / {row['kid_input']:.4f}"
        itself = f"{row['teacher']['ratio']:.2f}" if row["teacher"] else ""
        lines.append(f"| {name} | {lpips} | {row['lpips_ratio']:.2f} | {kid} | {row['kid_ratio']:.2f} | {full} | {itself} |")
    return lines


def run() -> None:
    sys.stdout.write("\n".join(tables()) + "\n")
