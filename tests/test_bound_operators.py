"""Operators bound to images: what they keep and refuse, draws of x, and shapes told backwards."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from operator_kinds import BATCH, KINDS, SHAPE, Rows, bound, images, weigh
from operator_properties import near
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.operators import BoundOperator
from jpmap_fast.operators.data_term import Action

DRAWS = 3000
PIXELS = math.prod(SHAPE)


def dense(operator: BoundOperator) -> Tensor:
    """A [m, n] of the first image, float64."""
    basis = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *SHAPE)
    rows = operator.select(torch.zeros(PIXELS, dtype=torch.int64))
    return rows.A(basis).flatten(1).T


@pytest.mark.parametrize("name", KINDS)
def test_draws_of_x_have_the_mean_and_covariance_of_the_posterior(name):
    """In coordinates where the dense float64 posterior is N(0, I), by 3,000 draws.

    Means and covariances are within 5.5 standard errors, 0.1 and 0.14 of a variance. Along the
    eigenvector that A sees best e_1 makes two thirds of it, e_2 the rest, and all where A sees
    nothing: draws without one of them, or with one twice as large, are beyond that.
    """
    operator = KINDS[name]().bind(SHAPE, BATCH, like=images(torch.float64))
    g = torch.Generator().manual_seed(3)
    matrix, sigma = dense(operator), 0.3
    beta = float(torch.linalg.matrix_norm(matrix, 2)) ** 2 / (2 * sigma**2)
    y = operator.measure(images(torch.float64), sigma, g)[:1]
    decoded = images(torch.float64, seed=1)[:1]
    of_first = operator.select(torch.zeros(DRAWS, dtype=torch.int64))
    levels = torch.ones(DRAWS, dtype=torch.float64)
    many = decoded.expand(DRAWS, *SHAPE).contiguous(), y.expand(DRAWS, *y.shape[1:]).contiguous()
    x = of_first.sample_x(many[0], beta * levels, sigma * levels, many[1], g)
    assert x.shape == (DRAWS, *SHAPE)

    identity = torch.eye(PIXELS, dtype=torch.float64)
    precision = matrix.T @ matrix / sigma**2 + beta * identity
    target = matrix.T @ y.flatten() / sigma**2 + beta * decoded.flatten()
    values, basis = torch.linalg.eigh(precision)
    white = (x.flatten(1) - torch.linalg.solve(precision, target)) @ basis * values.sqrt()
    error = 5.5 / math.sqrt(DRAWS)
    assert white.mean(dim=0).abs().max() < error
    covariance = white.T @ white / DRAWS
    deviation = torch.where(identity == 1, math.sqrt(2), 1.0)  # of squares, and of products
    assert ((covariance - identity).abs() / deviation).max() < error


def test_draws_repeat_with_their_seed_and_keep_to_the_decoder_at_infinite_beta():
    operator = bound("inpainting")
    decoded, y, level = images(seed=1), images(), torch.full((BATCH,), 0.2)

    def drawn(beta: Tensor, seed: int) -> Tensor:
        return operator.sample_x(decoded, beta, level, y, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(level, 0), drawn(level, 0))
    assert not torch.equal(drawn(level, 0), drawn(level, 1))
    assert torch.equal(drawn(torch.full_like(level, torch.inf), 0), decoded)


def test_draws_of_one_image_have_noise_of_their_own_and_what_they_share_is_given_once():
    """With y [1, ...] as with y written out; and where A sees all, e_1 is what draws differ by."""
    for name in ("denoising", "blur", "compressed-sensing", "stack"):
        operator, decoded = bound(name), images(seed=1)
        y, level = operator.A(images())[:1], torch.full((BATCH,), 0.2)
        many = y.expand(BATCH, *y.shape[1:])
        draws = [
            operator.sample_x(decoded, beta, sigma, given, torch.Generator().manual_seed(0))
            for given, beta, sigma in ((y, level[:1], level[:1]), (many, level, level))
        ]
        assert torch.equal(*draws), name
    zero = torch.zeros(1, *SHAPE).expand(2000, *SHAPE)
    operator, one = jf.Denoising().bind(SHAPE), torch.tensor([1.0])
    x = operator.sample_x(zero, 1e-4 * one, one, zero[:1], torch.Generator().manual_seed(0))
    # e_1 makes all but 1e-4 of the variance of a pixel: shared, the mean would have it whole.
    assert x.mean(dim=0).abs().max() < 5.5 / math.sqrt(2000)


@pytest.mark.parametrize(
    "changed, kind, message",
    [
        ({"beta": torch.tensor([0.0])}, ValueError, "beta: expected values > 0, got 0.0"),
        ({"beta": torch.tensor([1.0, -2.0, 1.0])}, ValueError, "beta: .*> 0, got -2.0"),
        ({"beta": torch.tensor([torch.nan])}, ValueError, "beta: .*> 0, got nan"),
        ({"sigma": torch.tensor([torch.nan])}, ValueError, "sigma: .*> 0 and finite, got nan"),
        ({"sigma": torch.tensor([torch.inf])}, ValueError, "sigma: .*> 0 and finite, got inf"),
        ({"sigma": torch.tensor([0.0])}, ValueError, "sigma: .*> 0 and finite, got 0.0"),
        ({"sigma": torch.ones(2)}, ValueError, r"sigma: .*\[3\], or \[1\] .*, got \[2\]"),
        ({"beta": torch.tensor(1.0)}, ValueError, r"beta: .*\[3\], or \[1\] .*, got \[\]"),
        ({"beta": 1.0}, TypeError, "beta: expected a tensor, got float"),
        ({"y": torch.zeros(2, *SHAPE)}, ValueError, r"y: .*\[3, 1, 6, 8\], .*got \[2, 1, 6, 8\]"),
        ({"y": torch.zeros(SHAPE)}, ValueError, r"y: .*, got \[1, 6, 8\]"),
        ({"decoded": torch.zeros(3, 1, 8, 6)}, ValueError, "decoded: .* bind it to these"),
    ],
)  # fmt: skip
def test_draws_refuse_what_no_density_has(changed, kind, message):
    one = torch.tensor([1.0])
    given = {"decoded": images(), "beta": one, "sigma": one, "y": images()}
    with pytest.raises(kind, match=message):
        bound("denoising").sample_x(**given | changed)


def test_what_nobody_observed_varies_as_the_prior():
    operator = jf.Inpainting(torch.zeros(40, 40)).bind((1, 40, 40))
    zero, beta = torch.zeros(2, 1, 40, 40), torch.tensor([4.0, 100.0])
    x = operator.sample_x(zero, beta, 0.1 * beta, zero, torch.Generator().manual_seed(0))
    # 1,600 draws: the sample deviation is within 5 standard errors, 1.8% each.
    assert ((x.flatten(1).std(dim=1) * beta.sqrt() - 1).abs() < 5 * 0.018).all()


# Of these, measurements do not tell the images' shape unless bound to one.
SILENT = {"linear-operator", "matrix-free", "stack", "composition-closed"}


@pytest.mark.parametrize("name", KINDS)
def test_image_shape_of_is_the_inverse_of_measurement_shape(name):
    like = torch.zeros(())
    operator, fixed = KINDS[name](), bound(name)
    measured = fixed.measurement_shape
    assert operator.image_shape_of(measured) == (None if name in SILENT else SHAPE)
    assert fixed.operator.image_shape_of(measured) == SHAPE
    assert fixed.operator.measurement_shape(SHAPE, like) == measured


@pytest.mark.parametrize(
    "operator, measured, expected",
    [
        (jf.Denoising(), (3, 7, 9), (3, 7, 9)),
        (jf.Denoising(), (10,), None),
        (jf.Inpainting(torch.ones(5, 4)), (3, 5, 4), (3, 5, 4)),
        (jf.Blur(torch.ones(3, 4), "valid"), (2, 5, 6), (2, 7, 9)),
        (jf.Blur(torch.ones(3, 4), "valid"), (60,), None),
        (jf.Blur(torch.ones(3, 4), "reflect"), (2, 5, 6), (2, 5, 6)),
        (jf.SuperResolution(4, "bicubic"), (3, 5, 6), (3, 20, 24)),
        (jf.CompressedSensing(torch.ones(4, 12)), (4,), None),
        (jf.CompressedSensing(torch.ones(4, 12), (1, 3, 4)), (4,), (1, 3, 4)),
        (jf.Composition(jf.Blur(torch.ones(3, 3), "valid"), jf.SuperResolution(2)), (1, 4, 4),
         (1, 12, 12)),
        (jf.Composition(jf.CompressedSensing(torch.ones(4, 12)), jf.Denoising()), (4,), None),
        (jf.Composition(jf.CompressedSensing(torch.ones(4, 12), (1, 3, 4)), jf.SuperResolution(2)),
         (4,), (1, 6, 8)),
        (jf.Stack([jf.Denoising(), jf.CompressedSensing(torch.ones(4, 12), (1, 3, 4))]), (16,),
         (1, 3, 4)),
    ],
)  # fmt: skip
def test_shapes_of_images_by_those_of_their_measurements(operator, measured, expected):
    assert operator.image_shape_of(measured) == expected


@pytest.mark.parametrize("name", KINDS)
def test_bound_operators_take_the_precision_of_images_and_keep_their_data_term(name):
    operator = KINDS[name]().bind(SHAPE, BATCH, like=images(torch.float64))
    assert isinstance(operator, BoundOperator) and not isinstance(operator, jf.Operator)
    assert operator.image_shape == SHAPE and operator.batch in (None, BATCH)
    assert operator.data_term() is operator.data_term()
    if not isinstance(operator.data_term(), Action):
        assert operator.stays_on_device
        assert operator.data_term().coordinates(operator.A(images(torch.float64))).shape[0] == BATCH
    level = torch.ones(BATCH, dtype=torch.float64)
    x, y = images(torch.float64), operator.A(images(torch.float64))
    assert tuple(y.shape[1:]) == operator.measurement_shape
    found = operator.x_update(x, y, level[:, None], level, level)
    again = KINDS[name]().x_update(x, y, level[:, None], level, level)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(operator)))
    for other in (again, twin.x_update(x, y, level[:, None], level, level)):
        for a, b in zip(found, other, strict=True):
            near(a, b, 1e-12)
    if operator.batch is None:
        assert operator.select(torch.tensor([0])) is operator


@pytest.mark.parametrize("name", KINDS)
def test_images_of_another_shape_or_number_are_refused(name):
    operator = bound(name)
    turned, level = images().mT.contiguous(), torch.ones(BATCH)
    y = operator.A(images())
    with pytest.raises(ValueError, match=r"decoded: expected images .*1, 6, 8.* bind it to these"):
        operator.x_update(turned, y, level[:, None], level, level)
    if operator.batch is not None:
        with pytest.raises(ValueError, match=r"\[3, 1, 6, 8\].* got \[2, 1, 6, 8\]"):
            operator.x_update(images()[:2], y[:2], level[:2, None], level[:2], level[:2])


def test_a_learned_kernel_reaches_the_data_term():
    kernel = (torch.ones(3, 3) / 9).requires_grad_()
    operator = jf.Blur(kernel).bind(SHAPE)
    for _ in range(2):
        (found,) = torch.autograd.grad(operator.data_term().values.sum(), kernel)
        assert found.abs().sum() > 0


@pytest.mark.parametrize("name", ["inpainting-per-image", "composition", "stack"])
def test_a_bound_operator_stands_for_its_operator(name):
    """In a restoration, and in a composition or stack."""
    prior = jf.MLPVAE(image_shape=SHAPE, latent_dim=2, hidden=(8,)).eval()
    operator = bound(name)
    y = operator.measure(images(), 0.1, torch.Generator().manual_seed(0))
    found = jf.restore(y, operator, prior, 0.1, generator=torch.Generator().manual_seed(1))
    plain = jf.restore(y, KINDS[name](), prior, 0.1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.x, plain.x)
    restorer = jf.Restorer(operator, prior, 0.1, batch_size=BATCH)
    assert restorer(y).x.shape == found.x.shape
    for made in (jf.Composition(jf.Denoising(), operator), jf.Stack([operator, jf.Denoising()])):
        assert made.bind(SHAPE, BATCH).A(images()).shape[0] == BATCH


@pytest.mark.parametrize("method", ["bind", "x_update", "data_term", "check_range"])
def test_a_class_that_writes_what_only_bound_operators_do_is_refused(method):
    with pytest.raises(TypeError, match=f"Old: expected no {method} of its own, .* of MatrixFree"):
        type("Old", (Rows,), {method: lambda self, *args: self})


def test_bound_operators_move():
    operator = bound("inpainting-per-image").to(dtype=torch.float64)
    assert operator.operator.mask.dtype == torch.float64 and operator.image_shape == SHAPE
    assert operator.bind(SHAPE, BATCH).batch == BATCH
    probed = jf.LinearOperator(weigh, weigh).bind(SHAPE, like=images(torch.float64))
    assert probed.to("cpu")._place == (torch.float64, torch.device("cpu"))
    assert probed.to(dtype=torch.float32)._place == (torch.float32, torch.device("cpu"))
    assert bound("linear-operator").to(dtype=torch.float64)._place is None
    assert repr(operator) == "Inpainting(mask [3, 1, 6, 8]) for images [1, 6, 8]"
