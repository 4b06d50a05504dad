"""Decoder derivatives against finite differences, and rows that do not depend on the batch."""

from __future__ import annotations

import pytest
import torch
from problems import small_mlp
from torch import nn

import jpmap_fast as jf
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.products import RowProduct, batched_product
from jpmap_fast.priors.function_decoder import FunctionDecoder
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.priors.protocol import make_decoder


def mlp(hidden: str, output: str) -> MLPDecoder:
    g = torch.Generator().manual_seed(0)
    sizes = (3, 7, 5, 11)
    layers = [
        RowProduct(
            torch.randn(o, i, generator=g, dtype=torch.float64),
            torch.randn(o, generator=g, dtype=torch.float64),
        )
        for i, o in zip(sizes, sizes[1:], strict=False)
    ]
    return MLPDecoder(layers, [hidden, hidden, output])


def plain(decoder: MLPDecoder):
    """The same function out of torch operators alone, which ``torch.func`` can differentiate."""

    def function(z):
        for layer, name in zip(decoder.layers, decoder.activations, strict=True):
            z = ACTIVATIONS[name].value(torch.nn.functional.linear(z, layer.weight, layer.bias))
        return z

    return function


@pytest.mark.parametrize("hidden", sorted(ACTIVATIONS))
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_analytic_jacobian_matches_central_differences(hidden, output):
    """Central differences with h = 1e-6 are good to about 1e-9 in float64."""
    decoder = mlp(hidden, output)
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value, columns = decoder.linearise(z)
    torch.testing.assert_close(value, decoder.value(z))
    h = 1e-6
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = h
        difference = (decoder.value(z + step) - decoder.value(z - step)) / (2 * h)
        torch.testing.assert_close(columns[:, i], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("hidden", sorted(ACTIVATIONS))
def test_torch_func_and_analytic_derivatives_agree(hidden):
    analytic = mlp(hidden, "sigmoid")
    general = FunctionDecoder(plain(analytic), 3, 11)
    g = torch.Generator().manual_seed(2)
    z = torch.randn(5, 3, generator=g, dtype=torch.float64)
    c = torch.randn(5, 11, generator=g, dtype=torch.float64)
    for a, b in zip(analytic.linearise(z), general.linearise(z), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(
        analytic.pullback(z, lambda _: c), general.pullback(z, lambda _: c), strict=True
    ):
        torch.testing.assert_close(a, b)
    _, columns = analytic.linearise(z)
    torch.testing.assert_close(
        analytic.pullback(z, lambda _: c)[1], (columns @ c[:, :, None])[:, :, 0]
    )


@pytest.mark.parametrize("hidden", sorted(ACTIVATIONS))
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_curvature_is_the_weighted_sum_of_hessians(hidden, output):
    decoder = mlp(hidden, output)
    g = torch.Generator().manual_seed(3)
    z = torch.randn(4, 3, generator=g, dtype=torch.float64)
    c = torch.randn(4, 11, generator=g, dtype=torch.float64)
    function = plain(decoder)
    found = decoder.expand(z, lambda _: c, second_order=True).curvature
    assert found is not None
    for i in range(4):
        weighted = lambda code, i=i: (c[i] * function(code)).sum()  # noqa: E731
        expected = torch.autograd.functional.hessian(weighted, z[i])
        torch.testing.assert_close(found[i], expected)


@pytest.mark.parametrize("hidden", sorted(ACTIVATIONS))
def test_products_one_by_one_and_the_expansion_are_those_of_the_jacobian(hidden):
    analytic = mlp(hidden, "sigmoid")
    g = torch.Generator().manual_seed(2)
    z = torch.randn(5, 3, generator=g, dtype=torch.float64)
    c = torch.randn(5, 11, generator=g, dtype=torch.float64)
    v = torch.randn(5, 3, generator=g, dtype=torch.float64)
    _, columns = analytic.linearise(z)
    pushed, pulled = (v[:, None] @ columns)[:, 0], (columns @ c[:, :, None])[:, :, 0]
    for decoder in (analytic, FunctionDecoder(plain(analytic), 3, 11)):
        linear = decoder.linearisation(z)
        for _ in range(2):  # a linearisation serves many products
            torch.testing.assert_close(linear.push(v), pushed)
            torch.testing.assert_close(linear.pull(c), pulled)
        expansion = decoder.expand(z, lambda _: c, second_order=True)
        torch.testing.assert_close(expansion.columns, columns)
        torch.testing.assert_close(expansion.pulled, pulled)
        assert decoder.expand(z, lambda _: c, second_order=False).curvature is None
        assert (expansion.curvature is None) == (decoder is not analytic)


def test_restricted_decoder_is_the_decoder_at_those_pixels():
    rows = torch.tensor([9, 0, 4])
    analytic = mlp("elu", "sigmoid")
    z = torch.randn(2, 3, dtype=torch.float64)
    for decoder in (analytic, FunctionDecoder(analytic.value, 3, 11)):
        value, columns = decoder.linearise(z)
        value_rows, columns_rows = decoder.restrict(rows).linearise(z)
        torch.testing.assert_close(value_rows, value[:, rows])
        torch.testing.assert_close(columns_rows, columns[:, :, rows])
        twice = decoder.restrict(rows).restrict(torch.tensor([1]))
        torch.testing.assert_close(twice.value(z), value[:, :1])


def test_any_module_becomes_a_decoder():
    class Prior:
        gamma, latent_dim, image_shape = 0.1, 3, (1, 2, 3)
        layer = nn.Linear(3, 6)

        def decode(self, z):
            return torch.tanh(self.layer(z)).reshape(-1, 1, 2, 3)

        def encode(self, x):
            return x.flatten(1)[:, :3], x.flatten(1)[:, 3:]

    assert isinstance(make_decoder(Prior()), FunctionDecoder)
    assert isinstance(make_decoder(small_mlp()), MLPDecoder)
    torch.testing.assert_close(
        make_decoder(small_mlp()).value(torch.ones(2, 3, dtype=torch.float64)),
        small_mlp().decode(torch.ones(2, 3, dtype=torch.float64)).flatten(1),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs, outputs", [(8, 512), (512, 512), (512, 784), (784, 140)])
def test_rows_of_a_product_do_not_depend_on_their_number(dtype, inputs, outputs):
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=g, dtype=dtype)
    bias = torch.randn(outputs, generator=g, dtype=dtype)
    x = torch.randn(300, inputs, generator=g, dtype=dtype)
    product = RowProduct(weight, bias)
    whole = product(x)
    for rows in (1, 2, 7, 9, 63, 144):
        assert torch.equal(product(x[5 : 5 + rows]), whole[5 : 5 + rows])
    left = x[:40].reshape(5, 8, inputs)
    products = batched_product(left, left.mT)
    for rows in (1, 2, 3):
        assert torch.equal(
            batched_product(left[1 : 1 + rows], left[1 : 1 + rows].mT), products[1 : 1 + rows]
        )


def test_public_names_exist():
    for name in jf.__all__:
        assert hasattr(jf, name)
