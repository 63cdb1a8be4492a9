"""The nodes are what the contract says, in what saved workflows rely on, and their words are in the English language file."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hotpath.tests import contract
from hotpath.tests.comfy.outside import run_inside
from hotpath.tests.testing import ROOT
from hotpath.tools.client import Client

EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
NOTES = ("Note", "MarkdownNote")


@pytest.fixture(scope="module")
def infos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The nodes as they are. With --accept-contract they become the contract, and their words the English language file."""
    found, _ = run_inside("contract_program", tmp_path_factory.mktemp("comfy"), ROOT)
    if request.config.getoption("--accept-contract"):
        for path, part in ((contract.PATH, contract.entry), (contract.ENGLISH, contract.english)):
            path.write_text(contract.text_of({name: part(info) for name, info in found.items()}), encoding="utf-8", newline="\n")
    return found


def test_the_nodes_are_those_of_the_contract(infos: dict[str, dict]) -> None:
    changed = contract.differences(contract.kept(), {name: contract.entry(info) for name, info in infos.items()})
    assert not changed, "\n".join([*changed, contract.ACCEPT])


def test_the_english_words_are_those_of_the_nodes(infos: dict[str, dict]) -> None:
    kept = json.loads(contract.ENGLISH.read_text(encoding="utf-8"))
    assert kept == {name: contract.english(info) for name, info in infos.items()}, contract.ACCEPT


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_editor_is_given_the_words(server: Client, language: str) -> None:
    folder = ROOT / "locales" / language
    served = json.loads(server.get("/i18n"))[language]
    assert served["nodeDefs"] == json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
    assert served["nodeCategories"] == json.loads((folder / "main.json").read_text(encoding="utf-8"))["nodeCategories"]


def test_help_pages_and_their_pictures_are_served(server: Client) -> None:
    for path in (ROOT / "web" / "docs").iterdir():
        assert server.get(f"/extensions/hotpath/docs/{path.name}") == path.read_bytes()


def test_changes_are_seen_and_said() -> None:
    before = contract.kept()
    after = copy.deepcopy(before)
    node = after["Hotpath_ApplyE2GAN"]
    del after["Hotpath_Weights"]
    after["Hotpath_New"] = node
    node["inputs"][0], node["inputs"][1] = node["inputs"][1], node["inputs"][0]
    next(slot for slot in node["inputs"] if slot["name"] == "mix")["default"] = 0.5
    next(slot for slot in node["inputs"] if slot["name"] == "precision")["options"] = ["auto"]
    node["outputs"][0]["type"] = "MASK"
    del after["Hotpath_LoadE2GAN"]["inputs"][0]
    found = contract.differences(before, after)
    for words in (
        "Hotpath_Weights is gone",
        "Hotpath_New is new",
        "Hotpath_ApplyE2GAN, inputs were in the order e2gan, image",
        "Hotpath_ApplyE2GAN, input mix: default was 1.0, is 0.5",
        "input precision: options was",
        "output IMAGE: type was IMAGE, is MASK",
        "Hotpath_LoadE2GAN, input base is gone",
    ):
        assert any(words in line for line in found), (words, found)
    assert len(found) == 7
    assert not contract.differences(before, copy.deepcopy(before))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_fit_the_nodes_of_comfyui(server: Client, path: Path) -> None:
    """Core's nodes too; files of the user's own that an example names need not be here."""
    known = server.object_info()
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] not in NOTES:
            faults = contract.faults(node, contract.entry(known[node["type"]]))
            assert not faults, f"node {node['id']} ({node['type']}): {'; '.join(faults)}"
