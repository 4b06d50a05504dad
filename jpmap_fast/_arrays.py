"""Arrays as they come: of torch, NumPy, SciPy and everything that NumPy can read."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCALE_HINT = "divide by 255 to bring 8-bit values into [0, 1]"

# Entries of a sparse matrix that are written out: 4 GiB in float32.
DENSE_LIMIT = 1 << 30

# Types of numbers beyond NumPy's own (jax, ml_dtypes), which NumPy keeps as raw bytes.
_SMALL_FLOATS = ("bfloat16", "float8")


# Numbers up to which a tensor of a GPU is looked at on the host: what is asked of it there would be
# launches and waits that take longer than the copy.
COPIED = 1 << 16


def on_host(*tensors: Tensor) -> list[Tensor]:
    """Tensors as the host sees them: those of a GPU copied there, with one wait for all.

    What is there already is not copied, nor what has more numbers than ``COPIED``.
    """
    copied = [t.device.type != "cpu" and t.numel() <= COPIED for t in tensors]
    found = [
        t.to("cpu", non_blocking=t.is_cuda) if copy else t
        for t, copy in zip(tensors, copied, strict=True)
    ]
    for device in {t.device for t, copy in zip(tensors, copied, strict=True) if copy and t.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return found


# Numbers of a batch that are looked at together, where what is made of them takes several times
# their memory.
TOGETHER = 1 << 22


def parts_of(y: Tensor) -> list[slice]:
    """Images of y [B, ...] that are looked at together, in order; one part for an empty batch."""
    most = max(1, TOGETHER // max(1, y[0].numel())) if len(y) else 1
    # Of nearly one size: a library may add up few rows in another order.
    step = -(-len(y) // max(1, -(-len(y) // most))) if len(y) else 1
    return [slice(begin, begin + step) for begin in range(0, max(1, len(y)), step)]


def normal_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers like a tensor, drawn on the generator's device: the same on all."""
    source = like.device if generator is None else generator.device
    drawn = torch.randn(like.shape, dtype=like.dtype, device=source, generator=generator)
    return drawn.to(like.device)


def as_tensor(name: str, value: Any, *, device: torch.device | None = None) -> Tensor:
    """A dense tensor of a tensor, an array or nested numbers, of whatever type they are.

    Any byte order, any strides, read-only or not. Sparse matrices are written out; masked arrays
    are taken where nothing in them is masked. Arrays go to ``device``; a tensor stays where it is.

    Raises:
        TypeError: no numbers, or tensors without values of their own (quantised, nested, meta).
        ValueError: masked entries, or a sparse matrix too large to write out.
    """
    if isinstance(value, Tensor):
        # Where a device is expected, the caller compares.
        if value.device.type == "meta" and device is None:
            raise TypeError(f"{name}: expected values, got a tensor on the meta device, without")
        return _of_tensor(name, value)
    if _is_scipy_sparse(value):
        _check_size(name, value.shape)
        value = value.toarray()
    if isinstance(value, (list, tuple)) and _holds_arrays(value):
        return _stacked(name, value, device)
    tensor = _of_array(name, value)
    return tensor if device is None else tensor.to(device)


def as_float_tensor(name: str, value: Any, *, device: torch.device | None = None) -> Tensor:
    """``as_tensor`` of real numbers, in float32 or float64; half precision becomes float32.

    Raises:
        TypeError: integer, boolean or complex values, or no numbers.
        ValueError: as ``as_tensor``.
    """
    tensor = as_tensor(name, value, device=device)
    if tensor.is_complex():
        raise TypeError(
            f"{name}: expected real values, got {tensor.dtype}; take .real, or give the real and "
            "the imaginary part as measurements of their own"
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name}: expected floating-point values, got {tensor.dtype}; "
            f"convert to float32 and, for images, {SCALE_HINT}"
        )
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _of_tensor(name: str, value: Tensor) -> Tensor:
    if isinstance(value, torch.masked.MaskedTensor):
        _check_mask(name, not bool(value.get_mask().to_dense().all()))
        value = value.get_data()
    if value.is_quantized:
        raise TypeError(f"{name}: expected plain values, got a quantised tensor; dequantize() it")
    if value.is_nested:
        raise TypeError(
            f"{name}: expected one array, got a nested tensor; call torch.nested.to_padded_tensor, "
            "or pass one image at a time"
        )
    if value.layout != torch.strided:
        _check_size(name, value.shape)
        value = value.to_dense()
    if value.is_inference():
        # Those of inference mode can take no part in derivatives.
        with torch.inference_mode(False), torch.no_grad():
            value = value.clone()
    # Kernels read the numbers as they lie in memory.
    return value.resolve_conj().resolve_neg()


def _of_array(name: str, value: Any) -> Tensor:
    try:
        array = np.asanyarray(value)  # a masked array that ``__array__`` returns stays one
    except Exception as error:  # of any kind: it is the object's own
        raise TypeError(
            f"{name}: expected a torch tensor or NumPy array of numbers, "
            f"got {type(value).__name__}: {error}"
        ) from error
    if isinstance(array, np.ma.MaskedArray):
        _check_mask(name, bool(np.ma.getmaskarray(array).any()))
        array = array.data
    array = np.asarray(array)
    kind = array.dtype.kind
    if array.dtype.name.startswith(_SMALL_FLOATS):
        array = array.astype(np.float32)
    elif kind not in "biufc":
        raise TypeError(
            f"{name}: expected a torch tensor or NumPy array of numbers, "
            f"got {type(value).__name__} of {array.dtype}"
        )
    dtype = array.dtype.newbyteorder("=")
    if kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    elif kind == "c" and dtype.itemsize > 16:
        dtype = np.dtype(np.complex128)
    elif kind == "u" and dtype.itemsize > 1:  # of which torch knows next to nothing
        dtype = np.dtype(np.int64)
    plain = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    if dtype != array.dtype or not (array.dtype.isnative and array.flags.writeable and plain):
        array = np.array(array, dtype=dtype, order="C")
    return torch.as_tensor(array, device="cpu")


def _holds_arrays(value: Any) -> bool:
    """Whether arrays or tensors are among nested lists: read each by itself, masks and all."""
    if isinstance(value, (list, tuple)):
        return any(_holds_arrays(item) for item in value)
    return isinstance(value, Tensor) or (
        hasattr(value, "__array__") and not isinstance(value, np.generic)
    )


def _stacked(name: str, values: Any, device: torch.device | None) -> Tensor:
    parts = [as_tensor(f"{name}[{i}]", item, device=device) for i, item in enumerate(values)]
    try:
        return torch.stack(parts)
    except (RuntimeError, TypeError) as error:
        shapes = ", ".join(str(list(part.shape)) for part in parts[:4])
        raise ValueError(f"{name}: expected arrays of one shape, got {shapes}: {error}") from error


def _is_scipy_sparse(value: Any) -> bool:
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(value))


def _check_size(name: str, shape: Any) -> None:
    if math.prod(shape) > DENSE_LIMIT:
        raise ValueError(
            f"{name}: expected at most {DENSE_LIMIT} entries once written out, got a sparse array "
            f"of shape {list(shape)}; give its products as functions, "
            "LinearOperator(A, A_adjoint)"
        )


def _check_mask(name: str, hidden: bool) -> None:
    if hidden:
        raise ValueError(
            f"{name}: expected every entry to be given, got a masked array with masked entries; "
            f"fill them, {name}.filled(0), and restore measurements with Inpainting(~{name}.mask)"
        )
