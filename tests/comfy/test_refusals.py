"""Bad input to the E2GAN nodes on a real server: a sentence, and the server lives on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hotpath.engine.e2gan.checkpoint import load_base
from hotpath.tests.comfy.e2gan_graphs import FOREIGN, graph, refused
from hotpath.tools.client import Client


def test_a_concept_that_is_gone(server: Client, weights: Path, photo: str) -> None:
    refused(
        server, graph([("old favourite", 1.0)]), "Expected 'old favourite.safetensors'", "models/e2gan/concepts", "ink", "choose"
    )


def test_a_base_that_is_gone(server: Client, weights: Path, photo: str) -> None:
    refused(server, graph(base="old base"), "Expected 'old base.safetensors'", "models/e2gan", "tiny.safetensors", "choose")


@pytest.mark.parametrize("name", ["../tiny", "/etc/hostname", "concepts/../../x"])
def test_names_outside_the_folder(server: Client, weights: Path, photo: str, name: str) -> None:
    refused(server, graph(base=name), "Expected", "models/e2gan")


def test_a_damaged_concept(server: Client, weights: Path, photo: str) -> None:
    refused(server, graph([("damaged", 1.0)]), "Expected a safetensors file", "damaged.safetensors", "again")


def test_a_concept_of_another_base(server: Client, weights: Path, photo: str) -> None:
    sha256 = load_base(weights / "tiny.safetensors").sha256
    refused(server, graph([("foreign", 1.0)]), "'foreign'", FOREIGN[:12], sha256[:12], "choose")


@pytest.mark.parametrize(("base", "words"), [("other", ("hotpath.student", "choose")), ("nan", ("not finite", "head.weight"))])
def test_bases_that_cannot_be_used(server: Client, weights: Path, photo: str, base: str, words: tuple[str, ...]) -> None:
    refused(server, graph([], base=base), f"{base}.safetensors", *words)


@pytest.mark.parametrize(("name", "value"), [("mix", 1.5), ("mix", -0.1), ("precision", "int4")])
def test_values_outside_their_range(server: Client, weights: Path, photo: str, name: str, value: object) -> None:
    refused(server, graph(**{name: value}), name)


@pytest.mark.parametrize("strength", [2.5, -1.5])
def test_strengths_outside_their_range(server: Client, weights: Path, photo: str, strength: float) -> None:
    refused(server, graph([("ink", strength)]), "strength")
