"""What the prior for faces can draw: reconstructions and samples."""

from __future__ import annotations

from typing import Any

import torch

from jpmap_fast._figures import Row, grid_figure
from jpmap_fast._metrics import psnr, ssim
from jpmap_fast._restore import restore
from jpmap_fast.algorithms import CSGM
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.face_images import faces
from jpmap_fast.experiments.section import Section, Table
from jpmap_fast.experiments.statistics import bootstrap_interval
from jpmap_fast.operators import Denoising
from jpmap_fast.priors import Prior, load_prior

COLUMNS = 8


def run(context: Context, name: str) -> Section:
    """Original, G(mu_phi(x)), the best code's G(z), and draws."""
    clean, what = faces(context, context.settings.number(8, 500), 1)
    prior = load_prior("faces", device=context.device)
    found = context.step("reconstructions", lambda: _reconstruct(context, prior, clean))
    shown = min(COLUMNS, len(clean))
    mean = {key: float(found[f"psnr_{key}"].mean()) for key in ("encoder", "best")}
    section = Section(name, "Faces: reconstruction and samples")
    section.text.append(
        f"{what} Prior `faces`, k = {prior.latent_dim}, gamma = {prior.gamma:.4f}. By the encoder "
        f"{mean['encoder']:.2f} dB, by the least of ||x - G(z)||^2/(2 gamma^2) + ||z||^2/2 "
        f"{mean['best']:.2f} dB: no restoration by G(z) can be expected to beat this."
    )

    def row(label: str, key: str) -> Row:
        scores = found[f"psnr_{key}"]
        captions = [f"{value:.1f} dB" for value in scores[:shown].tolist()]
        detail = f"mean of {len(scores)}: {mean[key]:.2f} dB"
        return Row(label, found[key][:shown], detail, captions)

    rows = [
        Row("original", clean[:shown]),
        row(r"encoder, $G(\mu_\varphi(x))$", "encoder"),
        row("best code, $G(z)$", "best"),
    ]
    title = "Faces, reconstructed"
    section.figures.append(
        context.save("reconstruction", grid_figure(title, rows), title, pictures=True)
    )
    drawn = [
        Row(f"temperature {t}", found[f"draws {t}"], r"$z \sim N(0, t^2 I)$") for t in (0.5, 0.7, 1)
    ]
    title = "Faces that the prior draws"
    section.figures.append(context.save("samples", grid_figure(title, drawn), title, pictures=True))
    section.tables.append(
        Table(
            "Reconstruction",
            ["code", "images", "PSNR, dB: mean [95%]", "SSIM: mean"],
            [
                [label, len(clean), _interval(found[f"psnr_{key}"]), _mean(found[f"ssim_{key}"])]
                for label, key in (("encoder", "encoder"), ("best", "best"))
            ],
        )
    )
    section.data = {key: found[key] for key in ("psnr_encoder", "psnr_best")}
    return section


@torch.no_grad()
def _reconstruct(context: Context, prior: Prior, clean: torch.Tensor) -> dict[str, Any]:
    x = clean.to(context.device)
    codes = prior.encode(x)[0]
    encoded = prior.decode(codes)
    # J1(x, .) of a clean x is the latent objective of denoising it with sigma = gamma.
    best = restore(x, Denoising(), prior, float(prior.gamma), method=CSGM(), z0=codes).decoded
    found: dict[str, Any] = {"encoder": encoded[:COLUMNS], "best": best[:COLUMNS]}
    for key, images in (("encoder", encoded), ("best", best)):
        found |= {f"psnr_{key}": psnr(images, x), f"ssim_{key}": ssim(images, x)}
    for temperature in (0.5, 0.7, 1):
        z = torch.randn(COLUMNS, prior.latent_dim, generator=context.generator(1))
        found[f"draws {temperature}"] = prior.decode(temperature * z.to(x))
    return found


def _interval(values: torch.Tensor) -> str:
    low, high = bootstrap_interval(values)
    return f"{float(values.mean()):.2f} [{low:.2f}, {high:.2f}]"


def _mean(values: torch.Tensor) -> str:
    return f"{float(values.mean()):.3f}"
