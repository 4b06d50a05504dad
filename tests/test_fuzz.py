"""Damaged files for every reader and loader; ``python -m fuzzing.run`` tries as many as asked."""

from __future__ import annotations

import pytest
from fuzzing.harness import findings
from fuzzing.targets import TARGETS

CASES = 1000


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused_by_name(name):
    assert [found for _, found in findings(name, 0, range(CASES)) if found is not None] == []
