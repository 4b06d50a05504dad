"""Algorithms: exact answers where they are known, monotone J1, per-image independence."""

from __future__ import annotations

import math

import pytest
import torch
from problems import (
    CASE_NAMES,
    IMAGE_SHAPE,
    KINDS,
    PIXELS,
    LinearPrior,
    case,
    joint_objective,
    small_mlp,
)

import jpmap_fast as jf
from jpmap_fast.objective import Projection

EXACT = jf.GaussNewton(tolerance=1e-9)
JOINT = {
    "jpmap": jf.JPMAP(z_solver=EXACT),
    "jpmap-exhaustive": jf.JPMAP(selection="exhaustive", z_solver=EXACT),
    "jpmap-alternating": jf.JPMAP(
        coupling="alternating", z_solver=EXACT, tolerance=1e-9, max_iterations=5000
    ),
    "jpmap-adam": jf.JPMAP(z_solver=jf.Adam(tolerance=1e-10, max_steps=20_000)),
    "alternate-convex-search": jf.AlternateConvexSearch(tolerance=1e-9, max_iterations=50_000),
}
# Those that need thousands of steps, each with an x-update or a data term of its own: what they do
# with an operator is the same for all that are known in one way. The others meet every operator.
# Adam would take minutes with the many conjugate gradients of "linear-operator".
SLOW = {
    "jpmap-alternating": KINDS,
    "jpmap-adam": [*KINDS[:-1], "masked-blur-per-image"],
    "alternate-convex-search": KINDS,
}
LATENT = {
    "csgm": jf.CSGM(z_solver=EXACT),
    "csgm-starts": jf.CSGM(starts=3, z_solver=EXACT),
    "csgm-adam": jf.CSGM(z_solver=jf.Adam(tolerance=1e-10, max_steps=20_000)),
}


def exact_latent_map(c, prior, beta):
    """z = (I + B^T S^{-1} B)^{-1} B^T S^{-1} (y - A b), S = sigma^2 I + A A^T / beta."""
    layer = prior.decoder_layers[0]
    a = c.matrix
    system = c.sigma.square()[:, None, None] * torch.eye(a.shape[1], dtype=a.dtype)
    system = system + (a @ a.mT) / beta[:, None, None]
    b = a @ layer.weight.detach()
    weighted = torch.linalg.solve(system, b)
    target = c.y.flatten(1) - (a @ layer.bias.detach()[:, None])[:, :, 0]
    h = torch.eye(prior.latent_dim, dtype=a.dtype) + b.mT @ weighted
    return torch.linalg.solve(h, (weighted.mT @ target[:, :, None]))[:, :, 0]


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [(algorithm, name) for algorithm in JOINT for name in SLOW.get(algorithm, CASE_NAMES)],
)
def test_linear_gaussian_model_is_solved_exactly(algorithm, name):
    """Decoder linear, encoder the exact posterior mean: the joint MAP is known in closed form."""
    prior, c = LinearPrior(), case(name)
    beta = torch.full((4,), prior.gamma**-2, dtype=torch.float64)
    expected = exact_latent_map(c, prior, beta)
    result = jf.restore(c.y, c.operator, prior, c.sigma, method=JOINT[algorithm])
    assert result.converged.all(), result.status
    # Steps of alternating methods shrink by as little as a factor 0.99, and J1 stops falling in
    # float64 at distances of sqrt(1e-16 J1) = 1e-7 times that: 1e-5 in z.
    torch.testing.assert_close(result.z, expected, rtol=1e-5, atol=1e-5)
    x, objective, _ = c.operator.bind(IMAGE_SHAPE, 4).x_update(
        prior.decode(expected).detach(), c.y, expected, beta, c.sigma
    )
    torch.testing.assert_close(result.x, x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.objective, objective, rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", CASE_NAMES)
@pytest.mark.parametrize("algorithm", sorted(LATENT))
def test_latent_map_of_a_linear_gaussian_model_is_exact(algorithm, name):
    prior, c = LinearPrior(), case(name)
    expected = exact_latent_map(c, prior, torch.full((4,), torch.inf, dtype=torch.float64))
    result = jf.restore(c.y, c.operator, prior, c.sigma, method=LATENT[algorithm])
    assert result.converged.all(), result.status
    torch.testing.assert_close(result.z, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.x, result.decoded)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_continuation_tends_to_the_latent_map_of_a_linear_gaussian_model(name):
    """The distance to MAP-z falls as 1/beta: with a gap of (alpha/255)^2 n it is small."""
    prior, c = LinearPrior(), case(name)
    expected = exact_latent_map(c, prior, torch.full((4,), torch.inf, dtype=torch.float64))
    for method in (jf.MAPz(alpha=0.01), jf.MAPzSplitting(betas=[1, 10, 100, 1e4, 1e6, 1e8])):
        result = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
        assert result.converged.all(), result.status
        torch.testing.assert_close(result.z, expected, rtol=1e-3, atol=1e-3)
        exact = joint_objective(c, result.decoded, result.decoded, result.z, torch.ones(4))
        torch.testing.assert_close(result.objective, exact)


@pytest.mark.parametrize(
    ("alpha", "name"),
    [*((5.0, name) for name in CASE_NAMES), *((1.0, name) for name in KINDS)],
)
def test_map_z_stops_at_a_gap_within_epsilon(alpha, name):
    c = case(name)
    result = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=jf.MAPz(alpha=alpha))
    assert result.converged.all(), result.status
    assert (result.gap <= (alpha / 255) ** 2 * PIXELS).all()


