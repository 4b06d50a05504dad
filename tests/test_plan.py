"""Which way a descent runs, as one table; and that what is said is what ran."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from problems import IMAGE_SHAPE, case, small_mlp
from torch import nn

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.solvers import LatentSolution

ACTION = "A is known by its action alone"
NO_MLP = "the decoder is no plain multilayer perceptron"


class Attention(nn.Module):
    """A decoder with a part that has no forward-mode derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 30)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        rows = self.layer(z).reshape(-1, 1, 5, 6)
        return nn.functional.scaled_dot_product_attention(rows, rows, rows).reshape(-1, 1, 6, 5)


def module_prior(decoder: Any, latent: int = 3) -> jf.ModulePrior:
    """A prior of a decoder of some kind."""

    def encode(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x.flatten(1)[:, :1].expand(-1, latent)
        return mean, torch.zeros_like(mean)

    return jf.ModulePrior(encode, decoder, 0.2, latent, IMAGE_SHAPE)


def chain(latent: int = 3) -> nn.Module:
    """A decoder that is taken apart, and is no multilayer perceptron."""
    layers = nn.Linear(latent, 30), nn.Tanh(), nn.Unflatten(1, IMAGE_SHAPE)
    return nn.Sequential(*layers, nn.Conv2d(1, 1, 3, padding=1)).double().eval()


def opaque(z: torch.Tensor) -> torch.Tensor:
    """A decoder that nobody can take apart."""
    return torch.sin(z.sum(dim=1)).reshape(-1, 1, 1, 1).expand(-1, *IMAGE_SHAPE)


@dataclass(frozen=True)
class Still:
    """A solver that stays where it is and says nothing of how."""

    def minimise(
        self, objective: Any, z: torch.Tensor, scale: torch.Tensor | None = None
    ) -> LatentSolution:
        steps = torch.zeros(len(z), dtype=torch.int64)
        return LatentSolution(z, objective.value(z), steps, steps == 0)


MLP, SOLVER = small_mlp, jf.GaussNewton
ITERATED = SOLVER(linear_solver="conjugate-gradient")
ALTERNATING = jf.JPMAP(coupling="alternating")
# prior, operator, solver (or a method with it): path, reason, columns of the Jacobian, whether a
# graph cannot hold it.
TABLE = {
    "an MLP": (MLP, "denoising", SOLVER(), "compiled", "", None, False),
    "behind a mask": (MLP, "inpainting", SOLVER(), "compiled", "", None, False),
    "behind a matrix": (MLP, "compressed-sensing", SOLVER(), "compiled", "", None, False),
    "behind functions": (MLP, "linear-operator", SOLVER(), "torch", ACTION, True, False),
    "not fused": (MLP, "denoising", SOLVER(fused=False), "torch", "fused=False", True, False),
    "iterated": (
        *(MLP, "denoising", ITERATED, "torch", "linear_solver='conjugate-gradient'", False, True),
    ),
    "Adam": (MLP, "denoising", jf.Adam(), "torch", "Adam is not compiled", True, True),
    "many codes": (
        *(lambda: small_mlp(65), "denoising", SOLVER(), "torch"),
        *("65 latent dimensions, compiled are up to 64", False, False),
    ),
    "a chain": (lambda: module_prior(chain()), "denoising", SOLVER(), "torch", NO_MLP, True, False),
    "a long chain": (
        *(lambda: module_prior(chain(25), 25), "denoising", SOLVER(), "torch", NO_MLP),
        *(False, False),
    ),
    "columns by wish": (
        *(lambda: module_prior(chain(25), 25), "denoising", SOLVER(linear_solver="direct")),
        *("torch", NO_MLP, True, False),
    ),
    "any function": (
        lambda: module_prior(opaque),
        "denoising",
        SOLVER(),
        "torch",
        NO_MLP,
        True,
        False,
    ),
    "attention": (
        *(lambda: module_prior(Attention().double().eval()), "denoising", SOLVER()),
        *("torch (reverse mode)", NO_MLP, True, False),
    ),
    "alternating": (MLP, "inpainting", ALTERNATING, "compiled", "", None, False),
    # Its descents know x alone, and no A.
    "alternating, functions": (MLP, "linear-operator", ALTERNATING, "compiled", "", None, False),
    "continuation, functions": (
        *(MLP, "linear-operator", jf.MAPzSplitting(coupling="alternating", betas=[9.0])),
        *("compiled", "", None, False),
    ),
    "the latent objective": (MLP, "linear-operator", jf.CSGM(), "torch", ACTION, True, False),
    "Adam, functions": (
        *(MLP, "linear-operator", jf.Adam(max_steps=9), "torch", "Adam is not compiled"),
        *(True, True),
    ),
    "Adam in the latent space": (
        *(MLP, "inpainting", jf.CSGM(z_solver=jf.Adam(max_steps=9)), "torch"),
        *("Adam is not compiled", True, True),
    ),
    "one of one's own": (MLP, "denoising", Still(), "torch", "Still is not compiled", True, True),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_plan_is_the_table_and_what_runs(name):
    make, operator, method, path, reason, direct, waits = TABLE[name]
    prior, c = make(), case(operator)
    if not isinstance(method, Algorithm):
        method = jf.JPMAP(starts=1, n2=0, z_solver=method, max_iterations=1)
    plan = method.plan(prepare(c.y, c.operator, prior, c.sigma).problem)
    assert (plan.path, plan.reason, plan.waits) == (path, reason, waits)
    assert (plan.compiled is None) == bool(reason)
    assert direct is None or plan.direct == direct
    result = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
    assert (result.path, result.reason) == (path, reason)
    options = {"batch_size": len(c.y), "method": method, "dtype": c.y.dtype}
    restorer = jf.Restorer(c.operator, prior, c.sigma, **options)
    assert (restorer.path, restorer.reason) == (path, reason)
    called = restorer(c.y)
    assert (called.path, called.reason) == (path, reason)


def test_methods_without_descents_say_so():
    c = case("denoising")
    for method in (jf.AlternateConvexSearch(), jf.PnPADMM(lambda x, s: x)):
        plan = method.plan(prepare(c.y, c.operator, small_mlp(), c.sigma).problem)
        assert (plan.path, plan.reason) == ("", "it makes no descents")
        assert jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method).path == ""
