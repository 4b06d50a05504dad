"""When a descent by the Jacobian's columns costs less than one by conjugate gradients.

    python benchmarks/bench_linear_solver.py --device cuda [--faces-prior PATH]
    python benchmarks/bench_linear_solver.py --latent-dims 32 64 --batches 1 --max-steps 5

``GaussNewton(linear_solver="direct")`` computes k columns a step, "conjugate-gradient" two products
by the Jacobian an iteration. Both descend from z = 0 in plain torch: inpainting, 80% of the pixels
missing, noise 10/255, of decoded codes drawn from N(0, I). Decoders are the ``ConvVAE`` with its
default channels and the ``MLPVAE`` with its default layers, with random weights scaled so that
images have contrast; and, if there is one, a trained prior for faces. The crossover is the least
measured latent dimension from which on conjugate gradients take less time; it backs
``DIRECT_LATENT_DIM`` of ``jpmap_fast/solvers/plan.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from restoration_problems import add_options, degradations, face_prior
from timer import RESULTS, write
from torch import nn

import jpmap_fast as jf
from jpmap_fast._problems import SIGMA
from jpmap_fast._timing import timed
from jpmap_fast._versions import device_name
from jpmap_fast.objective import Projection
from jpmap_fast.priors.conv_vae import ConvVAE
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.solvers import GaussNewton

SOLVERS = ("direct", "conjugate-gradient")
GAMMA = 0.08
CONTRAST = 2.0  # standard deviation of a decoded image's logits over pixels and codes


@torch.no_grad()
def random_prior(network: str, latent_dim: int) -> Any:
    """A prior with random weights: He's scale in every layer, the last one's set by the logits."""
    torch.manual_seed(0)
    prior = (
        ConvVAE(latent_dim=latent_dim)
        if network == "ConvVAE"
        else jf.MLPVAE((1, 28, 28), latent_dim)
    )
    layers = prior.decoder_network if isinstance(prior, ConvVAE) else prior.decoder_layers
    linear = [m for m in layers.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in linear:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        layer.bias.normal_(std=0.1)
    prior.log_gamma.fill_(GAMMA).log_()
    logits = torch.logit(prior.decode(torch.randn(64, latent_dim)).double(), eps=1e-12)
    linear[-1].weight.mul_(CONTRAST / float(logits.std()))
    return prior.requires_grad_(False).eval()


def priors(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Every decoder with its name."""
    for network in (name for name in options.networks if name != "trained"):
        for latent_dim in options.latent_dims:
            yield network, random_prior(network, latent_dim).to(options.device)
    trained = face_prior(options) if "trained" in options.networks else None
    if trained is not None:
        yield "faces, trained", trained


def measure(name: str, prior: Any, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both solvers on one decoder and batch."""
    device, shape = torch.device(options.device), tuple(prior.image_shape)
    g = torch.Generator().manual_seed(1)
    codes = torch.randn(batch, prior.latent_dim, generator=g).to(device)
    operator = degradations(shape)["inpainting 80%"].operator.to(device).bind(shape, batch)
    row: dict[str, Any] = {"decoder": name, "latent_dim": prior.latent_dim, "batch": batch}
    with torch.no_grad():
        y = operator.measure(prior.decode(codes), SIGMA, torch.Generator(device).manual_seed(2))
        ones = torch.ones(batch, device=device)
        f = Projection(operator, make_decoder(prior))(y, ones / prior.gamma**2, SIGMA * ones)
        z = torch.zeros_like(codes)
        reached = {}
        for kind in SOLVERS:
            solver = GaussNewton(linear_solver=kind, fused=False, max_steps=options.max_steps)
            GaussNewton(linear_solver=kind, fused=False, max_steps=1).minimise(f, z)
            found, seconds, runs = timed(
                lambda solver=solver: solver.minimise(f, z), device, options.repeats, options.limit
            )
            steps = found.steps.double()
            reached[kind] = found.objective
            row[kind] = {
                "seconds": seconds,
                "runs": runs,
                "mean_steps": float(steps.mean()),
                "most_steps": int(steps.max()),
                "seconds_a_step": seconds / max(1, int(steps.max())),
                "mean_J": float(found.objective.mean()),
                "converged": float(found.converged.double().mean()),
            }
    excess = reached["conjugate-gradient"] / reached["direct"] - 1
    row["conjugate_gradient_as_low"] = float((excess <= 1e-3).double().mean())
    row["direct_as_low"] = float((excess >= -1e-3).double().mean())
    cells = (
        f"{kind} {row[kind]['seconds']:.4f} s, {row[kind]['most_steps']} steps" for kind in SOLVERS
    )
    print(
        f"{name:15s} k = {prior.latent_dim:3d}, batch {batch:3d}: {'; '.join(cells)}; J as low: "
        f"{100 * row['direct_as_low']:.0f}%, {100 * row['conjugate_gradient_as_low']:.0f}%",
        flush=True,
    )
    return row


def crossover(rows: list[dict[str, Any]]) -> int | None:
    """The least latent dimension from which on conjugate gradients take less time.

    None where they never do, or where a single dimension was measured.
    """
    if len(rows) < 2:
        return None
    found = None
    for row in sorted(rows, key=lambda row: -row["latent_dim"]):
        if row["conjugate-gradient"]["seconds"] >= row["direct"]["seconds"]:
            break
        found = row["latent_dim"]
    return found


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Rows by decoder and batch."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["decoder"], row["batch"]), []).append(row)
    return found


def table(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """A line a decoder and batch, a column a latent dimension."""
    dims = sorted({row["latent_dim"] for row in rows})
    lines = []
    for (name, batch), group in grouped(rows).items():
        by_dim = {row["latent_dim"]: row for row in group}
        cells = [
            " / ".join(f"{1e3 * by_dim[k][kind]['seconds']:.0f}" for kind in SOLVERS)
            if k in by_dim
            else None
            for k in dims
        ]
        lines.append([name, batch, *cells, crossover(group)])
    return {
        "columns": ["decoder", "batch", *(f"k = {k}" for k in dims), "crossover"],
        "rows": lines,
        "note": "Milliseconds of a descent of the whole batch by the k columns / by conjugate "
        f"gradients, in plain torch. On {device_name(device)}, torch {torch.__version__}.",
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    networks = ("ConvVAE", "MLPVAE", "trained")
    parser.add_argument("--networks", nargs="+", default=networks, choices=networks)
    parser.add_argument("--latent-dims", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--max-steps", type=int, default=50, help="of a descent")
    parser.add_argument("--repeats", type=int, default=5, help="timed descents, at most")
    parser.add_argument("--limit", type=float, default=0.5, help="seconds of them, about, at most")
    options = parser.parse_args()
    device = torch.device(options.device)
    output = options.output or RESULTS / f"linear_solver_{device.type}.json"
    rows: list[dict[str, Any]] = []
    for name, prior in priors(options):
        rows += [measure(name, prior, batch, options) for batch in options.batches]
        document = {
            "what": "time of a descent by the Jacobian's columns and by conjugate gradients",
            "rows": rows,
            "crossovers": [
                {"decoder": name, "batch": batch, "latent_dim": crossover(group)}
                for (name, batch), group in grouped(rows).items()
            ],
            "table": table(rows, device),
        }
        # After every decoder: a run that is cut short leaves what it has.
        write(output, document, device)


if __name__ == "__main__":
    main()
