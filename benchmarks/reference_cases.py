"""Solution quality against the original research code, on its own cases.

    python benchmarks/reference_cases.py FOLDER [--output benchmarks/results/reference_cases.json]

FOLDER holds ``cases.npz`` (digits, measurements, operators), ``results.json`` (the original code's
result per image and the best objectives known) and ``original_mnist_model/`` (its weights). Every
J1 and latent objective is computed here, in float64, from the x and z that a method returned, over
all of y; nothing that a method reports about itself is used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._files import write_json
from jpmap_fast._metrics import psnr
from jpmap_fast._problems import Problem
from jpmap_fast._versions import device_name

PROBLEMS = {"den110": "denoising 110/255", "inp80": "inpainting 80%", "cs140": "CS, m = 140"}
WITHIN = 1e-3  # relative excess over the best objective known that counts as reaching it


@dataclass(frozen=True)
class Case(Problem):
    """One problem as it was recorded, noise on all of y, with the original code's results."""

    matrix: Tensor  # A, float64 [m, n]
    original: list[dict]
    best: dict[str, Tensor]


def load(folder: Path) -> tuple[jf.Prior, list[Case]]:
    """The prior and the problems of a folder."""
    arrays = np.load(folder / "cases.npz")
    results = json.loads((folder / "results.json").read_text())
    prior = jf.load_prior(folder / "original_mnist_model")
    x = torch.from_numpy(arrays["x"])
    pixels = x[0].numel()
    mask = torch.from_numpy(arrays["inp80_mask"])
    a = torch.from_numpy(arrays["cs140_A"])
    operators = {
        "den110": (jf.Denoising(), torch.eye(pixels)),
        "inp80": (jf.Inpainting(mask), torch.diag(mask.flatten())),
        "cs140": (jf.CompressedSensing(a), a),
    }
    problems = []
    for name, (operator, matrix) in operators.items():
        known = results["best_known"][name]
        problems.append(
            Case(
                name,
                PROBLEMS[name],
                operator,
                float(arrays[f"{name}_sigma"]),
                clean=x,
                y=torch.from_numpy(arrays[f"{name}_y"]),
                matrix=matrix.double(),
                original=[row for row in results["original_code"] if row["problem"] == name],
                best={key: torch.tensor(value).double() for key, value in known.items()},
            )
        )
    return prior, problems


