"""Errors of scores are taken over scenes."""

import numpy as np
import pytest
from hotpath.benchmarks.scores import jackknife


def test_for_single_pictures_it_is_the_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=40)
    error = jackknife([str(index) for index in range(40)], lambda kept: values[kept].mean())
    assert error == pytest.approx(values.std(ddof=1) / 40**0.5)


def test_copies_of_a_picture_tell_nothing_new() -> None:
    """Twice each picture, in scenes of two: the error stays; counted one by one it would shrink by the root of two."""
    values = np.random.default_rng(0).normal(size=20)
    scenes = [str(index) for index in range(20)]
    single = jackknife(scenes, lambda kept: values[kept].mean())
    double = np.tile(values, 2)
    assert jackknife(scenes * 2, lambda kept: double[kept].mean()) == pytest.approx(single)
