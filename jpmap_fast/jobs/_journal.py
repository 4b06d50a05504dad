"""What a run has finished, so that another goes on where it was stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jpmap_fast._files import write_whole
from jpmap_fast._messages import FieldError
from jpmap_fast.jobs._rows import Rows

FOLDER = ".unfinished"


@dataclass(frozen=True)
class Entry:
    """A source that is done.

    Attributes:
        source: its name.
        stamp: what told then whether it is still the same.
        images: what there is to say of each of its images, a row of the results each.
    """

    source: str
    stamp: list[Any]
    images: list[dict[str, Any]]


class Journal:
    """One line for each source that is done, written after everything the source gives.

    A process may be killed at any moment: a line that is not whole does not count, and rows or
    files that no line speaks of are made again. Lines may be cut only at the end: rows are those
    of the lines, in their order.

    Args:
        output: folder of the run; the journal is in a folder of its own below it until the end.
        place: the folder as it is told to people.
        settings: all that results depend on; a run goes on with the same ones alone.
        resume: go on, if there is something to go on with; otherwise begin anew.
        finished: settings of a run that has finished in the folder, and of this one in the same
            words; None where none has, or where nobody minds. Its results are made again with the
            same ones alone.

    Raises:
        ValueError: the run in the folder had other settings.
    """

    def __init__(
        self,
        output: Path,
        place: Path,
        settings: dict[str, Any],
        resume: bool,
        finished: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    ) -> None:
        self._folder, self._place = output / FOLDER, place
        self._lines = self._folder / "journal.jsonl"
        kept = self._folder / "settings.json"
        self.done: dict[str, Entry] = {}
        if resume and kept.exists():
            check_same(place, json.loads(kept.read_text()), settings)
            self._read()
        else:
            if finished is not None:
                check_same(place, *finished)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            write_whole(kept, json.dumps(settings).encode())
        rows = sum(len(entry.images) for entry in self.done.values())
        self.results = Rows(self._folder / "results", rows)
        self.measured = Rows(self._folder / "measured", rows)

    def add(self, entries: Sequence[Entry]) -> None:
        """Sources are done, whose rows are the last ones of the results."""
        with self._lines.open("ab") as file:
            for entry in entries:
                file.write((json.dumps(asdict(entry)) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self.done.update({entry.source: entry for entry in entries})

    def finish(self) -> None:
        """Everything is written: nothing is left to go on with."""
        shutil.rmtree(self._folder)

    def sort(self, sources: Sequence[str]) -> None:
        """What is done stands in the order of these sources, whatever the one it was done in."""
        place = {source: number for number, source in enumerate(sources)}
        ordered = sorted(self.done.values(), key=lambda entry: place[entry.source])
        if ordered == list(self.done.values()):
            return
        rows, count = {}, 0
        for entry in self.done.values():
            rows[entry.source] = range(count, count + len(entry.images))
            count += len(entry.images)
        order = [row for entry in ordered for row in rows[entry.source]]
        self.results.order = self.measured.order = order
        self.done = {entry.source: entry for entry in ordered}

    def check_unchanged(self, source: str, stamp: list[Any]) -> bool:
        """Whether a source is done already.

        Raises:
            ValueError: it was another file then.
        """
        entry = self.done.get(source)
        if entry is None:
            return False
        if entry.stamp != stamp:
            raise FieldError(
                "{resume}: {source} has changed since it was restored; begin anew, without "
                "{resume}",
                {"source": source},
            )
        return True

    def check_inputs(self, sources: set[str]) -> None:
        """Raise ValueError where something is done that is none of these sources."""
        for source in sorted(self.done.keys() - sources):
            raise FieldError(
                "{resume}: the run in {folder} has restored {source}, which is not among the "
                "inputs now; begin anew, without {resume}",
                {"folder": self._place, "source": source},
            )

    def _read(self) -> None:
        if not self._lines.exists():
            return
        content = self._lines.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self._lines.open("rb+") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            entry = Entry(**json.loads(line))
            self.done[entry.source] = entry


def check_same(folder: Path, before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError, with what differs, where a run in a folder had other settings."""
    now = json.loads(json.dumps(settings))
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            raise FieldError(
                "{resume}: the run in {folder} had {setting} = {before!r}, now it is {now!r}; "
                "begin anew, without {resume}",
                {
                    "folder": folder,
                    "setting": name,
                    "before": before.get(name),
                    "now": now.get(name),
                },
            )
