"""Files that are written: whole or not at all, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from jpmap_fast._files import plain, write_json
from jpmap_fast._timing import clocked, timed
from jpmap_fast._versions import device_name


def test_json_holds_tensors_and_arrays_and_null_for_what_is_no_number(tmp_path: Path) -> None:
    content = {
        "tensor": torch.tensor([[1.5, math.nan]]),
        "array": np.array([1, 2]),
        "number": np.float32(math.inf),
        "pair": (1, None),
        5: {"deep": [-math.inf, True, "x"]},
    }
    expected = {
        "tensor": [[1.5, None]],
        "array": [1, 2],
        "number": None,
        "pair": [1, None],
        "5": {"deep": [None, True, "x"]},
    }
    assert plain(content) == expected
    path = tmp_path / "a.json"
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == expected


def test_a_file_stays_as_it_was_where_json_cannot_hold_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_devices_are_named_without_their_machine() -> None:
    name = device_name("cpu")
    assert name == device_name(torch.device("cpu"))
    threads = torch.get_num_threads()
    assert name.startswith("CPU (") and f"{threads} thread" in name


def test_calls_are_timed_with_their_results() -> None:
    cpu = torch.device("cpu")
    assert clocked(lambda: 3, cpu)[0] == 3
    results = iter(range(9))
    result, seconds, runs = timed(lambda: next(results), cpu, repeats=4, limit=10)
    assert (result, runs) == (4, 4) and seconds >= 0