def test_map_z_gives_every_image_a_beta_of_its_own():
    c = case("denoising")
    result = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=jf.MAPz())
    assert len(set(result.beta.tolist())) == 4


def test_map_z_survives_a_gap_whose_exponential_overflows():
    c = case("denoising", dtype=torch.float32)
    result = jf.restore(
        c.y, c.operator, small_mlp(dtype=torch.float32), c.sigma, method=jf.MAPz(rho=1e9)
    )
    assert torch.isfinite(result.x).all() and torch.isfinite(result.beta).all()


# Each way down, and the operators it is gone with: where it takes hundreds of iterations, each with
# an x-update, one operator of every kind.
DOWNWARD = {
    "default": (jf.JPMAP(), CASE_NAMES),
    "long-encoder": (jf.JPMAP(n1=50, n2=100), CASE_NAMES),
    "exhaustive": (jf.JPMAP(selection="exhaustive", coupling="alternating"), KINDS),
    "adam": (jf.JPMAP(coupling="alternating", z_solver=jf.Adam(max_steps=30)), KINDS),
    "starts": (jf.JPMAP(starts=4), CASE_NAMES),
    "encoder-only": (jf.AlternateConvexSearch(), CASE_NAMES),
}


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way, (_, names) in DOWNWARD.items() for name in names]
)
def test_j1_never_rises_for_any_image_and_iteration(way, name):
    c, method = case(name), DOWNWARD[way][0]
    prior = small_mlp()
    result = jf.restore(
        c.y,
        c.operator,
        prior,
        c.sigma,
        method=method,
        record=True,
        generator=torch.Generator().manual_seed(0),
    )
    values = result.history.objective
    assert values.shape[0] >= 2 and torch.isfinite(values[0]).all()
    for image in values.T:
        recorded = image[torch.isfinite(image)]
        assert (recorded.diff() <= 0).all()
    last = torch.stack([image[torch.isfinite(image)][-1] for image in values.T])
    assert torch.equal(last, result.objective)
    exact = joint_objective(c, result.x, result.decoded, result.z, result.beta)
    torch.testing.assert_close(result.objective, exact, rtol=1e-8, atol=0)


def test_map_z_compares_j1_only_at_one_beta():
    """Within a beta J1 never rises; where beta rises, it was evaluated anew."""
    c = case("inpainting")
    result = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=jf.MAPz(), record=True)
    h = result.history
    same = (h.beta[1:] == h.beta[:-1]) & torch.isfinite(h.objective[1:])
    assert same.any() and (h.beta[1:] > h.beta[:-1]).any()
    assert (h.objective[1:] - h.objective[:-1])[same].max() <= 0


@pytest.mark.parametrize(("coupling", "names"), [("projected", CASE_NAMES), ("alternating", KINDS)])
def test_both_couplings_end_at_a_stationary_point_of_the_reduced_objective(coupling, names):
    from jpmap_fast.priors.protocol import make_decoder

    prior = small_mlp()
    for name in names:
        c = case(name)
        method = jf.JPMAP(
            coupling=coupling, z_solver=EXACT, tolerance=1e-9, max_iterations=20_000, starts=1
        )
        result = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
        f = Projection(c.operator.bind(IMAGE_SHAPE, 4), make_decoder(prior))(
            c.y, result.beta, c.sigma
        )
        _, gradient, matrix = f.normal_equations(result.z)
        step = torch.linalg.solve(matrix, gradient[:, :, None])[:, :, 0]
        # Alternating steps shrink by a factor under 0.999: the rest is at most 1e3 of the last one.
        assert step.square().mean(dim=1).sqrt().max() < 1e-6


