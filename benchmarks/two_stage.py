"""What a second stage is worth: samples, evidence, restorations and starts, with it and without.

    python benchmarks/two_stage.py --data FOLDER [--images 200] [--prior two_stage.safetensors]

Three priors with one and the same first stage, on MNIST test digits (``mnist.npz`` in FOLDER, for
its training digits as well):

- ``mnist`` as it is, whose codes are taken for N(0, I);
- ``mnist``, codes whitened: G(m + R u) with the mean m and a root R of the covariance of the codes
  of the training digits, which is what a second stage without hidden layers can do;
- ``mnist-two-stage``, or the weights that --prior names.

Tables: ``samples``, G(z) of draws z from N(0, I) against test digits; and ``table``, restorations
by JPMAP and MAPz from two starts, with the share of images in which one start (the encoder's, z = 0
or a random one) reaches the least objective of eight, within 0.1%. Writes
results/two_stage_cpu.json; the picture in docs/images is --picture's.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from restoration_problems import load_digits, make_problem
from timer import RESULTS, write
from torch import Tensor, nn

import jpmap_fast as jf
from jpmap_fast._figures import Row, save_grid
from jpmap_fast.experiments.statistics import bootstrap_interval
from jpmap_fast.priors import MLPVAE
from jpmap_fast.training import reconstruction_psnr

PROBLEMS = ("denoising 110/255", "inpainting 80%", "CS, m = 140")
METHODS: dict[str, Any] = {"JPMAP()": jf.JPMAP(starts=2, n2=3), "MAPz()": jf.MAPz(starts=2, n2=3)}
STARTS, WITHIN = 8, 1e-3
COMPONENTS = 64  # of the principal components that Fréchet distances are taken in
EVIDENCE_SIGMA = 25 / 255


@torch.no_grad()
def whitened(prior: MLPVAE, images: Tensor) -> MLPVAE:
    """The prior with codes u = R^-1 (z - m), of the mean and covariance of the images' codes."""
    codes = torch.cat([prior.encode(batch)[0] for batch in images.split(4096)]).double()
    mean, root = codes.mean(dim=0), torch.linalg.cholesky(codes.T.cov())
    prior = copy.deepcopy(prior)
    first, head, spread = prior.decoder_layers[0], prior.encoder_mean, prior.encoder_log_std
    assert isinstance(first, nn.Linear)
    first.bias.add_((first.weight.double() @ mean).float())
    first.weight.copy_((first.weight.double() @ root).float())
    inverse = torch.linalg.inv(root)
    head.weight.copy_((inverse @ head.weight.double()).float())
    head.bias.copy_((inverse @ (head.bias.double() - mean)).float())
    spread.bias.add_(inverse.square().sum(dim=1).sqrt().log().float())
    prior.residuals = {}
    return prior


def draws(prior: MLPVAE, number: int, seed: int = 0) -> Tensor:
    """G(z) of draws from N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return prior.decode(torch.randn(number, prior.latent_dim, generator=generator))


def frechet(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians of two sets of images, in directions [n, p]."""
    a, b = ((images.flatten(1).double() @ directions) for images in (a, b))
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    first, second = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.T)
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float(means + first.trace() + second.trace() - 2 * shared)