def objectives(prior: jf.Prior, problem: Case, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """J1(x, z) at beta = 1 / gamma^2 and F(G(z)) + 1/2 ||z||^2, float64 [B]."""
    z64, beta = z.double(), prior.gamma**-2
    exact = [(layer.weight.double(), layer.bias.double()) for layer in prior.decoder_layers]
    h = z64
    for weight, bias in exact[:-1]:
        h = torch.nn.functional.elu(h @ weight.T + bias)
    decoded = torch.sigmoid(h @ exact[-1][0].T + exact[-1][1])
    flat, y = x.double().flatten(1), problem.y.double().flatten(1)

    def data(image: Tensor) -> Tensor:
        residual = image @ problem.matrix.T - y
        return residual.square().sum(1) / (2 * problem.sigma**2)

    code = z64.square().sum(1) / 2
    joint = data(flat) + beta / 2 * (flat - decoded).square().sum(1) + code
    return joint, data(decoded) + code


def methods() -> dict[str, tuple[jf.algorithms.Algorithm, str, str]]:
    """Method by label, what it minimises, and the original code's counterpart."""
    jpmap, continuation = "jpmap beta=1/gamma^2", "jpmap continuation alpha=1"
    return {
        "JPMAP() (default)": (jf.JPMAP(), "J1", jpmap),
        "JPMAP(starts=8)": (jf.JPMAP(starts=8), "J1", jpmap),
        "JPMAP, alternating, Adam (as published)": (
            jf.JPMAP(coupling="alternating", z_solver=jf.Adam()),
            "J1",
            jpmap,
        ),
        "MAPz(alpha=1)": (jf.MAPz(alpha=1), "latent_objective", continuation),
        "CSGM(starts=1)": (jf.CSGM(), "latent_objective", "csgm"),
        "CSGM(starts=10)": (jf.CSGM(starts=10), "latent_objective", "csgm"),
    }


def evaluate(
    prior: jf.Prior,
    on_device: jf.Prior,
    problem: Case,
    method: jf.algorithms.Algorithm,
    target: str,
    counterpart: str,
    seed: int,
) -> dict:
    """One method on one problem, against the best known and against the original code."""
    generator = torch.Generator().manual_seed(seed)
    options = {"method": method, "generator": generator}
    start = time.perf_counter()
    device = on_device.log_gamma.device
    y, operator = problem.y.to(device), problem.operator.to(device=device)
    result = jf.restore(y, operator, on_device, problem.sigma, **options)
    x, z, decoded = result.x.cpu(), result.z.cpu(), result.decoded.cpu()
    seconds = time.perf_counter() - start
    joint, latent = objectives(prior, problem, x, z)
    value = joint if target == "J1" else latent
    key = "J1" if target == "J1" else "Jz"
    rows = [row for row in problem.original if row["algorithm"] == counterpart]
    image = [row["image"] for row in rows]
    original = torch.tensor([row[key] for row in rows]).double()
    epsilon = (1 / 255) ** 2 * problem.clean[0].numel()
    return {
        "problem": problem.name,
        "images": len(value),
        "within_best": int((value <= (1 + WITHIN) * problem.best[target]).sum()),
        "recorded": len(rows),
        "within_original_0.1%": int((value[image] <= 1.001 * original).sum()),
        "within_original_0.5%": int((value[image] <= 1.005 * original).sum()),
        "gap_within_epsilon": int((result.gap <= epsilon).sum()),
        "psnr_x": float(psnr(x, problem.clean).mean()),
        "psnr_x_same_images": float(psnr(x, problem.clean)[image].mean()),
        "psnr_decoded": float(psnr(decoded, problem.clean).mean()),
        "original_psnr_x": statistics.fmean(row["psnr_x"] for row in rows),
        "original_within_best": sum(
            row[key] <= (1 + WITHIN) * float(problem.best[target][row["image"]]) for row in rows
        ),
        "seconds_per_image": seconds / len(value),
        "original_seconds_per_image": statistics.fmean(row["seconds"] for row in rows),
        "objective": value.tolist(),
    }


def main() -> None:
    """Run every method on every problem, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "reference_cases.json"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()

    prior, problems = load(options.folder)
    device = torch.device(options.device)
    on_device = jf.load_prior(options.folder / "original_mnist_model", device=device)
    entries, lines = {}, []
    for label, (method, target, counterpart) in methods().items():
        random = "starts=8" in label or "starts=10" in label
        runs = []
        for seed in options.seeds if random else options.seeds[:1]:
            rows = [
                evaluate(prior, on_device, p, method, target, counterpart, seed) for p in problems
            ]
            runs.append({"seed": seed, "problems": rows})
        entries[label] = {"minimises": target, "original": counterpart, "runs": runs}
        for position, problem in enumerate(problems):
            found = [run["problems"][position] for run in runs]
            first = found[0]
            reached = sorted({row["within_best"] for row in found})
            lines.append(
                [
                    label,
                    problem.title,
                    " to ".join(map(str, {reached[0]: 0, reached[-1]: 0}))
                    + f" / {first['images']}",
                    f"{first['original_within_best']} / {first['recorded']}",
                    f"{first['psnr_x_same_images']:.2f}",
                    f"{first['original_psnr_x']:.2f}",
                ]
            )
            print(*lines[-1], sep=" | ")
    totals = {
        label: [sum(row["within_best"] for row in run["problems"]) for run in entry["runs"]]
        for label, entry in entries.items()
    }
    print(json.dumps(totals, indent=1))
    published = entries["JPMAP, alternating, Adam (as published)"]["runs"][0]["problems"]
    map_z = entries["MAPz(alpha=1)"]["runs"][0]["problems"]
    summary = {
        "within_0.1%_of_best_known": totals,
        "published_within_0.5%_of_original": sum(r["within_original_0.5%"] for r in published),
        "mapz_within_0.1%_of_original": sum(r["within_original_0.1%"] for r in map_z),
        "mapz_recorded": sum(r["recorded"] for r in map_z),
        "mapz_gap_within_epsilon": sum(r["gap_within_epsilon"] for r in map_z),
    }
    print(json.dumps({k: v for k, v in summary.items() if not isinstance(v, dict)}, indent=1))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "what": "solution quality on the original code's cases, objectives recomputed in float64",
        "torch": torch.__version__,
        "device": device_name(device),
        "summary": summary,
        "methods": entries,
        "table": {
            "columns": [
                "method",
                "problem",
                "within 0.1% of best known",
                "original code",
                "PSNR of x, dB",
                "original code, same images",
            ],
            "rows": lines,
            "note": f"Measured on {device_name(device)}, torch {torch.__version__}. Eight digits a "
            "problem; a range is over seeds.",
        },
    }
    write_json(options.output, document, indent=1)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
