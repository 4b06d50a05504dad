"""``linear``: the product, and that a row does not know its neighbours."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, TOLERANCE, draw, scattered
from torch.nn import functional as F

from jpmap_fast import kernels
from jpmap_fast.kernels.activations import ACTIVATION_CODES, ACTIVATIONS

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 3, 12, 13, 97, 300])
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (8, 33), (512, 784), (784, 140), (3, 64)])
@pytest.mark.parametrize("biased", [True, False])
def test_matches_the_product_in_double(dtype, rows, inputs, outputs, biased):
    x = draw((rows, inputs), dtype, CPU, 0, uniform=False)
    weight = draw((outputs, inputs), dtype, CPU, 1, uniform=False)
    bias = draw((outputs,), dtype, CPU, 2, uniform=False) if biased else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    packed = kernels.pack_linear(weight)
    # A chain of `inputs` additions: its rounding grows like the root of the length.
    tolerance = TOLERANCE[dtype] * max(1, inputs / 16) ** 0.5
    for given in (x, scattered(x)):
        found = kernels.linear(given, packed, bias, outputs)
        assert found.shape == (rows, outputs)
        assert (found - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", sorted(ACTIVATION_CODES))
def test_activates_each_row_as_if_alone(dtype, activation):
    x = 9 * draw((97, 20), dtype, CPU, 0, uniform=False)
    weight = draw((45, 20), dtype, CPU, 1, uniform=False)
    bias = draw((45,), dtype, CPU, 2, uniform=False)
    packed = kernels.pack_linear(weight)
    found = kernels.linear(x, packed, bias, 45, activation)
    exact = ACTIVATIONS[activation].value(kernels.linear(x, packed, bias, 45).double())
    assert (found - exact).norm() <= TOLERANCE[dtype] * exact.norm()
    assert torch.equal(kernels.linear(x[50:51], packed, bias, 45, activation), found[50:51])
    spoiled = x.clone()
    spoiled[3] = torch.nan
    rows = kernels.linear(spoiled, packed, bias, 45, activation)
    assert bool(rows[3].isnan().all())
    assert torch.equal(rows[4:], found[4:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype):
    x = draw((5, 7), dtype, CPU, 0, uniform=False)
    packed = kernels.pack_linear(draw((40, 7), dtype, CPU, 1, uniform=False))
    bias = draw((40,), dtype, CPU, 2, uniform=False)
    torch.library.opcheck(torch.ops.jpmap.linear.default, (x, packed, bias, 40, 6))


def test_bad_arguments_are_named():
    packed = kernels.pack_linear(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"expected packed of shape \[1, 2, 32\]"):
        kernels.linear(torch.ones(5, 2), packed, None, 4)
    with pytest.raises(ValueError, match=r"expected bias of shape \[4\]"):
        kernels.linear(torch.ones(5, 3), packed, torch.ones(3), 4)
    with pytest.raises(ValueError, match="expected an activation out of elu"):
        kernels.linear(torch.ones(5, 3), packed, None, 4, "gelu")
    with pytest.raises(TypeError, match="float32 or float64"):
        kernels.linear(torch.ones(5, 3, dtype=torch.int64), packed, None, 4)


@pytest.mark.cuda
@pytest.mark.parametrize("rows", range(9))
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (8, 512), (512, 784), (784, 16), (13, 33)])
@pytest.mark.parametrize("activation", sorted(ACTIVATION_CODES))
def test_layers_of_few_rows_match_the_product_in_double(rows, inputs, outputs, activation):
    gpu = torch.device("cuda")
    x = draw((rows, inputs), torch.float32, gpu, 0, uniform=False)
    weight = draw((outputs, inputs), torch.float32, gpu, 1, uniform=False) / inputs**0.5
    bias = draw((outputs,), torch.float32, gpu, 2, uniform=False)
    for given in (x, scattered(x)):
        for b in (bias, None):
            found = kernels.layer(given, weight, b, activation)
            exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
            exact = ACTIVATIONS[activation].value(exact)
            assert found.shape == (rows, outputs)
            assert (found - exact).norm() <= 4 * TOLERANCE[torch.float32] * exact.norm()
    if rows > 1:
        alone = kernels.layer(x[1:2], weight, bias, activation)
        assert torch.equal(alone[0], kernels.layer(x, weight, bias, activation)[1])


@pytest.mark.cuda
def test_layers_refuse_what_they_cannot():
    weight = torch.ones(4, 3, device="cuda")
    with pytest.raises(ValueError, match="at most 8 rows, got 9"):
        kernels.layer(torch.ones(9, 3, device="cuda"), weight, None)
    with pytest.raises(ValueError, match="expected an activation out of elu"):
        kernels.layer(torch.ones(2, 3, device="cuda"), weight, None, "gelu")
    with pytest.raises(ValueError, match="expected weight"):
        kernels.layer(torch.ones(2, 3, device="cuda"), weight.cpu(), None)
    bias = torch.ones(4, device="cuda")
    x = torch.ones(2, 3, device="cuda")
    torch.library.opcheck(torch.ops.jpmap.layer.default, (x, weight, bias, 0))
