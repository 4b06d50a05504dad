"""Models of x - G(z) fitted to pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jpmap_fast._prepared import prior_of
from jpmap_fast._restore import restore
from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast._validate import count
from jpmap_fast.algorithms import JPMAP
from jpmap_fast.operators import Denoising
from jpmap_fast.priors.base import Prior
from jpmap_fast.residuals import GreyValueVariance, Residual, ResidualCovariance
from jpmap_fast.sampling import with_codes
from jpmap_fast.training.trainer import as_float, check_images

# Variances are not below that of rounding to 256 grey values by more than this: 0.2/255.
FLOOR = 0.2 / 255
# Codes are those of the pictures with so little noise that p(x|z) decides.
LEVEL = 0.02
# A covariance as a matrix costs n^3; of more pixels its factor is drawn from the pictures.
MOST_PIXELS = 2048
# Of a prior that has no p(x|z), see ``with_codes``.
_NO_LAW = (
    "latent codes z, since p(x | z) is how pictures vary about G(z)",
    "it takes noise from pictures by its encoder, and there is no G(z) and no variance to fit. "
    "restore(...) with it as it is",
)
SWEEPS, LAW_SWEEPS, LAW_IMAGES = 30, 3, 2000


@torch.no_grad()
def fit_residuals(
    prior: Prior,
    images: Tensor,
    *,
    rank: int = 128,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Residual]:
    r"""Fit models of p(x|z) truer than N(G(z), gamma^2 I), by maximum likelihood.

    With the residuals r = x - G(z) of clean pictures at their most likely codes,

    - "pixel": independent pixels, each with its mean of r^2;
    - "covariance": diag(d) + U U^T, U of rank ``rank``: the maximum-likelihood factor analysis of
      the mean of r r^T, whose parts on the diagonal it has exactly;
    - "grey": the variance floor^2 + slope^2 G (1 - G), codes and law in turn.

    Assign them to ``prior.residuals`` to have ``restore(..., residual="covariance")`` find them and
    ``save_prior`` write them.

    Args:
        prior: with latent codes.
        images: pictures [N, C, H, W] in [0, 1] or uint8, such as those it was trained on; N > rank.
        rank: r >= 1.
        seed: of what is drawn for large pictures.
        progress: told in words what is being done.

    Returns:
        The models by their names.

    Raises:
        ValueError, TypeError: settings or images that do not fit; a prior without codes, such as
            ``photos``, which has no G(z) that pictures vary about.

    Source: D. Rubin, D. Thayer, "EM algorithms for ML factor analysis", Psychometrika 1982 (the
    model).
    """
    prior = with_codes(prior_of(prior), *_NO_LAW)
    count("rank", rank, 1)
    images = as_float(check_images("images", images, prior.image_shape))
    if len(images) <= rank:
        raise ValueError(f"images: expected more than rank = {rank} of them, got {len(images)}")
    tell = progress or (lambda words: None)
    tell(f"codes of {len(images)} pictures")
    decoded = _decoded(prior, images, None)
    images = images.to(decoded)
    rows = (images - decoded).flatten(1)
    pixel = rows.double().square().mean(dim=0).clamp_min(FLOOR**2)
    tell(f"covariance of {rows.shape[1]} pixels, rank {rank}")
    with DrawingFrom(torch.Generator(rows.device).manual_seed(seed)):
        covariance = factor_analysis(rows, min(rank, rows.shape[1]))
    tell("variance by grey value")
    law = _law(decoded, rows, None)
    some = images[:LAW_IMAGES]
    for _ in range(LAW_SWEEPS):
        found = _decoded(prior, some, law)
        law = _law(found, (some - found).flatten(1), law)
    return {"pixel": ResidualCovariance(pixel.float()), "covariance": covariance, "grey": law}


def _decoded(prior: Prior, images: Tensor, residual: Residual | None) -> Tensor:
    """G at the codes of clean pictures."""
    method = JPMAP(starts=1)
    return restore(images, Denoising(), prior, LEVEL, method=method, residual=residual).decoded


def factor_analysis(rows: Tensor, rank: int, most_pixels: int = MOST_PIXELS) -> ResidualCovariance:
    """Diagonal plus low rank, by principal factors of the standardised residuals [N, n] in turn.

    The fixed points are those of the likelihood: U = D^{1/2} V (L - I)^{1/2} with the leading
    eigenpairs L, V of D^{-1/2} C D^{-1/2}, and d what U U^T lacks of C's diagonal.
    """
    number, pixels = rows.shape
    diagonal = rows.double().square().mean(dim=0).clamp_min(FLOOR**2)
    whole = (rows.double().T @ rows.double() / number) if pixels <= most_pixels else None
    d = 0.5 * diagonal
    factor = rows.new_zeros(pixels, rank, dtype=torch.float64)
    for _ in range(SWEEPS if whole is not None else SWEEPS // 5):
        scale = d.rsqrt()
        if whole is not None:
            values, vectors = torch.linalg.eigh(scale[:, None] * whole * scale)
            values, vectors = values[-rank:], vectors[:, -rank:]
        else:
            standard = rows * (scale / number**0.5).to(rows)
            _, roots, vectors = torch.svd_lowrank(standard, q=rank + 16, niter=3)
            values, vectors = roots[:rank].double().square(), vectors[:, :rank].double()
        factor = vectors * (values - 1).clamp_min(0).sqrt() / scale[:, None]
        d = (diagonal - factor.square().sum(dim=1)).clamp_min(FLOOR**2)
    return ResidualCovariance(d.float(), factor.float())


def _law(decoded: Tensor, residual: Tensor, begin: GreyValueVariance | None) -> GreyValueVariance:
    """The most likely floor and slope of residuals [N, n] at decoded pixels."""
    g = decoded.flatten().double().clamp(0, 1)
    spread, squares = g * (1 - g), residual.flatten().double().square()
    start = (0.02, 0.5) if begin is None else (begin.floor, begin.slope)
    with torch.enable_grad():
        logs = torch.tensor(start, dtype=torch.float64, device=g.device).log().requires_grad_()
        search = torch.optim.LBFGS([logs], max_iter=60, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            floor, slope = (2 * logs).exp()
            variance = FLOOR**2 + floor + slope * spread
            value = (squares / variance + variance.log()).mean()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        search.step(loss)  # type: ignore[no-untyped-call]
    floor, slope = logs.detach().exp().tolist()
    return GreyValueVariance(max(floor, FLOOR), max(slope, FLOOR))