def test_more_starts_never_give_a_higher_objective():
    c = case("inpainting")
    ends = [
        jf.restore(
            c.y,
            c.operator,
            small_mlp(),
            c.sigma,
            method=jf.JPMAP(starts=k),
            generator=torch.Generator().manual_seed(0),
        ).objective
        for k in (1, 2, 6)
    ]
    assert (ends[1] <= ends[0]).all() and (ends[2] <= ends[1]).all()


def test_candidates_and_iterations_are_counted_per_image():
    c = case("inpainting")
    result = jf.restore(c.y, c.operator, small_mlp(), c.sigma, record=True)
    taken = result.history.candidate
    for i in range(4):
        column = taken[1:, i]
        assert result.iterations[i] == (column >= 0).sum()
        for candidate in (1, 2, 3):
            assert result.candidates[i, candidate - 1] == (column == candidate).sum()


def test_iteration_limit_is_said_and_not_called_converged():
    c = case("denoising")
    method = jf.JPMAP(coupling="alternating", max_iterations=1, tolerance=1e-12)
    result = jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=method)
    assert not result.converged.any()
    assert all("raise max_iterations" in text for text in result.status)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: jf.JPMAP(coupling="loose"), ValueError, "coupling: expected one of"),
        (lambda: jf.JPMAP(selection="best"), ValueError, "selection: expected one of"),
        (lambda: jf.JPMAP(z_solver="newton"), ValueError, "z_solver: expected one of"),
        (lambda: jf.JPMAP(z_solver=3), TypeError, "expected z_solver to be"),
        (lambda: jf.JPMAP(starts=0), ValueError, "starts: expected at least 1"),
        (lambda: jf.JPMAP(starts=1.5), TypeError, "starts: expected an integer"),
        (lambda: jf.JPMAP(n1=-1), ValueError, "n1: expected at least 0"),
        (lambda: jf.JPMAP(tolerance=math.nan), ValueError, "tolerance: expected a finite"),
        (lambda: jf.MAPz(alpha=0), ValueError, "alpha: expected a finite number > 0"),
        (lambda: jf.MAPz(growth=(0.5, 2)), ValueError, "expected growth"),
        (lambda: jf.MAPzSplitting(betas=[3, 2]), ValueError, "increasing betas"),
        (lambda: jf.MAPzSplitting(betas=[]), ValueError, "increasing betas"),
        (lambda: jf.CSGM(starts=0), ValueError, "starts: expected at least 1"),
    ],
)
def test_impossible_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_beta_must_be_positive():
    c = case("denoising")
    for beta in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta: expected finite values > 0"):
            jf.JPMAP(beta=beta)
        with pytest.raises(ValueError, match="beta0: expected finite values > 0"):
            jf.MAPz(beta0=beta)
        each = torch.full((len(c.y),), beta)
        with pytest.raises(ValueError, match="beta: expected finite values > 0"):
            jf.restore(c.y, c.operator, small_mlp(), c.sigma, method=jf.JPMAP(beta=each))


def test_beta_may_differ_from_image_to_image():
    """Each image is restored as if its beta had been given alone, in any chunk, from any start."""
    c = case("denoising")
    prior = small_mlp()
    betas = torch.linspace(5, 50, len(c.y), dtype=torch.float64)
    whole = jf.restore(c.y, c.operator, prior, c.sigma, method=jf.JPMAP(beta=betas), chunk_size=3)
    assert torch.equal(whole.beta, betas)
    sigma = torch.as_tensor(c.sigma, dtype=torch.float64).expand(len(c.y))
    for image, beta in enumerate(betas.tolist()):
        index = torch.tensor([image])
        method = jf.JPMAP(beta=beta)
        operator = c.operator.select(index)
        alone = jf.restore(c.y[index], operator, prior, sigma[index], method=method)
        assert torch.equal(alone.x[0], whole.x[image])
