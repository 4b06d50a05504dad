"""The posterior of the code, planes through it, and the two experiments on the encoder."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import LinearPrior, small_mlp

import jpmap_fast as jf
from jpmap_fast.experiments import encoder_accuracy, encoder_initialisation
from jpmap_fast.experiments.context import Context, Settings
from jpmap_fast.experiments.encoder_accuracy_figures import signed_colours
from jpmap_fast.experiments.encoder_initialisation import adam_path, different, record
from jpmap_fast.experiments.encoder_initialisation_outcomes import (
    NATS,
    Outcomes,
    share_reached,
    summarise,
)
from jpmap_fast.experiments.latent_plane import (
    LatentPosterior,
    plane_through,
    principal_plane,
    random_plane,
    restrict,
)

EXACT = 1e-10  # float64 sums of a few terms of size one


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean and a precision that is no diagonal."""
    root = torch.randn(k, k, generator=generator(1), dtype=torch.float64)
    return torch.randn(k, generator=generator(2), dtype=torch.float64), root @ root.T + torch.eye(k)


@pytest.fixture
def plane():
    origin = torch.randn(5, generator=generator(3), dtype=torch.float64)
    return random_plane(origin, generator(4))


def images(prior, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *prior.image_shape, generator=generator(5), dtype=torch.float64)


def test_a_plane_has_orthonormal_axes_and_projects_orthogonally(plane):
    identity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(plane.basis @ plane.basis.T, identity, rtol=0, atol=EXACT)
    code = torch.randn(5, generator=generator(6), dtype=torch.float64)
    foot = plane.points(plane.coordinates(code))
    assert float((plane.basis @ (code - foot)).abs().max()) < EXACT
    assert math.isclose(float(plane.distance(code)), float((code - foot).norm()), rel_tol=EXACT)


def test_a_plane_through_two_points_holds_both_with_the_second_on_its_first_axis():
    one, other = torch.randn(2, 6, generator=generator(), dtype=torch.float64)
    plane = plane_through(one, other, generator(1))
    expected = torch.tensor([float((other - one).norm()), 0.0], dtype=torch.float64)
    torch.testing.assert_close(plane.coordinates(other), expected, rtol=0, atol=EXACT)
    assert float(plane.distance(torch.stack((one, other))).max()) < EXACT
    # Two points that coincide leave the direction to chance.
    assert torch.isfinite(plane_through(one, one, generator(1)).basis).all()


def test_a_restricted_gaussian_is_the_gaussian_on_the_plane(plane):
    mean, precision = gaussian()
    planar = restrict(mean, precision, plane)
    coordinates = torch.randn(20, 2, generator=generator(7), dtype=torch.float64)
    away = plane.points(coordinates) - mean
    direct = 0.5 * ((away @ precision) * away).sum(dim=1)
    torch.testing.assert_close(planar.energy(coordinates), direct, rtol=EXACT, atol=EXACT)


