"""A second autoencoder, of the codes that the first one gives to images."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from tqdm.auto import tqdm

from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast._validate import count, counts, positive
from jpmap_fast.priors.mlp_vae import MLPVAE
from jpmap_fast.priors.two_stage import composed
from jpmap_fast.training.loss import negative_elbo
from jpmap_fast.training.trainer import as_float, check_images

# Images encoded at a time, and steps between two losses that are shown.
_BATCH, _SHOWN = 4096, 500


def train_second_stage(
    prior: MLPVAE,
    images: Tensor,
    *,
    hidden: tuple[int, ...] = (96, 96),
    deviation: float = 0.1,
    steps: int = 20_000,
    batch_size: int = 512,
    learning_rate: float = 2e-3,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> MLPVAE:
    r"""Put a second autoencoder behind a prior's codes, so that these become N(0, I).

    The codes z ~ q(z|x) of a trained autoencoder are together not distributed as N(0, I): they lie
    where the decoder needs them. A second, small one learns p(z|u) = N(D(u), s^2 I), u ~ N(0, I),
    from these codes alone, by Adam on its negative evidence lower bound with a cosine schedule; the
    first stays as it is. The prior returned has

        G(D(u))   for G(z),      mu_2(mu_1(x))   for mu_1(x),

    as one multilayer perceptron with the hidden layers of both, and gamma anew, the root mean
    square of x - G(D(u)) with z ~ q(z|x), u ~ q(u|z). u has as many dimensions as z.

    Args:
        prior: the first stage.
        images: [N, C, H, W], uint8 (0 to 255) or floating point in [0, 1], of the first stage's
            shape; what that was trained on.
        hidden: widths of the second encoder's hidden layers; its decoder has them in reverse.
        deviation: s > 0, in units of z. It does not change in training: were it learned, it would
            begin large, and dimensions that carry nothing at first would be lost for good.
        steps, batch_size, learning_rate: of Adam.
        seed: of the weights, the codes drawn and their order.
        device: where to train; the CPU by default.
        progress: show a bar with the loss.

    Returns:
        The prior, on ``device``, float32, in evaluation mode, gradients off.

    Raises:
        TypeError: a prior that is no ``MLPVAE``, a setting of the wrong kind. ValueError: settings
            or images out of range; the training diverges.

    Source: B. Dai, D. Wipf, "Diagnosing and enhancing VAE models", ICLR 2019, where s is learned.
    """
    if type(prior) is not MLPVAE:
        raise TypeError(
            "prior: expected an MLPVAE, whose layers and those of a second stage are one "
            f"perceptron, got {type(prior).__name__}"
        )
    counts("hidden", hidden, 1)
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        count(name, number, 1)
    for name, value in (("deviation", deviation), ("learning_rate", learning_rate)):
        positive(name, value)
    place = torch.device("cpu" if device is None else device)
    first = copy.deepcopy(prior).to(place, torch.float32)
    images = check_images("images", images, first.image_shape).to(place)
    generator = torch.Generator(place).manual_seed(seed)
    shape = (first.latent_dim, 1, 1)
    with DrawingFrom(torch.Generator().manual_seed(seed)):
        second = MLPVAE(shape, first.latent_dim, hidden, first.hidden_activation, "identity")
    second = second.to(place)
    second.log_gamma.requires_grad_(False).fill_(math.log(deviation))
    _fit(second, _encoded(first, images), generator, steps, batch_size, learning_rate, progress)
    second.requires_grad_(False).eval()
    both = composed(first, second)
    both.log_gamma.fill_(math.log(_deviation(first, second, both, images, generator)))
    return both


def _fit(
    second: MLPVAE,
    codes: tuple[Tensor, Tensor],
    generator: torch.Generator,
    steps: int,
    batch_size: int,
    learning_rate: float,
    progress: bool,
) -> None:
    """Adam on the bound of codes that are drawn anew at every step; ``codes`` has their q(z|x)."""
    means, deviations = codes
    optimiser = torch.optim.Adam([p for p in second.parameters() if p.requires_grad])
    with tqdm(total=steps, unit="step", desc="second stage", disable=not progress) as bar:
        for step in range(steps):
            rows = torch.randint(
                len(means), (batch_size,), generator=generator, device=means.device
            )
            z = means[rows] + deviations[rows] * _normal(means[rows], generator)
            noise = _normal(z, generator)
            rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            given = z.reshape(-1, *second.image_shape)
            nll, kl, _ = negative_elbo(second, given, torch.zeros_like(given), noise, 0.0)
            (nll + kl).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if (step + 1) % _SHOWN == 0 or step + 1 == steps:
                _check_loss(float((nll + kl).detach()), step, learning_rate)
                bar.set_postfix(nll=f"{float(nll.detach()):.2f}", kl=f"{float(kl.detach()):.2f}")
            bar.update()


def _check_loss(loss: float, step: int, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"training diverged by step {step + 1}; use a smaller learning_rate than "
            f"{learning_rate:g}"
        )


@torch.no_grad()
def _encoded(prior: MLPVAE, images: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of q(z|x), [N, k] each."""
    found = [prior.encode(as_float(batch)) for batch in images.split(_BATCH)]
    return torch.cat([mean for mean, _ in found]), torch.cat([std for _, std in found]).exp()


@torch.no_grad()
def _deviation(
    first: MLPVAE, second: MLPVAE, both: MLPVAE, images: Tensor, generator: torch.Generator
) -> float:
    """Root mean square of x - G(D(u)), u drawn through both encoders."""
    total = torch.zeros((), dtype=torch.float64)
    for batch in images.split(_BATCH):
        x = as_float(batch)
        mean, std = _encoded(first, batch)
        z = mean + std * _normal(mean, generator)
        mean, log_std = second.encode(z.reshape(-1, *second.image_shape))
        u = mean + log_std.exp() * _normal(mean, generator)
        total += (x - both.decode(u)).double().square().sum().cpu()
    return math.sqrt(float(total) / images.numel())


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
