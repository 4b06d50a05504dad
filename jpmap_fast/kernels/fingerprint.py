"""What tells the numbers of tensors from others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jpmap_fast.kernels._extension import cuda_kernels_loaded

_ops = torch.ops.jpmap


def fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """A number of 64 bits for each tensor, of its bytes in order.

    Tensors that differ in the bits of one aligned word of eight bytes have different ones for
    certain, others but for one chance in 2^64. A tensor has the same ones as long as it stays on
    its device; another device may have others. It waits for a GPU, once.

    Args:
        tensors: of any types, on any devices.
    """
    if not tensors:
        return []
    whole = [tensor.detach().contiguous() for tensor in tensors]
    devices = {tensor.device for tensor in whole}
    if len(devices) > 1:
        return [fingerprints([tensor])[0] for tensor in whole]
    (device,) = devices
    if device.type != "cpu" and not (device.type == "cuda" and cuda_kernels_loaded()):
        whole = [tensor.cpu() for tensor in whole]
    found: list[int] = _ops.fingerprint(whole).tolist()
    return found


@torch.library.register_fake("jpmap::fingerprint")
def _(tensors):  # type: ignore[no-untyped-def]
    return tensors[0].new_empty(len(tensors), dtype=torch.int64)
