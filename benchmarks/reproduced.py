"""The README's tables on the experiments, from a folder that ``jpmap-fast reproduce`` made.

jpmap-fast reproduce all --output reproduced
python benchmarks/reproduced.py reproduced [--keep]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from jpmap_fast._files import write_json
from jpmap_fast._problems import PAPER
from jpmap_fast.experiments.methods import CSGM_1, CSGM_10, JPMAP_X, ORIGINAL
from jpmap_fast.experiments.runner import finished
from jpmap_fast.experiments.section import Section
from jpmap_fast.experiments.sigma_dvae import EIGHT, ENCODER, ONE_START
from jpmap_fast.experiments.statistics import bootstrap_interval

RESULTS = Path(__file__).resolve().parent / "results"
FACES = ("faces-inpainting",)
# The report has them; the README has enough rows.
LEFT_OUT = ("MAP-z, alpha = 10", "MAP-z, alpha = 5")


def cells(section: Section, title: str) -> dict[str, list[Any]]:
    """The rows of a table of a section, by method."""
    table = next(table for table in section.tables if table.title == title)
    return {str(row[0]): row for row in table.rows}


def quality(sections: dict[str, Section], names: tuple[str, ...]) -> dict[str, Any]:
    """A line a problem of ``names`` and method: PSNR, SSIM, wins, share of optima."""
    rows = []
    for name in names:
        if name not in sections:
            continue
        section = sections[name]
        decoded = cells(section, "Decoded codes G(z)")
        reached = cells(section, "Objectives reached")
        for method, row in cells(section, "Restored images x").items():
            if method in LEFT_OUT:
                continue
            share = None
            if method in reached:
                joint = method.startswith("JPMAP")
                share = reached[method][3 if joint else 6]
            rows.append(
                [
                    f"{name} ({row[1]})",
                    method,
                    row[2],
                    row[4],
                    decoded[method][2] if method in decoded else None,
                    *(row[6:] + [None])[:2],
                    share,
                ]
            )
    return {
        "columns": [
            "problem (images)",
            "method",
            "PSNR of x, dB",
            "SSIM of x",
            "PSNR of G(z), dB",
            f"wins against {CSGM_1}",
            f"wins against {ORIGINAL}",
            "within 0.1% of the best known",
        ],
        "rows": rows,
        "note": "Means with 95% bootstrap intervals; wins: share of images with the higher PSNR of "
        "x; the last column by the objective that the method minimises, J1 for JPMAP and the "
        "latent one for CSGM and MAP-z.",
    }


def criterion(section: Section) -> dict[str, Any]:
    """PSNR of x at three levels of sigma_DVAE."""
    rows = []
    for problem in PAPER:
        for method in (CSGM_1, CSGM_10, ENCODER, ONE_START, JPMAP_X, EIGHT):
            row = [problem, method]
            for level in ("0", "15", "50"):
                values = torch.tensor(section.data["psnr"][level][problem][method]["x"])
                low, high = bootstrap_interval(values)
                row.append(f"{float(values.mean()):.2f} [{low:.2f}, {high:.2f}]")
            rows.append(row)
    levels = [f"sigma_DVAE = {level}/255" for level in (0, 15, 50)]
    return {
        "columns": ["problem", "method", *levels],
        "rows": rows,
        "note": "PSNR of x in dB, means with 95% bootstrap intervals; denoising with sigma = "
        "150/255, 80 measurements, 80% missing.",
    }


def main() -> None:
    """Write one JSON file with the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--keep", action="store_true", help="tables of experiments that FOLDER has not"
    )
    options = parser.parse_args()
    sections = finished(options.folder)
    report = json.loads((options.folder / "report.json").read_text(encoding="utf-8"))
    tables = {"quality": quality(sections, PAPER), "faces": quality(sections, FACES)}
    if "sigma-dvae" in sections:
        tables["criterion"] = criterion(sections["sigma-dvae"])
    settings = report["settings"]
    where = report["versions"]["device"]
    for table in tables.values():
        table["note"] += f" On {where}, torch {report['versions']['torch']}."
    size = "--quick" if settings["quick"] else "--full"
    kind = settings["device"].split(":")[0]
    output = options.output or RESULTS / f"reproduced_{kind}.json"
    seconds = {name: section.seconds for name, section in sections.items()}
    kept: dict[str, Any] = {}
    if options.keep and output.is_file():
        before = json.loads(output.read_text(encoding="utf-8"))
        origin = {name: before[name] for name in ("command", "versions")}
        for name in before["tables"].keys() - tables.keys():
            kept[name] = before.get("kept", {}).get(name, origin)
            tables[name] = before["tables"][name]
    document = {
        "command": f"jpmap-fast reproduce {' '.join(sections)} {size}",
        "device": settings["device"],
        "versions": report["versions"],
        "answers": report["answers"],
        "seconds": seconds,
        "tables": tables,
        "kept": kept,  # tables of an earlier run, and which
    }
    write_json(output, document, indent=1)
    print(f"{sum(seconds.values()):.0f} s of computing; written: {output}")


if __name__ == "__main__":
    main()
