"""What cards and README say of the bundled concepts is what was measured."""

import pytest
from hotpath.benchmarks.table import tables
from hotpath.tests.testing import ROOT
from hotpath.training.bundle import MODELS, concept_card, newest_scores, ratios, score_lines

ROW = {
    "pictures": 60, "scenes": 25, "side_px": 256, "kid_student_se": 0.0, "date": "", "device": "", "torch": "", "lpips_student_se": 0.0, "lpips_input": 1.0, "kid_input": 1.0,
    "lpips_student": 0.6, "lpips_ratio": 0.6, "kid_student": 0.2, "kid_ratio": 0.2, "lpips_full": 0.59, "kid_full": 0.1,
    "teacher": {"moved_px": 5, "lpips_itself": 0.25, "ratio": 0.25},
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((MODELS / "concepts").glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_card_tells_the_newest_scores_of_its_file(path) -> None:
    scores = newest_scores(MODELS / "concepts")
    assert path.stem in scores, "scored since it was trained"
    assert path.with_suffix(".md").read_text(encoding="utf-8") == concept_card(path, scores[path.stem])


def test_ratios_are_rounded_once() -> None:
    assert f"{ratios({**ROW, 'lpips_student': 0.3033, 'lpips_input': 0.4778})['lpips_ratio']:.2f}" == "0.63"


def test_the_readme_has_the_newest_tables() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert not [line for line in tables() if line not in page]


def test_a_card_says_why_a_goal_is_missed() -> None:
    assert not any("Misses" in line for line in score_lines({**ROW, "lpips_ratio": 0.5}))
    missed = score_lines(ROW)[-1]
    assert missed.startswith("**Misses its goal in LPIPS**: a full fine-tune is less than 5 % better in LPIPS")
    assert "0.25" in missed
    assert "better in LPIPS" in score_lines({**ROW, "lpips_full": 0.5})[-1]
    assert "better in LPIPS and KID" in score_lines({**ROW, "lpips_full": 0.5, "kid_ratio": 0.31})[-1]
    assert "2240 steps in place of 560 helped" in score_lines({**ROW, "steps": 2240, "full_steps": 560})[-1]
    unknown = {key: value for key, value in ROW.items() if "full" not in key}
    assert "see benchmarks/LOG.md" in score_lines({**unknown, "teacher": None})[-1]
