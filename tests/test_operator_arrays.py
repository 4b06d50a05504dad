"""What operators take: precisions, arrays, numbers; what they refuse; pickles and what is kept."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from operator_kinds import BATCH, KINDS, MASK, MATRIX, PIXELS, SHAPE, bound, images, weigh

import jpmap_fast as jf
from jpmap_fast._masks import random_masks
from jpmap_fast.operators import compressed_sensing, convolution

FREE = {jf.MatrixFree, jf.Operator}  # to be subclassed


def test_every_operator_is_among_the_kinds():
    public = {getattr(jf, name) for name in jf.__all__ if isinstance(getattr(jf, name), type)}
    operators = {kind for kind in public if issubclass(kind, jf.Operator)} - FREE
    assert operators == {type(make()) for make in KINDS.values()} & public


@pytest.mark.parametrize("name", KINDS)
def test_A_and_its_adjoint_compute_in_the_precision_of_their_argument(name):
    operator = bound(name)
    x = images(torch.float64)
    wide = operator.to(dtype=torch.float64)
    y = operator.A(x)
    # A float32 operator has the same A in float64: to the roundings of float64, not of float32.
    torch.testing.assert_close(y, wide.A(x), rtol=1e-13, atol=1e-13)
    back = operator.A_adjoint(y)
    torch.testing.assert_close(back, wide.A_adjoint(y), rtol=1e-13, atol=1e-13)
    for result in (wide.A(x.float()), wide.A_adjoint(y.float())):
        assert result.dtype == torch.float32
    torch.testing.assert_close(wide.A(x.float()), y.float(), rtol=1e-5, atol=1e-5)
    if name == "matrix-free":  # written by the user
        return
    for half in (torch.float16, torch.bfloat16):
        given = x.to(half)
        assert torch.equal(operator.A(given), operator.A(given.float()))
        assert operator.A_adjoint(y.to(half)).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in KINDS if name != "matrix-free"])
def test_arrays_are_taken_and_integers_refused(name):
    operator = bound(name)
    x = images()
    y = operator.A(x)
    flipped = np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1]
    for given in (x.numpy().astype(">f4"), flipped, np.ma.masked_array(x.numpy()), x.tolist()):
        torch.testing.assert_close(operator.A(given).float(), y)
    torch.testing.assert_close(operator.A_adjoint(y.numpy()), operator.A_adjoint(y))
    for call, name_ in ((operator.A, "x"), (operator.A_adjoint, "y")):
        values = x if name_ == "x" else y
        for bad in ((255 * values).to(torch.uint8), values > 0.5, values.numpy().astype(int)):
            with pytest.raises(TypeError, match=r"expected floating-point.*divide by 255"):
                call(bad)
        with pytest.raises(TypeError, match="expected real values"):
            call(values.to(torch.complex64))
        with pytest.raises((TypeError, ValueError), match="meta"):
            call(values.to("meta"))


@pytest.mark.parametrize("name", KINDS)
def test_measure_without_noise_is_A(name):
    operator, x = bound(name), images()
    assert torch.equal(operator.measure(x, 0), operator.A(x))
    y = operator.measure(x, [0.0, 0.1, 0.0])
    changed = (y != operator.A(x)).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]
    for sigma in (-0.1, float("nan"), float("inf"), [0.1, 0.1]):
        with pytest.raises(ValueError, match="sigma: expected"):
            operator.measure(x, sigma)


@pytest.mark.parametrize("name", KINDS)
def test_pickles_and_deep_copies_leave_out_what_is_kept(name):
    operator, x = bound(name), images()
    fresh = len(pickle.dumps(operator))
    y = operator.A(x)
    z, one = torch.zeros(BATCH, 2), torch.ones(BATCH)
    update = operator.x_update(x, y, z, one, one)
    operator.to(dtype=torch.float64).A(x.double())
    assert len(pickle.dumps(operator)) == fresh
    for again in (pickle.loads(pickle.dumps(operator)), copy.deepcopy(operator)):
        assert torch.equal(again.A(x), y)
        assert torch.equal(again.x_update(x, y, z, one, one)[0], update[0])


def test_functions_that_cannot_be_pickled_are_named():
    operator = jf.LinearOperator(lambda x: x, weigh)
    with pytest.raises(pickle.PicklingError, match="LinearOperator: A = .*top of a module"):
        pickle.dumps(operator)
    assert copy.deepcopy(operator).A(torch.ones(1, 1, 2, 2)).sum() == 4
    cloudpickle = pytest.importorskip("cloudpickle")
    again = pickle.loads(cloudpickle.dumps(operator))
    assert again.A(torch.ones(1, 1, 2, 2)).sum() == 4


def test_an_operator_in_another_precision_is_made_once(monkeypatch):
    made = []
    for module, name in ((compressed_sensing, "_factorise"), (convolution, "kernel_spectrum")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=function, n=name: made.append(n) or f(*a))
    sensing, blur = jf.CompressedSensing(MATRIX.double()), jf.Blur(torch.ones(3, 3).double() / 9)
    x, z, one = images(), torch.zeros(BATCH, 2), torch.ones(BATCH)
    for _ in range(3):
        for operator in (sensing, blur):
            single = operator.to(dtype=torch.float32).bind(SHAPE, BATCH)
            single.x_update(x, single.A(x), z, one, one)
    assert sorted(made) == ["_factorise", "kernel_spectrum"]


def test_functions_are_probed_once():
    calls = []

    def forward(x):
        calls.append(len(x))
        return 2 * x

    linear = jf.LinearOperator(forward, forward)
    like = torch.zeros(())
    composed = jf.Composition(jf.Inpainting(MASK), jf.Composition(linear, linear))
    for operator in (linear, composed, jf.Stack([linear, linear])):
        for _ in range(2):
            assert operator.bind(SHAPE, like=like).measurement_shape
    assert len(calls) == 2  # A and A_adjoint
    assert linear.bind(SHAPE, like=like.double()).measurement_shape
    assert len(calls) == 4


def test_threads_get_whole_values():
    """Eight at once on one fresh operator, for every precision: the bits of one alone."""
    x, x64 = images(), images(torch.float64)
    for name in ("compressed-sensing", "blur", "super-resolution", "dct", "composition-closed"):
        expected = bound(name).A(x), bound(name).A(x64)
        operator = bound(name)
        found: list[bool] = []
        gate = threading.Barrier(8)

        def work(i, operator=operator, expected=expected, found=found, gate=gate):
            gate.wait()
            for k in range(20):
                wide = (i + k) % 2
                found.append(torch.equal(operator.A((x, x64)[wide]), expected[wide]))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 160 and all(found)


def test_what_is_kept_serves_derivatives_whatever_mode_it_was_made_in():
    for name in KINDS:
        operator, x = bound(name), images(torch.float64)
        with torch.inference_mode():
            operator.A(x)
        assert not operator.A(x).is_inference()
        x.requires_grad_()
        y = operator.A(x)
        if y.requires_grad:
            y.sum().backward()


def test_functions_of_another_precision_or_kind_are_named():
    matrix = torch.eye(PIXELS)
    single = jf.LinearOperator(lambda x: x.flatten(1) @ matrix, lambda y: y @ matrix)
    with pytest.raises(ValueError, match=r"A: expected a function that takes torch.float64"):
        single.A(images(torch.float64))
    spectrum = jf.LinearOperator(torch.fft.fft2, torch.fft.ifft2)
    with pytest.raises(TypeError, match=r"A: .*real floats, got torch.complex64.*view_as_real"):
        spectrum.A(images())
    flat = jf.LinearOperator(lambda x: x.sum(), lambda y: y)
    with pytest.raises(ValueError, match=r"A: expected measurements \[R, ...\]"):
        flat.measurement_shape(SHAPE, torch.zeros(()))


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v.to_sparse(),
        lambda v: v.to_sparse_csr(),
        lambda v: v.to_sparse_csc(),
        lambda v: v.to_sparse_bsr((2, 2)),
        lambda v: v.numpy().astype(">f8"),
        lambda v: np.asfortranarray(v.numpy())[:, ::-1][:, ::-1],
        lambda v: np.ma.masked_array(v.numpy()),
        lambda v: v.tolist(),
        lambda v: v.numpy().astype(np.longdouble),
        lambda v: list(v.numpy()),
        lambda v: list(v),
        lambda v: pytest.importorskip("scipy.sparse").csr_array(v.numpy()),
        lambda v: pytest.importorskip("scipy.sparse").coo_matrix(v.numpy()),
    ],
)
@pytest.mark.filterwarnings("ignore:.*parse")
def test_matrices_masks_and_kernels_of_every_layout(make):
    assert torch.equal(jf.CompressedSensing(make(MATRIX)).matrix.float(), MATRIX)
    assert torch.equal(jf.Inpainting(make(MASK)).mask.float(), MASK)
    assert torch.equal(jf.Blur(make(MASK)).kernel[0].float(), MASK)


def test_read_only_and_raw_arrays():
    array = np.zeros(MASK.shape, dtype=[("pad", "u1"), ("mask", ">f4")])
    array["mask"] = MASK.numpy()
    array.flags.writeable = False
    assert torch.equal(jf.Inpainting(array["mask"]).mask, MASK)
    for dtype in (np.uint8, np.uint16, ">i4", np.uint64, bool):
        assert torch.equal(jf.Inpainting(MASK.numpy().astype(dtype)).mask, MASK)
    with pytest.raises(TypeError, match="mask > 127"):
        jf.Inpainting((255 * MASK).numpy().astype(np.uint16))
    with torch.inference_mode():
        inside = MASK * 1.0
    assert not jf.Inpainting(inside).mask.is_inference()
    assert torch.equal(jf.Inpainting(torch.complex(MASK, -MASK).conj().imag).mask, MASK)
    assert jf.Blur(MASK.half()).kernel.dtype == torch.float32


MASKED = np.ma.masked_array(MASK.numpy(), mask=MASK.numpy() == 0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
@pytest.mark.filterwarnings("ignore:.*prototype stage")
@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.filterwarnings("ignore:.*uantiz")
@pytest.mark.parametrize(
    "value, error, message",
    [
        (lambda: MASKED, ValueError, r"masked entries; fill them, .*\.filled\(0\)"),
        (lambda: [MASKED, MASKED], ValueError, r"masked entries"),
        (lambda: np.array([[1.0, None]]), TypeError, "got ndarray of object"),
        (lambda: np.array([["a"]]), TypeError, "got ndarray of <U1"),
        (lambda: "mask.png", TypeError, "got str"),
        (lambda: None, TypeError, "got NoneType"),
        (lambda: {"a": 1}, TypeError, "got dict"),
        (lambda: np.zeros((6, 8), "datetime64[s]"), TypeError, "datetime64"),
        (lambda: MASK.to(torch.complex64), TypeError, "expected real values"),
        (lambda: [[1.0, 2.0], [1.0]], TypeError, "got list"),
        (lambda: [np.ones(2), np.ones(3)], ValueError, r"arrays of one shape, got \[2\], \[3\]"),
        (lambda: MASK.to("meta"), TypeError, "meta device"),
        (
            lambda: torch.quantize_per_tensor(MASK, 0.1, 0, torch.quint8),
            TypeError,
            "quantised tensor",
        ),
        (lambda: torch.nested.nested_tensor([MASK, MASK[:2]]), TypeError, "nested tensor"),
        (
            lambda: torch.masked.masked_tensor(MASK, MASK > 0),
            ValueError,
            "masked entries",
        ),
        (
            lambda: torch.sparse_coo_tensor(
                torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6)
            ),
            ValueError,
            r"once written out, .*LinearOperator",
        ),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, error, message):
    given = value()
    for make in (jf.Inpainting, jf.Blur, jf.CompressedSensing):
        with pytest.raises(error, match=message):
            make(given)
    with pytest.raises(error, match=message):
        jf.Denoising().A(given)


def test_numbers_of_numpy_and_torch_are_numbers():
    assert torch.equal(jf.gaussian_kernel(np.float32(1.5), np.int64(5)), jf.gaussian_kernel(1.5, 5))
    assert torch.equal(jf.motion_kernel(torch.tensor(7), np.array(30.0)), jf.motion_kernel(7, 30))
    assert torch.equal(jf.box_kernel(np.uint8(3)), jf.box_kernel(3))
    small = jf.SuperResolution(np.int32(2))
    assert small.factor == 2 and type(small.factor) is int
    masks = random_masks(np.int64(2), np.array(SHAPE), np.float32(0.5))
    assert masks.shape == (2, 1, 6, 8)
    stack = jf.Stack([jf.Denoising()] * 2, noise=torch.tensor([1.0, 2.0]))
    assert stack.noise == (1.0, 2.0)
    shape = np.array(SHAPE)
    assert jf.CompressedSensing.gaussian(np.int64(3), shape).image_shape == SHAPE
    assert jf.StructuredSensing.dct(torch.tensor(3), shape).image_shape == SHAPE
    free = jf.LinearOperator(weigh, weigh, tolerance=np.float64(1e-3), max_iterations=np.int8(9))
    assert free.tolerance == 1e-3 and free.max_iterations == 9
    for bad in (True, np.True_, torch.tensor(True), 2.0, np.float32(2), "2", np.array([2])):
        with pytest.raises(TypeError, match="factor: expected an integer"):
            jf.SuperResolution(bad)
    for bad in (True, np.True_, "1", 1j, np.array([1.0]), torch.tensor(1j)):
        with pytest.raises(TypeError, match="sigma: expected a number"):
            jf.gaussian_kernel(bad)
