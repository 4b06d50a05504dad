"""A short run of every fuzz target; `python tests/fuzz.py all --cases 100000` is a long one."""

from __future__ import annotations

import warnings

import fuzz
import pytest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzz.targets())
def test_mutated_files_are_read_or_refused_by_name(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = fuzz.fuzz(name, 1000, 0, tmp_path)
    assert counts["read"] + counts["refused"] == 1000 and counts["refused"] > 0
