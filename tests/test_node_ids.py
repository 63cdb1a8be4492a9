"""Names of nodes: literal, ours, unique, each with a help page and a place in the contract."""

from __future__ import annotations

import ast

import pytest
from hotpath.tests import contract
from hotpath.tests.sources import tree_of
from hotpath.tests.testing import ROOT


def keywords(name: str) -> list[ast.expr]:
    return [
        keyword.value
        for path in sorted((ROOT / "nodes").glob("*.py"))
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == name
    ]


IDS = [value.value for value in keywords("node_id") if isinstance(value, ast.Constant)]


def test_node_ids_are_literal_ours_and_unique() -> None:
    assert len(IDS) == len(keywords("node_id")) == len(set(IDS)) >= 4
    assert all(name.startswith("Hotpath_") and name.isidentifier() for name in IDS)


@pytest.mark.parametrize("name", IDS)
def test_each_node_has_a_help_page(name: str) -> None:
    page = ROOT / "web" / "docs" / f"{name}.md"
    assert page.is_file()
    assert len(page.read_text(encoding="utf-8")) > 200


def test_no_help_page_is_left_over() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(IDS)


def test_the_contract_is_of_our_nodes() -> None:
    assert set(contract.kept()) == set(IDS)
