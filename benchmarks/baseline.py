"""Algorithm 2.3 as published, in plain PyTorch, against ``restore`` on the same inputs in one run.

    python benchmarks/baseline.py --device cuda [--problems inpainting] [--images 1]

The baseline is what one writes from the paper: one image at a time, gradients by autograd, Adam for
the z-step, a dense linear system for the x-step of compressed sensing. Settings are those of arXiv
2103.01648 and its code: Adam with rate 0.01, at most 3,000 steps, until the gradient's norm over k
is below 1e-4; the outer loop until ||dx|| / sqrt(n) + ||dz|| / sqrt(k) < 1/255.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from bench_restore import DEGRADATIONS, make_problem, wall_seconds
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._versions import device_name

N1, N2, OUTER = 25, 50, 500


class Baseline:
    """The published algorithm for one image."""

    def __init__(self, operator: jf.Operator, prior: Any, sigma: float) -> None:
        self.prior, self.sigma = prior, sigma
        self.beta = 1 / prior.gamma**2
        self.matrix = getattr(operator, "matrix", None)
        self.mask = getattr(operator, "mask", torch.ones(()))
        self.adam_steps = 0

    def measure(self, x: Tensor) -> Tensor:
        """A x."""
        return self.mask * x if self.matrix is None else x.flatten(1) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        if self.matrix is None:
            return self.mask * y
        return (y @ self.matrix).reshape(-1, *self.prior.image_shape)

    def objective(self, x: Tensor, z: Tensor, y: Tensor) -> float:
        """J1(x, z)."""
        data = (self.measure(x) - y).square().sum() / (2 * self.sigma**2)
        coupling = self.beta / 2 * (x - self.prior.decode(z)).square().sum()
        return float(data + coupling + z.square().sum() / 2)

    def x_step(self, z: Tensor, y: Tensor) -> Tensor:
        """The x that minimises J1(., z)."""
        decoded, weight = self.prior.decode(z), self.beta * self.sigma**2
        right = self.adjoint(y) + weight * decoded
        if self.matrix is None:
            return right / (self.mask.square() + weight)
        n = self.matrix.shape[1]
        system = self.matrix.T @ self.matrix + weight * torch.eye(n, device=y.device)
        return torch.linalg.solve(system, right.flatten()).reshape(decoded.shape)

    def z_step(self, x: Tensor, start: Tensor) -> Tensor:
        """Adam on J1(x, .) / beta from ``start``."""
        z = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([z], lr=0.01)
        for _ in range(3000):
            adam.zero_grad()
            with torch.enable_grad():
                loss = (x - self.prior.decode(z)).square().sum() / 2
                loss = loss + z.square().sum() / (2 * self.beta)
                loss.backward()
            assert z.grad is not None
            self.adam_steps += 1
            if float(z.grad.norm()) / z.numel() < 1e-4:
                break
            adam.step()
        return z.detach()

    @torch.no_grad()
    def restore(self, y: Tensor) -> float:
        """J1 at the end."""
        x = self.adjoint(y)
        z = torch.zeros(1, self.prior.latent_dim, device=y.device)
        best = self.objective(x, z, y)
        for n in range(OUTER):
            taken = None
            encoded = self.prior.encode(x)[0] if n < N2 else z
            if n < N1:
                trial = self.x_step(encoded, y)
                value = self.objective(trial, encoded, y)
                taken = (trial, encoded, value) if value < best else None
            if taken is None and n < N2:
                code = self.z_step(x, encoded)
                trial = self.x_step(code, y)
                value = self.objective(trial, code, y)
                taken = (trial, code, value) if value < best else None
            if taken is None:
                code = self.z_step(x, z)
                trial = self.x_step(code, y)
                taken = (trial, code, self.objective(trial, code, y))
            moved = float((taken[0] - x).norm()) / x.numel() ** 0.5
            moved += float((taken[1] - z).norm()) / z.numel() ** 0.5
            x, z, best = taken
            if moved < 1 / 255:
                break
        return best


def measure(name: str, images: int, device: torch.device) -> dict[str, Any]:
    """Both sides of one problem."""
    prior = jf.load_prior("mnist", device=device)
    for parameter in prior.parameters():
        parameter.requires_grad_(False)
    large = 65_536 if device.type == "cuda" else 256
    problem = make_problem(name, large, device)
    y, operator, sigma = problem.y, problem.operator, problem.sigma
    seconds, objectives, steps = [], [], []
    for i in range(images):
        baseline = Baseline(operator, prior, sigma)
        begin = time.perf_counter()
        objectives.append(baseline.restore(y[i : i + 1]))
        seconds.append(time.perf_counter() - begin)
        steps.append(baseline.adam_steps)
    mine = jf.restore(y[:images], operator, prior, sigma).objective.tolist()
    restorer = jf.Restorer(operator, prior, sigma, batch_size=1)
    each = wall_seconds(lambda: [restorer(y[i : i + 1]) for i in range(64)], device, 5) / 64
    batch = wall_seconds(lambda: jf.restore(y, operator, prior, sigma), device, 3) / large
    mean = sum(seconds) / images
    return {
        "problem": name,
        "images": images,
        "baseline_seconds": mean,
        "baseline_adam_steps": sum(steps) / images,
        "baseline_objective": objectives,
        "objective": mine,
        "restorer_seconds": each,
        "batch": large,
        "batch_seconds_an_image": batch,
        "ratio_one": mean / each,
        "ratio_batch": mean / batch,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--problems", nargs="+", default=list(DEGRADATIONS), choices=list(DEGRADATIONS)
    )
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    for name in options.problems:
        rows.append(measure(name, options.images, device))
        print({k: v for k, v in rows[-1].items() if "objective" not in k}, flush=True)
    lines = [
        [
            row["problem"],
            f"{row['baseline_seconds']:.2f}",
            f"{sum(row['baseline_objective']) / row['images']:.1f}",
            f"{sum(row['objective']) / row['images']:.1f}",
            f"{row['ratio_one']:,.0f}",
            f"{row['ratio_batch']:,.0f}",
        ]
        for row in rows
    ]
    document = {
        "what": "Algorithm 2.3 as published in plain PyTorch against jpmap_fast",
        "rows": rows,
        "table": {
            "columns": [
                "problem",
                "as published, s an image",
                "its J1",
                "J1 here",
                "times faster, one image",
                f"times faster, batch of {rows[0]['batch']}",
            ],
            "rows": lines,
            "note": f"Mean of {options.images} images; one image by `Restorer`, the batch by "
            f"`restore`, both with the default JPMAP(). On {device_name(device)}, torch "
            f"{torch.__version__}.",
        },
    }
    write(options.output or RESULTS / f"baseline_{device.type}.json", document, device)


if __name__ == "__main__":
    main()
