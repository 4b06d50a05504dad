"""What ``jpmap-fast restore`` writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jpmap_fast.data.writing import answer_suffix, written_whole

_ONE_AND_MORE = (("uint8",), ("uint8", "uint8"))


class Targets:
    """The file that answers each picture file, all of them different.

    Args:
        output: their folder.
        files: picture files that may be restored.
    """

    def __init__(self, output: Path, files: Sequence[Path]) -> None:
        self._output = output
        self._stems: dict[Path, str] = {}
        taken: set[str] = set()
        for file in files:
            # How many pages there are is not known yet: every name it may get is taken.
            suffixes = [answer_suffix(file.suffix, stored) for stored in _ONE_AND_MORE]
            stem, count = file.stem, 1
            while any(f"{stem}{suffix}".lower() in taken for suffix in suffixes):
                count += 1
                stem = f"{file.stem}_{count}"
            taken.update(f"{stem}{suffix}".lower() for suffix in suffixes)
            self._stems[file] = stem

    def of(self, file: Path, stored: Sequence[str]) -> Path:
        """Where the restored pages of a file go, by the types that they were stored in."""
        return self._output / f"{self._stems[file]}{answer_suffix(file.suffix, stored)}"

    def check_inputs(self, inputs: Sequence[Path]) -> None:
        """Raise ValueError where a picture would be written over in a folder of inputs."""
        folders = {(path if path.is_dir() else path.parent).resolve() for path in inputs}
        if self._output.resolve() not in folders:
            return
        for file in self._stems:
            for stored in _ONE_AND_MORE:
                if self.of(file, stored).exists():
                    raise ValueError(
                        f"--output: {self.of(file, stored)} is in the folder of the inputs and "
                        "would be overwritten; choose another folder"
                    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: NaN and infinity become null."""
    text = json.dumps(_strict(content), indent=2, allow_nan=False)
    with written_whole(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