def test_points_of_the_ellipse_have_its_mahalanobis_distance(plane):
    planar = restrict(*gaussian(), plane)
    curve = planar.ellipse(2.0)
    distance = (2 * (planar.energy(curve) - planar.minimum)).sqrt()
    torch.testing.assert_close(distance, torch.full_like(distance, 2.0), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(curve[0], curve[-1], rtol=0, atol=EXACT)
    # No point of it is farther from the centre than along the larger standard deviation.
    radius = (curve - planar.centre).norm(dim=1).max()
    assert 0.99 * 2 * planar.widest < float(radius) <= 2 * planar.widest * (1 + EXACT)


def test_the_principal_plane_holds_points_that_lie_on_a_plane(plane):
    scales = torch.tensor([3.0, 1.0], dtype=torch.float64)
    points = plane.points(torch.randn(500, 2, generator=generator(8), dtype=torch.float64) * scales)
    found, shares = principal_plane(points.reshape(10, 50, 5))
    assert float(found.distance(points).max()) < 1e-6  # the root of float64's resolution
    assert math.isclose(sum(shares), 1.0, rel_tol=EXACT)
    assert shares[0] > 0.8


def test_the_posterior_of_a_linear_prior_is_the_encoders_gaussian():
    prior = LinearPrior()
    posterior = LatentPosterior(prior, images(prior))
    starts = torch.randn(2, 3, 3, generator=generator(), dtype=torch.float64)
    best, least = posterior.descend(starts).best()
    mean, _ = posterior.encoder()
    torch.testing.assert_close(best, mean, rtol=0, atol=3e-4)  # the solver's tolerance, rms
    weight = prior.decoder_layers[0].weight
    precision = weight.T @ weight / prior.gamma**2 + torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(posterior.hessian(mean), precision.detach().expand(3, -1, -1))
    numbers = encoder_accuracy.measure(posterior, posterior.x0, 3, generator())
    assert float(numbers["excess"].abs().max()) < 1e-6 * float(least.max())


def test_energy_is_j1_and_its_hessian_that_of_autograd():
    prior = small_mlp()
    posterior = LatentPosterior(prior, images(prior, 2))
    z, _ = posterior.descend(torch.zeros(1, 2, 3, dtype=torch.float64)).best()

    def j1(code, x0):
        residual = (prior.decode(code[None])[0] - x0).flatten()
        return 0.5 * residual.square().sum() / prior.gamma**2 + 0.5 * code.square().sum()

    for image in range(2):
        x0 = posterior.x0[image]
        direct = j1(z[image], x0).detach()
        torch.testing.assert_close(posterior.energy(z)[image], direct, rtol=EXACT, atol=EXACT)
        hessian = torch.autograd.functional.hessian(lambda code, x0=x0: j1(code, x0), z[image])
        torch.testing.assert_close(posterior.hessian(z)[image], hessian, rtol=1e-8, atol=1e-8)


def test_the_recorded_descent_ends_where_other_adams_end():
    prior = small_mlp()
    posterior = LatentPosterior(prior, images(prior, 4))
    z = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    scale = 1 / posterior.beta
    at, codes, values = adam_path(posterior.objective, z, 52, scale)
    solver = jf.Adam(max_steps=52, tolerance=1e-30)
    found = solver.minimise(posterior.objective, z, torch.full((4,), scale, dtype=torch.float64))
    assert at.tolist() == [*range(0, 51, 5), 52]
    # Other ways to sum the same moments over 52 steps.
    torch.testing.assert_close(codes[-1], found.z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(values[-1], found.objective, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(codes[0], z, rtol=0, atol=0)
    code = torch.nn.Parameter(z.clone())
    optimiser = torch.optim.Adam([code], lr=0.01)
    for _ in range(52):
        code.grad = scale * posterior.objective.gradient(code.detach())[1]
        optimiser.step()
    torch.testing.assert_close(codes[-1], code.detach(), rtol=1e-9, atol=1e-9)


def test_a_recorded_trajectory_does_not_depend_on_the_others():
    prior = small_mlp()
    draws = torch.randn(4, 2, 3, generator=generator(), dtype=torch.float64)
    posterior = LatentPosterior(prior, images(prior, 2))
    whole = record(posterior, draws, 20)
    alone = record(LatentPosterior(prior, posterior.x0[1:]), draws[:, 1:], 20)
    torch.testing.assert_close(alone["z"], whole["z"][:, :, 1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(whole["z"][0, 1:], draws, rtol=0, atol=0)


def test_the_share_of_the_best_of_k_counts_all_choices():
    reached = torch.rand(6, 3, generator=generator()) < 0.4
    share = share_reached(reached)
    for image, count in itertools.product(range(3), range(1, 7)):
        choices = list(itertools.combinations(reached[:, image].tolist(), count))
        expected = sum(map(any, choices)) / len(choices)
        assert math.isclose(float(share[image, count - 1]), expected, abs_tol=EXACT)


def test_different_counts_clusters_of_ends():
    codes = torch.zeros(5, 2, 3)
    codes[1, 0], codes[3, 0] = 1.0, 1.001
    codes[4, 0] = -2.0
    assert different(codes).tolist() == [3, 1]


def test_arrivals_are_counted_by_start():
    energy = torch.full((5, 2), 10.0, dtype=torch.float64)
    energy[1, 1], energy[3] = 10 + 2 * NATS, 30.0
    steps = torch.arange(10).reshape(5, 2)
    best = energy.amin(dim=0)
    summary = summarise(
        Outcomes.of(
            {
                "best": best,
                "energy": energy,
                "steps": steps,
                "different": torch.tensor([2, 3]),
                "norm": torch.ones(2),
            }
        )
    )
    found = summary.arrivals["Gauss-Newton"]
    assert (found.encoder, found.zero) == (1.0, 0.5)
    assert math.isclose(found.random, 2 / 3)
    assert found.lost == 20.0
    assert found.needed(1.0) == 2
    assert found.needed(1.1) is None
    assert found.joined == [1.0] * 3


def test_colours_of_a_difference_are_white_at_zero_and_pure_at_the_ends():
    colours = signed_colours(torch.tensor([0.0, 0.5, -0.5, -9.0])[:, None, None, None], 0.5)
    assert colours.shape == (4, 3, 1, 1)
    assert colours[0].flatten().tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(colours[2], colours[3])
    assert float((colours[1] - colours[2]).abs().max()) > 0.5


CASES = {
    "encoder-accuracy": (
        encoder_accuracy,
        encoder_accuracy.Sizes(4, 3, 2, 3, 9, levels=(0, 110), drawn=(0, 110)),
    ),
    "encoder-initialisation": (
        encoder_initialisation,
        encoder_initialisation.Sizes(2, 30, 4, 3, 5, 2, 2, 40, levels=(0, 110)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_experiment_writes_its_figures_and_does_no_step_twice(name, tmp_path):
    pytest.importorskip("matplotlib")
    module, sizes = CASES[name]
    done: list[str] = []
    section = module.experiment(Context(Settings(), tmp_path, done.append), name, sizes)
    assert section.name == name
    assert done
    for figure in section.figures:
        for suffix in (".png", ".svg"):
            assert (tmp_path / f"{figure.stem}{suffix}").stat().st_size > 1000
        assert "{" not in figure.caption
    assert not any("nan" in paragraph.split() for paragraph in section.text)
    assert [row[0] for row in section.tables[-1].rows] == [0, 110]
    content = section.as_json()
    done.clear()
    again = module.experiment(Context(Settings(), tmp_path, done.append), name, sizes)
    assert not done
    assert again.as_json() == content
