"""One HTML file with everything in it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jpmap_fast._files import written_whole
from jpmap_fast.experiments.section import Cell, FigureFile, Section

_TEMPLATE = Path(__file__).parent / "report.html.j2"


def write_report(folder: Path, sections: dict[str, Section], document: dict[str, Any]) -> Path:
    """Write ``folder``/report.html: no file beside it is needed to read it.

    Args:
        folder: with the figures of each section in a folder of its name.
        sections: in their order.
        document: command, settings, versions and answers of the run.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError(
            "the report needs jinja2; install the extra: pip install 'jpmap_fast[experiments]'"
        ) from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    html = template.render(
        sections=list(sections.values()),
        picture=lambda section, figure: embedded(folder / section.name, figure),
        cell=cell_text,
        numeric=_numeric,
        **document,
    )
    path = folder / "report.html"
    with written_whole(path) as part:
        part.write_text(html, encoding="utf-8")
    return path


def embedded(folder: Path, figure: FigureFile) -> str:
    """The figure as a data URI: photographs as PNG, curves as SVG, which stays sharp."""
    suffix, kind = (".png", "image/png") if figure.pictures else (".svg", "image/svg+xml")
    content = (folder / (figure.stem + suffix)).read_bytes()
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def cell_text(value: Cell) -> str:
    """A cell as text: four significant digits, a dash for what does not exist."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _numeric(value: Cell) -> bool:
    return value is None or isinstance(value, (int, float))
