"""Base and concept files: what is written comes back, and whatever is wrong with a file is said in a sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hotpath.engine.e2gan import checkpoint
from hotpath.engine.e2gan.checkpoint import file_sha256, load_base, load_concept, save_base, save_concept
from hotpath.engine.e2gan.concept import CRUCIAL_LAYERS
from hotpath.engine.errors import HotpathError, InvalidInput, NotWritten, WeightsInvalid, WeightsMissing
from hotpath.tests.testing import TINY, contents, digest, rewrite, tiny_base, tiny_concept, tiny_generator, write_base
from safetensors import SafetensorError
from safetensors.torch import save_file

Load = Callable[[Path], object]


def write_concept(path: Path, seed: int = 1) -> Path:
    save_concept(path, tiny_concept(tiny_base(path.parent), seed, name="ink"))
    return path


@pytest.fixture(params=["base", "concept"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Load]:
    """A good file of either kind, and what reads it."""
    path = tmp_path / "file.safetensors"
    return (write_base(path), load_base) if request.param == "base" else (write_concept(path), load_concept)


def test_a_base_comes_back(tmp_path: Path) -> None:
    path = write_base(tmp_path / "my base.safetensors")
    base, state = load_base(path), tiny_generator().state_dict()
    assert (base.name, base.architecture, base.info) == ("my base", TINY, {"seed": 0})
    assert base.sha256 == file_sha256(path)
    assert digest(base.weights) == digest({name: tensor.half().float() for name, tensor in state.items()})
    assert base.neutral_context.shape == (4, 12)
    assert all(tensor.dtype == torch.float32 for tensor in base.weights.values())
    assert all(tensor.dtype == torch.float16 for tensor in contents(path)[1].values())


def test_a_concept_comes_back(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    written = tiny_concept(base, 1, rank=3, name="ink")
    save_concept(tmp_path / "ink.safetensors", written)
    read = load_concept(tmp_path / "ink.safetensors")
    assert (read.name, read.base_sha256, read.info) == ("ink", base.sha256, {"seed": 1})
    assert torch.equal(read.context, written.context)
    assert list(read.factors) == sorted(written.factors)
    for layer, (a, b) in written.factors.items():
        assert torch.equal(read.factors[layer][0], a), layer
        assert torch.equal(read.factors[layer][1], b), layer
    assert read.numbers == written.numbers == sum(t.numel() for t in contents(tmp_path / "ink.safetensors")[1].values())
    read.check_fits(base.sha256, base.weights, (4, 12))


def test_the_same_file_is_the_same_object_until_it_changes(kind: tuple[Path, Load]) -> None:
    path, load = kind
    first = load(path)
    assert load(path) is first
    rewrite(path, facts={"info": {"note": "trained longer"}})
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    assert load(path) is not first
    assert load(path).info == {"note": "trained longer"}


# ---- files that cannot be used


def test_no_file(kind: tuple[Path, Load], tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"Expected.*gone\.safetensors.*choose"):
        kind[1](tmp_path / "gone.safetensors")
    with pytest.raises(WeightsMissing):
        kind[1](tmp_path)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def plain(path: Path) -> None:
    save_file(contents(path)[1], path)


def not_finite(value: float) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        name, tensor = next((name, tensor) for name, tensor in contents(path)[1].items() if tensor.ndim > 1)
        rewrite(path, tensors={name: tensor.index_fill(0, torch.tensor([0]), value)})

    return damage


def float8(path: Path) -> None:
    name, tensor = next(iter(contents(path)[1].items()))
    rewrite(path, tensors={name: tensor.to(torch.float8_e4m3fn)})


DAMAGE = {
    "not safetensors": (lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 400), "Expected a safetensors file.*again"),
    "empty": (lambda path: path.write_bytes(b""), "Expected a safetensors file.*again"),
    "cut in the tensors": (lambda path: cut(path, path.stat().st_size - 100), "Expected a safetensors file.*again"),
    "cut in the header": (lambda path: cut(path, 60), "Expected a safetensors file.*again"),
    "another program's": (plain, "to be of format hotpath.e2gan.*no hotpath format.*choose"),
    "another format": (lambda path: rewrite(path, header={"hotpath.format": "hotpath.student"}), "format.*hotpath.student"),
    "newer version": (lambda path: rewrite(path, facts={"version": 2}), "version 2.*reads version 1.*update"),
    "version a word": (lambda path: rewrite(path, facts={"version": "one"}), "metadata.*damaged.*again"),
    "no version": (lambda path: rewrite(path, facts={"version": None}), "metadata.*damaged.*version"),
    "version without end": (lambda path: rewrite(path, facts={"version": float("inf")}), "metadata.*damaged.*again"),
    "8-bit floats": (float8, "to hold float32, float16 or bfloat16, got torch.float8_e4m3fn in .*: save it so"),
    "broken JSON": (lambda path: rewrite(path, header={"hotpath": '{"version": 1, '}), "metadata.*damaged.*again"),
    "JSON of a list": (lambda path: rewrite(path, header={"hotpath": "[1]"}), "metadata.*damaged.*again"),
    "no JSON": (lambda path: rewrite(path, header={"hotpath": None}), "metadata.*damaged.*again"),
    "NaN": (not_finite(float("nan")), r"not finite \(in .*\).*again"),
    "infinity": (not_finite(float("inf")), r"not finite \(in .*\).*again"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_refused(kind: tuple[Path, Load], damage: Callable[[Path], object], words: str) -> None:
    path, load = kind
    damage(path)
    with pytest.raises(WeightsInvalid, match=words) as caught:
        load(path)
    assert "file.safetensors" in str(caught.value), "the sentence names the file"


def test_a_base_is_not_a_concept(tmp_path: Path) -> None:
    base, concept = write_base(tmp_path / "b.safetensors"), write_concept(tmp_path / "c.safetensors")
    with pytest.raises(WeightsInvalid, match=r"c\.safetensors.*format hotpath\.e2gan\.base, got hotpath\.e2gan\.concept"):
        load_base(concept)
    with pytest.raises(WeightsInvalid, match=r"b\.safetensors.*format hotpath\.e2gan\.concept, got hotpath\.e2gan\.base"):
        load_concept(base)


@pytest.mark.parametrize(
    "architecture",
    [
        {"stem_width": 64, "attention": "linear"},
        None,
        [],
        "small",
        {**TINY.to_dict(), "width": "wide"},
        {**TINY.to_dict(), "width": -8},
        {**TINY.to_dict(), "width": 2.5},
        {**TINY.to_dict(), "heads": 0},
        {**TINY.to_dict(), "heads": 7},
        {**TINY.to_dict(), "summary_cells": 0},
        {**TINY.to_dict(), "width": 10**9},
    ],
    ids=["unknown key", "none", "list", "word", "word width", "negative", "fraction", "no heads", "7 heads", "no cells", "huge"],
)
def test_an_architecture_that_cannot_be_built_is_refused(tmp_path: Path, architecture: object) -> None:
    path = rewrite(write_base(tmp_path / "file.safetensors"), facts={"architecture": architecture})
    with pytest.raises(WeightsInvalid, match=r"file\.safetensors"):
        load_base(path)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"head.weight": None}, r"head\.weight of shape \(12, 24, 3, 3\), got None \(1 tensors"),
        ({"head.bias": torch.zeros(13)}, r"head\.bias of shape \(12,\), got \(13,\)"),
        ({"extra": torch.zeros(2)}, r"extra of shape None, got \(2,\)"),
        ({"neutral_context": torch.zeros(4, 13)}, r"neutral_context of shape \(4, 12\), got \(4, 13\)"),
    ],
    ids=["missing", "shape", "surplus", "context"],
)
def test_a_base_with_wrong_tensors_is_refused(tmp_path: Path, tensors: dict, words: str) -> None:
    path = rewrite(write_base(tmp_path / "file.safetensors"), tensors=tensors)
    with pytest.raises(WeightsInvalid, match=words):
        load_base(path)


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {"context": None}},
        {"tensors": {"base_model.model.head.lora_A.weight": None}},
        {"tensors": {"base_model.model.head.lora_B.weight": None}},
        {"tensors": {"extra": torch.zeros(2)}},
        {"facts": {"base_sha256": None}},
    ],
    ids=["context", "A", "B", "surplus", "base"],
)
def test_a_concept_that_is_not_whole_is_refused(tmp_path: Path, change: dict) -> None:
    path = rewrite(write_concept(tmp_path / "file.safetensors"), **change)
    with pytest.raises(WeightsInvalid, match=r"file\.safetensors lacks.*again"):
        load_concept(path)


# ---- writing


def test_an_existing_file_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    path = write_concept(tmp_path / "ink.safetensors", seed=1)
    old, other = path.read_bytes(), tiny_concept(tiny_base(tmp_path, seed=5), 2)
    with pytest.raises(InvalidInput, match=r"ink\.safetensors exists.*another name or allow"):
        save_concept(path, other)
    assert path.read_bytes() == old
    save_concept(path, other, overwrite=True)
    assert load_concept(path).base_sha256 == other.base_sha256


@pytest.mark.parametrize(
    ("when", "failure"), [("while writing", OSError), ("while writing", SafetensorError), ("while renaming", OSError)]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, failure: type[Exception]
) -> None:
    path, base = write_concept(tmp_path / "ink.safetensors"), tiny_base(tmp_path, seed=5)
    files, old = sorted(tmp_path.iterdir()), path.read_bytes()

    def disk_full(*arguments: object) -> None:
        if when == "while writing":
            Path(arguments[1]).write_bytes(b"half")
        raise failure("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(*((checkpoint, "save_file") if when == "while writing" else (checkpoint.os, "replace")), disk_full)
        with pytest.raises(NotWritten, match=r"disk full.*make room"):
            save_concept(path, tiny_concept(base, 2), overwrite=True)
    assert path.read_bytes() == old
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("place", ["x" * 300, "a file/ink"], ids=["too long", "below a file"])
def test_a_place_where_no_file_can_be_gets_a_sentence(tmp_path: Path, place: str) -> None:
    concept = tiny_concept(tiny_base(tmp_path), 1)
    (tmp_path / "a file").touch()
    files = sorted(tmp_path.iterdir())
    with pytest.raises(NotWritten, match=r"Expected to write.*another name or folder"):
        save_concept(tmp_path / f"{place}.safetensors", concept)
    assert sorted(tmp_path.iterdir()) == files


def test_folders_are_made_and_metadata_is_json(tmp_path: Path) -> None:
    base, path = tiny_base(tmp_path), tmp_path / "models" / "e2gan" / "ink.safetensors"
    save_concept(path, tiny_concept(base, 1))
    header, tensors = contents(path)
    facts = json.loads(header["hotpath"])
    assert header["hotpath.format"] == "hotpath.e2gan.concept"
    assert facts["version"] == 1
    assert facts["base_sha256"] == base.sha256
    assert facts["ranks"] == dict.fromkeys(CRUCIAL_LAYERS, 2)
    names = {f"base_model.model.{layer}.lora_{half}.weight" for layer in CRUCIAL_LAYERS for half in "AB"}
    assert set(tensors) == names | {"context"}


def test_errors_are_short_and_typed(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(HotpathError) as caught:
        load_base(tmp_path / "bad.safetensors")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_looks_of_a_base_come_back_in_order(tmp_path: Path) -> None:
    plain = tiny_base(tmp_path)
    looks = {name: torch.full((4, 12), float(index)) for index, name in enumerate("cab")}
    save_base(tmp_path / "looks.safetensors", TINY, plain.weights, plain.neutral_context, {}, looks=looks)
    base = load_base(tmp_path / "looks.safetensors")
    assert list(base.looks) == ["c", "a", "b"]
    assert all(torch.equal(base.looks[name], looks[name]) for name in looks)
    assert plain.looks == {}
    rewrite(tmp_path / "looks.safetensors", tensors={"looks": torch.zeros(2, 4, 12)})
    with pytest.raises(WeightsInvalid, match="looks"):
        load_base(tmp_path / "looks.safetensors")


@pytest.mark.parametrize("looks", [3, "cab", {"a": 1}, ["a", 2]])
def test_looks_that_are_no_names_are_refused(tmp_path: Path, looks: object) -> None:
    path = rewrite(write_base(tmp_path / "file.safetensors"), facts={"looks": looks})
    with pytest.raises(WeightsInvalid, match=r"file\.safetensors is damaged \(looks: .*again"):
        load_base(path)


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert write_concept(tmp_path / "ink.safetensors").stat().st_mode == plain.stat().st_mode
