"""How much may be held at a time."""

from __future__ import annotations

import torch

# Working memory a chunk may take where nothing better is known, in bytes.
CHUNK_MEMORY = 1 << 30

# Bytes of a chunk's memory to a number that passes through it on a GPU: eight arrays of float64.
_BYTES_A_NUMBER = 64


def memory_at_hand(device: torch.device, wanted: int | None = None) -> int:
    """Bytes that a chunk of work may take: on a GPU a quarter of what is free, 1 GiB or more.

    Args:
        device: that works.
        wanted: bytes that all of the work takes: where 1 GiB will do nobody is asked for more.
    """
    if device.type != "cuda" or (wanted is not None and wanted <= CHUNK_MEMORY):
        return CHUNK_MEMORY
    if torch.cuda.is_current_stream_capturing():  # no graph can ask
        return CHUNK_MEMORY
    # What torch's allocator holds and nothing uses is as free as the rest.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(CHUNK_MEMORY, (torch.cuda.mem_get_info(device)[0] + kept) // 4)


def numbers_at_a_time(device: torch.device, on_cpu: int) -> int:
    """Numbers of an array that are worked on together: few in a cache, many where it is a GPU.

    Args:
        device: that works.
        on_cpu: how many stay in the caches of a CPU.
    """
    if device.type != "cuda":
        return on_cpu
    return max(on_cpu, memory_at_hand(device) // _BYTES_A_NUMBER)
