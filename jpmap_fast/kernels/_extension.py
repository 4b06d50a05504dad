"""The compiled modules: loading them, and saying what was loaded."""

from __future__ import annotations

from typing import Any

import torch

MINIMUM_TORCH = (2, 11)


def _torch_release() -> tuple[int, ...]:
    digits = torch.__version__.split("+")[0].split(".")[:2]
    return tuple(int(part) for part in digits)


if _torch_release() < MINIMUM_TORCH:
    raise ImportError(
        f"jpmap_fast needs torch >= 2.11, this environment has {torch.__version__}; "
        "run: pip install -U torch"
    )

try:
    import jpmap_fast._C as _C
except ImportError as error:
    raise ImportError(
        f"jpmap_fast: the compiled module does not load with torch {torch.__version__} ({error}); "
        "build it in this environment: pip install --no-build-isolation --force-reinstall ."
    ) from error

_cuda_problem = ""
if not _C.build_info()["cuda"]:
    _cuda_problem = "built without CUDA"
elif not torch.version.cuda:
    _cuda_problem = "this torch has no CUDA"
else:
    try:
        import jpmap_fast._C_cuda  # noqa: F401
    except ImportError as error:
        _cuda_problem = f"the CUDA kernels do not load: {error}"


def build_info() -> dict[str, Any]:
    """What was built and what is in use.

    Returns:
        "cuda" (CUDA kernels built), "cuda_loaded" (and usable with this torch), "cuda_problem" (why
        not, or ""), "cuda_version" and "cuda_architectures" they were built for, "torch" at build
        time, "torch_running", "cpu_kernels" (instruction set in use), "compiler".
    """
    info = dict(_C.build_info())
    info["cuda_loaded"] = not _cuda_problem
    info["cuda_problem"] = _cuda_problem
    info["torch_running"] = torch.__version__
    return info


def cuda_kernels_loaded() -> bool:
    """Whether the CUDA kernels can be used."""
    return not _cuda_problem


def require_cuda_kernels() -> None:
    """Raise RuntimeError with the reason unless the CUDA kernels are loaded."""
    if _cuda_problem:
        raise RuntimeError(
            f"jpmap_fast: tensors are on a GPU, but there are no CUDA kernels ({_cuda_problem}); "
            "rebuild with JPMAP_CUDA=ON, or move the tensors to the CPU"
        )
