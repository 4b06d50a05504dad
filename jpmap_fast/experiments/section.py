"""What an experiment leaves: text, tables, figures and numbers, as JSON can hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from jpmap_fast._files import plain

Cell = str | int | float | None


@dataclass
class Table:
    """A table of a report.

    Attributes:
        title: what it says.
        columns: headings, with units.
        rows: one cell a column; None for what does not exist.
        note: what a reader must know to read it.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title}: expected {len(self.columns)} cells, got {row}")


@dataclass
class FigureFile:
    """A figure of a report; ``stem``.png and ``stem``.svg lie beside the JSON file.

    Attributes:
        stem: name of the files without their ending.
        caption: what is to be seen.
        pictures: whether it shows photographs (the report embeds the PNG) or curves (the SVG).
    """

    stem: str
    caption: str
    pictures: bool = False


@dataclass
class Section:
    """One experiment.

    Attributes:
        name: of the experiment.
        title: heading.
        text: paragraphs: what was done, what came out.
        tables, figures: in their order.
        data: numbers behind them, per image where there are any.
        seconds: wall time, all steps together.
    """

    name: str
    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[FigureFile] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN and infinity, which JSON does not know, become None."""
        found = plain(asdict(self))
        assert isinstance(found, dict)
        return found

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Section:
        """The inverse of ``as_json``."""
        tables = [Table(**table) for table in content["tables"]]
        figures = [FigureFile(**figure) for figure in content["figures"]]
        return cls(**{**content, "tables": tables, "figures": figures})
