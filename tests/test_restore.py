"""The public call: shapes, inputs, independence of images, failures, every message."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import CASE_NAMES, IMAGE_SHAPE, PIXELS, case, small_mlp

import jpmap_fast as jf
from jpmap_fast._prepared import prepare
from jpmap_fast._run import Run

SIGMA = 10 / 255


@pytest.fixture(scope="module")
def mnist():
    return jf.load_prior("mnist")


@pytest.fixture(scope="module")
def digits():
    return jf.mnist_test_digits(24)[0]


def mnist_problems(digits):
    """The three problems at real size, float32."""
    g = torch.Generator().manual_seed(0)
    masks = (torch.rand(digits.shape, generator=g) < 0.2).float()
    for operator, sigma in (
        (jf.Denoising(), 110 / 255),
        (jf.Inpainting(masks[0]), SIGMA),
        (jf.Inpainting(masks), SIGMA),
        (jf.CompressedSensing.gaussian(140, (1, 28, 28), g), SIGMA),
    ):
        yield operator, operator.measure(digits, sigma, g), sigma


@pytest.mark.parametrize("method", ["jpmap", "map-z", "csgm", "alternate-convex-search"])
def test_an_image_alone_and_in_any_batch_has_the_same_bits(mnist, digits, method):
    for operator, y, sigma in mnist_problems(digits):
        whole = jf.restore(y, operator, mnist, sigma, method=method)
        for rows in ([5], [23, 0, 5], list(range(3, 20))):
            index = torch.tensor(rows)
            part = jf.restore(y[index], operator.select(index), mnist, sigma, method=method)
            assert torch.equal(part.x, whole.x[index])
            assert torch.equal(part.z, whole.z[index])
            assert torch.equal(part.iterations, whole.iterations[index])


def test_same_inputs_give_the_same_bits(mnist, digits):
    for operator, y, sigma in mnist_problems(digits):
        ends = [
            jf.restore(
                y,
                operator,
                mnist,
                sigma,
                method=jf.JPMAP(starts=4),
                generator=torch.Generator().manual_seed(7),
            )
            for _ in range(2)
        ]
        assert torch.equal(ends[0].x, ends[1].x)


def test_chunks_change_nothing(mnist, digits):
    for operator, y, sigma in mnist_problems(digits):
        options = {"method": jf.JPMAP(starts=3), "record": True}
        torch.manual_seed(0)
        whole = jf.restore(y, operator, mnist, sigma, **options)
        torch.manual_seed(0)
        cut = jf.restore(y, operator, mnist, sigma, chunk_size=7, **options)
        assert torch.equal(whole.x, cut.x)
        torch.testing.assert_close(
            whole.history.objective, cut.history.objective, equal_nan=True, rtol=0, atol=0
        )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_image_is_marked_and_the_others_keep_their_bits(mnist, digits, bad):
    for operator, y, sigma in mnist_problems(digits):
        clean = jf.restore(y, operator, mnist, sigma)
        y[4].view(-1)[3] = bad
        dirty = jf.restore(y, operator, mnist, sigma)
        assert "failed: the measurement contains NaN or infinity" in dirty.status[4]
        assert not dirty.converged[4]
        assert torch.isnan(dirty.x[4]).all() and torch.isnan(dirty.objective[4])
        others = torch.tensor([i for i in range(24) if i != 4])
        assert torch.equal(clean.x[others], dirty.x[others])
        assert torch.equal(clean.objective[others], dirty.objective[others])


def test_a_batch_of_bad_images_fails_without_an_error(mnist):
    y = torch.full((2, 1, 28, 28), torch.nan)
    result = jf.restore(y, jf.Denoising(), mnist, 0.1)
    assert all(text.startswith("failed") for text in result.status)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_an_empty_batch_gives_an_empty_result(name):
    c = case(name)
    none = torch.zeros(0, dtype=torch.int64)
    for method in ("jpmap", "map-z", "map-z-splitting", "csgm", "alternate-convex-search"):
        result = jf.restore(
            c.y[:0], c.operator.select(none), small_mlp(), c.sigma[:0], method=method, record=True
        )
        assert result.x.shape == (0, *IMAGE_SHAPE) and result.z.shape == (0, 3)
        assert result.status == [] and result.candidates.shape == (0, 3)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_unbatched_measurements_give_unbatched_results(name):
    c = case(name)
    one = c.operator.select(torch.tensor([2]))
    whole = jf.restore(c.y, c.operator, small_mlp(), c.sigma)
    single = jf.restore(c.y[2], one, small_mlp(), float(c.sigma[2]), record=True)
    assert single.x.shape == IMAGE_SHAPE and single.z.shape == (3,)
    assert single.objective.shape == () and single.status == "converged"
    assert single.history.objective.dim() == 1
    torch.testing.assert_close(single.x, whole.x[2])


def test_numpy_arrays_are_accepted(mnist, digits):
    operator = jf.Inpainting(np.eye(28, dtype=np.float32))
    y = operator.measure(digits[:3], SIGMA)
    a = jf.restore(y, operator, mnist, SIGMA)
    b = jf.restore(y.numpy(), operator, mnist, np.full(3, SIGMA))
    assert torch.equal(a.x, b.x)


def test_double_measurements_follow_the_prior_precision(mnist, digits):
    result = jf.restore(digits[:2].double(), jf.Denoising(), mnist, 0.1)
    assert result.x.dtype == torch.float32
    exact = jf.restore(digits[:2].double(), jf.Denoising(), jf.load_prior("mnist").double(), 0.1)
    assert exact.x.dtype == torch.float64
    torch.testing.assert_close(result.objective.double(), exact.objective, rtol=1e-4, atol=0)


def test_sigma_of_each_image_counts(mnist, digits):
    sigma = torch.tensor([0.05, 0.2, 0.4])
    y = jf.Denoising().measure(digits[:3], sigma, torch.Generator().manual_seed(0))
    together = jf.restore(y, jf.Denoising(), mnist, sigma)
    for i in range(3):
        alone = jf.restore(y[i], jf.Denoising(), mnist, float(sigma[i]))
        torch.testing.assert_close(alone.x, together.x[i], rtol=0, atol=1e-6)


def test_restored_digits_are_better_than_their_measurements(mnist, digits):
    """A floor far under what the method reaches (about 19 dB), far over the measurements."""
    from jpmap_fast._metrics import psnr

    for operator, y, sigma in mnist_problems(digits):
        result = jf.restore(y, operator, mnist, sigma)
        assert result.converged.all()
        assert psnr(result.x, digits).mean() > 16
        crude = operator.A_adjoint(y)
        assert psnr(result.x, digits).mean() > psnr(crude, digits).mean() + 4


def test_progress_bar_counts_images(mnist, digits, capsys):
    jf.restore(digits[:5], jf.Denoising(), mnist, 0.1, method="csgm", progress=True)
    assert "5/5" in capsys.readouterr().err


class TestMessages:
    """Bad input: what was expected, what came, how to mend it, before any work."""

    @pytest.mark.parametrize(
        "y, message",
        [
            (torch.zeros(2, 1, 6, 4), r"y: expected shape \[B, 1, 6, 5\] or \[1, 6, 5\]"),
            (torch.zeros(2, 3, 6, 5), r"got \[2, 3, 6, 5\]"),
            (torch.zeros(6, 5), r"got \[6, 5\]"),
            (torch.zeros(2, 30), r"got \[2, 30\]"),
        ],
    )
    def test_shape(self, y, message):
        with pytest.raises(ValueError, match=message):
            jf.restore(y.double(), jf.Denoising(), small_mlp(), 0.1)

    def test_measurement_count(self):
        operator = jf.CompressedSensing(torch.randn(7, PIXELS, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"y: expected shape \[B, 7\] or \[7\]"):
            jf.restore(torch.zeros(2, 8), operator, small_mlp(), 0.1)

    def test_matrix_of_another_image_size(self):
        operator = jf.CompressedSensing(torch.randn(7, 31, dtype=torch.float64))
        with pytest.raises(ValueError, match="expected 30 columns"):
            jf.restore(torch.zeros(2, 7), operator, small_mlp(), 0.1)

    @pytest.mark.parametrize("sigma", [0.0, -0.1, float("nan"), float("inf")])
    def test_sigma_value(self, sigma):
        y = torch.zeros(2, *IMAGE_SHAPE)
        said = "sigma: expected finite values > 0"
        with pytest.raises(ValueError, match=said):
            jf.restore(y, jf.Denoising(), small_mlp(), sigma)
        with pytest.raises(ValueError, match=said):
            jf.restore(y, jf.Denoising(), small_mlp(), torch.tensor([0.1, sigma]))

    def test_sigma_count(self):
        with pytest.raises(ValueError, match="sigma: expected a number or a vector of 2"):
            jf.restore(torch.zeros(2, *IMAGE_SHAPE), jf.Denoising(), small_mlp(), torch.ones(3))

    def test_integer_images(self):
        y = torch.zeros(2, *IMAGE_SHAPE, dtype=torch.uint8)
        with pytest.raises(TypeError, match="divide by 255"):
            jf.restore(y, jf.Denoising(), small_mlp(), 0.1)
        with pytest.raises(TypeError, match="divide by 255"):
            jf.restore(y.numpy(), jf.Denoising(), small_mlp(), 0.1)

    def test_unknown_method(self):
        with pytest.raises(ValueError, match="method: expected one of 'jpmap', 'map-z'"):
            jf.restore(
                torch.zeros(2, *IMAGE_SHAPE), jf.Denoising(), small_mlp(), 0.1, method="magic"
            )

    def test_unknown_prior(self):
        with pytest.raises(ValueError, match="mnist"):
            jf.restore(torch.zeros(2, *IMAGE_SHAPE), jf.Denoising(), "no-such-prior", 0.1)

    def test_things_that_are_no_operator_prior_or_method(self):
        y = torch.zeros(2, *IMAGE_SHAPE)
        with pytest.raises(TypeError, match="operator: expected an operator"):
            jf.restore(y, "inpainting", small_mlp(), 0.1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="prior: expected an object with encode"):
            jf.restore(y, jf.Denoising(), object(), 0.1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="method: expected one of"):
            jf.restore(y, jf.Denoising(), small_mlp(), 0.1, method=3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="y: expected a torch tensor"):
            jf.restore("image.png", jf.Denoising(), small_mlp(), 0.1)

    def test_tensors_on_different_devices(self):
        y = torch.zeros(2, *IMAGE_SHAPE, device="meta")
        with pytest.raises(ValueError, match="on one device, got meta and cpu"):
            jf.restore(y, jf.Denoising(), small_mlp(), 0.1)
        mask = jf.Inpainting(torch.ones(IMAGE_SHAPE)).to(device="meta")
        with pytest.raises(ValueError, match="the operator on one device, got cpu and meta"):
            jf.restore(torch.zeros(2, *IMAGE_SHAPE), mask, small_mlp(), 0.1)

    def test_masks_for_another_number_of_images(self):
        operator = jf.Inpainting(torch.ones(3, *IMAGE_SHAPE))
        with pytest.raises(ValueError, match="each of 2 images, got 3"):
            jf.restore(torch.zeros(2, *IMAGE_SHAPE), operator, small_mlp(), 0.1)


def test_chunks_of_compiled_descents_are_larger(monkeypatch):
    """Their Jacobians are nowhere in torch's memory: 16 arrays a start, in place of 4 (k + 8)."""
    memory, starts = 1 << 16, 2  # too little for all four images
    monkeypatch.setattr("jpmap_fast._memory.CHUNK_MEMORY", memory)
    c, runs = case("denoising"), {}
    for fused in (True, False):
        method = jf.JPMAP(z_solver=jf.GaussNewton(fused=fused))
        runs[fused] = Run(prepare(c.y, c.operator, small_mlp(), c.sigma).problem, method, None)
    assert runs[True]._fitting() == memory // (16 * PIXELS * 8 * starts) == 8
    assert runs[False]._fitting() == memory // (4 * (3 + 8) * PIXELS * 8 * starts) == 3
