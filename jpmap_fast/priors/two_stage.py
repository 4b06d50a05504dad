"""Two autoencoders in a row as one: of images, and of the codes of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from jpmap_fast.priors.mlp_vae import MLPVAE


@torch.no_grad()
def composed(first: MLPVAE, second: MLPVAE) -> MLPVAE:
    r"""The prior with decoder G(D(u)) and encoder mu_2(mu_1(x)), a perceptron again.

    What ends one network and what begins the next are linear with nothing in between, so that they
    are one matrix: W (V h + c) + b = (W V) h + (W c + b). Where ``first`` has hidden layers a, b
    and ``second`` c, d, this one has a, b, c, d.

    Args:
        first: of images, G and mu_1.
        second: of the codes of ``first`` as images (k, 1, 1), D and mu_2, with an identity output.

    Returns:
        A prior with the gamma of ``first``. Its log standard deviation is that of ``second`` at
        mu_1(x), the spread of the first code left out.

    Raises:
        ValueError: they do not fit each other.
    """
    expected = (first.latent_dim, 1, 1)
    if second.image_shape != expected or second.output_activation != "identity":
        raise ValueError(
            f"second: expected images {expected} and an identity output, for the codes of first, "
            f"got {second.image_shape} and {second.output_activation!r}"
        )
    if second.hidden_activation != first.hidden_activation:
        raise ValueError(
            f"second: expected {first.hidden_activation!r} units, as first has, got "
            f"{second.hidden_activation!r}"
        )
    prior = MLPVAE(
        first.image_shape,
        second.latent_dim,
        (*first.hidden, *second.hidden),
        first.hidden_activation,
        first.output_activation,
    ).to(first.log_gamma)
    encoder = [
        *first.encoder_layers,
        _merged(first.encoder_mean, second.encoder_layers[0]),
        *second.encoder_layers[1:],
    ]
    decoder = [
        *second.decoder_layers[:-1],
        _merged(second.decoder_layers[-1], first.decoder_layers[0]),
        *first.decoder_layers[1:],
    ]
    _copy([*prior.encoder_layers, *prior.decoder_layers], [*encoder, *decoder])
    heads = [prior.encoder_mean, prior.encoder_log_std]
    _copy(heads, [second.encoder_mean, second.encoder_log_std])
    prior.log_gamma.copy_(first.log_gamma)
    return prior.requires_grad_(False).eval()


def _merged(inner: nn.Module, outer: nn.Module) -> nn.Linear:
    """The linear layer that does ``outer`` after ``inner``, multiplied in float64."""
    assert isinstance(inner, nn.Linear) and isinstance(outer, nn.Linear)
    weight = outer.weight.double() @ inner.weight.double()
    bias = outer.weight.double() @ inner.bias.double() + outer.bias.double()
    layer = nn.Linear(inner.in_features, outer.out_features).to(outer.weight)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    return layer


def _copy(into: Sequence[nn.Module], of: Sequence[nn.Module]) -> None:
    for mine, theirs in zip(into, of, strict=True):
        mine.load_state_dict(theirs.state_dict())