def discrepancy(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of pixels, a Gaussian kernel of median width."""
    a, b = a.flatten(1), b.flatten(1)
    half = min(1000, len(b) // 2)
    width = torch.cdist(b[:half], b[half : 2 * half]).square().median()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / width)

    def own(x: Tensor) -> float:
        n = len(x)
        return float((kernel(x, x).sum() - n) / (n * (n - 1)))

    return own(a) + own(b) - 2 * float(kernel(a, b).mean())


def principal(images: Tensor) -> Tensor:
    """The directions [n, p] of most variance."""
    covariance = images.flatten(1).double().T.cov()
    return torch.linalg.eigh(covariance).eigenvectors[:, -COMPONENTS:]


def evidence(prior: MLPVAE, digits: Tensor) -> Tensor:
    """The logarithm of p(y) of noisy digits, by importance sampling [B]."""
    generator = torch.Generator().manual_seed(2)
    y = jf.Denoising().measure(digits, EVIDENCE_SIGMA, generator=generator)
    posterior = jf.sample(y, jf.Denoising(), prior, EVIDENCE_SIGMA, generator=generator)
    return posterior.log_evidence.double()


def restored(prior: MLPVAE, name: str, digits: Tensor) -> list[dict[str, Any]]:
    """A row a method on one problem."""
    problem = make_problem("mnist", name, prior, digits)

    def solve(method: Any, **options: Any) -> jf.Result:
        generator = torch.Generator().manual_seed(3)
        return jf.restore(
            *(problem.y, problem.operator, prior, problem.sigma),
            **{"method": method, "generator": generator, **options},
        )

    rows = []
    for title, method in METHODS.items():
        result = solve(method)
        ends = {"encoder": solve(replace(method, starts=1, n2=1)).objective.double()}
        g = torch.Generator().manual_seed(4)
        for number in range(STARTS - 1):
            zeros = torch.zeros(len(digits), prior.latent_dim)
            z0 = zeros if number == 0 else torch.randn(zeros.shape, generator=g)
            ends["zero" if number == 0 else f"random {number}"] = solve(
                replace(method, starts=1, n2=0), z0=z0
            ).objective.double()
        every = torch.stack([*ends.values(), result.objective.double()])
        reached = (every <= every.amin(dim=0) * (1 + WITHIN)).double().mean(dim=1)
        random = float(reached[2:STARTS].mean())
        rows.append(
            {
                "problem": name,
                "method": title,
                "psnr": jf.psnr(result.x, problem.clean).double().tolist(),
                "psnr_decoded": jf.psnr(result.decoded, problem.clean).double().tolist(),
                "converged": float(result.converged.double().mean()),
                "path": result.path,
                "reached": {
                    "encoder": float(reached[0]),
                    "zero": float(reached[1]),
                    "random": random,
                    "default": float(reached[-1]),
                },
            }
        )
    return rows


def judged(prior: MLPVAE, digits: Tensor, test: Tensor, number: int) -> dict[str, Any]:
    """What is measured of one prior."""
    with torch.no_grad():
        codes = prior.encode(test)[0]
    made, directions = draws(prior, number), principal(test)
    found = evidence(prior, digits)
    return {
        "gamma": prior.gamma,
        "rms_norm_of_codes": float(codes.square().sum(dim=1).mean().sqrt()),
        "reconstruction": reconstruction_psnr(prior, test),
        "frechet": frechet(made, test, directions),
        "discrepancy": discrepancy(made[:4000], test[:4000]),
        "log_evidence": found.tolist(),
        "rows": [row for name in PROBLEMS for row in restored(prior, name, digits)],
    }


def sample_table(priors: dict[str, dict[str, Any]], floors: dict[str, Any]) -> dict[str, Any]:
    """The table ``samples``."""
    base = torch.tensor(priors["mnist"]["log_evidence"])
    rows: list[list[Any]] = []
    for name, of in priors.items():
        gain = torch.tensor(of["log_evidence"]) - base
        low, high = bootstrap_interval(gain)
        said = None if name == "mnist" else f"{gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        numbers = [of["rms_norm_of_codes"], of["gamma"], of["reconstruction"]]
        rows.append([name, *numbers, of["frechet"], 1e3 * of["discrepancy"], said])
    for name, of in floors.items():
        rows.append([name, None, None, None, of["frechet"], 1e3 * of["discrepancy"], None])
    columns = (
        "prior; rms norm of codes; gamma; reconstruction, dB; Fréchet distance; "
        "1000 x discrepancy; log evidence over mnist, nats"
    )
    return {
        "columns": columns.split("; "),
        "rows": rows,
        "note": "Codes of test digits; N(0, I) has 2.83. Squared distances between draws G(z) and "
        f"test digits, of Gaussians in {COMPONENTS} principal components, and the maximum mean "
        f"discrepancy of pixels. Log evidence of {len(base)} test digits with noise 25/255, mean "
        "difference with its 95% bootstrap interval.",
    }


def restoration_table(priors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The table of restorations."""
    rows: list[list[Any]] = []
    for number, first in enumerate(priors["mnist"]["rows"]):
        for name, of in priors.items():
            row = of["rows"][number]
            quality, base = torch.tensor(row["psnr"]), torch.tensor(first["psnr"])
            low, high = bootstrap_interval(quality - base)
            change = (quality - base).mean()
            said = None if name == "mnist" else f"{change:+.2f} [{low:+.2f}, {high:+.2f}]"
            shares = [f"{row['reached'][k]:.0%}" for k in ("encoder", "zero", "random", "default")]
            decoded = float(torch.tensor(row["psnr_decoded"]).mean())
            rows.append(
                [row["problem"], row["method"], name, float(quality.mean()), said, decoded, *shares]
            )
    columns = (
        "problem; method; prior; PSNR of x, dB; over mnist, dB; PSNR of G(z), dB; "
        "best from the encoder; from z = 0; from a draw; from the default's two"
    )
    return {
        "columns": columns.split("; "),
        "rows": rows,
        "note": f"{len(priors['mnist']['rows'][0]['psnr'])} test digits; differences with their "
        "95% bootstrap intervals. Best: the share within 0.1% of the least objective of all "
        f"{STARTS} starts and the default.",
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--prior", default="mnist-two-stage")
    parser.add_argument("--picture", type=Path, help="of draws, a PNG to write")
    parser.add_argument("--output", type=Path, default=RESULTS / "two_stage_cpu.json")
    options = parser.parse_args()
    test = load_digits(options.data)
    with np.load(options.data / "mnist.npz", allow_pickle=False) as arrays:
        training = torch.from_numpy(arrays["x_train"])[:, None].float() / 255
    first, both = jf.load_prior("mnist"), jf.load_prior(options.prior)
    assert isinstance(first, MLPVAE) and isinstance(both, MLPVAE)
    priors = {"mnist": first, "mnist, codes whitened": whitened(first, training)}
    priors["mnist-two-stage"] = both
    digits = test[: options.images]
    found = {}
    for name, prior in priors.items():
        found[name] = judged(prior, digits, test, options.samples)
        print(f"done: {name}")
    with torch.no_grad():
        decoded = first.decode(first.encode(training[: len(test)])[0])
    floors = {
        name: {
            "frechet": frechet(images, test, principal(test)),
            "discrepancy": discrepancy(images[:4000], test[:4000]),
        }
        for name, images in (
            ("reconstructions of as many training digits", decoded),
            ("training digits", training[: len(test)]),
        )
    }
    document = {
        "priors": found,
        "floors": floors,
        "table": restoration_table(found),
        "tables": {"samples": sample_table(found, floors)},
    }
    write(options.output, document, torch.device("cpu"))
    if options.picture is not None:
        rows = [Row(name, draws(prior, 12, seed=1)) for name, prior in priors.items()]
        save_grid(options.picture, "G(z) of draws from N(0, I)", rows)


if __name__ == "__main__":
    main()
