"""Restore digits with what is installed: wheel_restores.py [with-cuda | without-cuda]."""

from __future__ import annotations

import sys
from importlib.metadata import version

import torch

import jpmap_fast as jf

assert jf.__file__.startswith(sys.prefix), f"not what was installed: {jf.__file__}"
if sys.argv[1:]:
    wanted = {"with-cuda": True, "without-cuda": False}[sys.argv[1]]
    assert bool(torch.version.cuda) is wanted, f"expected {sys.argv[1]}, is {torch.__version__}"
info = jf.build_info()
digits = jf.mnist_test_digits(4)[0]
result = jf.restore(digits, jf.Denoising(), "mnist", sigma=0.1)
assert result.path == "compiled" and bool(result.converged.all()), result.status
better = jf.psnr(result.x, digits).mean()
assert better > 15, f"{better:.1f} dB to what it was given"
# A wheel with CUDA kernels loads them beside a torch with CUDA, GPU or not, and only there.
if info["cuda"]:
    assert info["cuda_loaded"] is bool(torch.version.cuda), info["cuda_problem"]
kernels = "CPU and CUDA" if info["cuda_loaded"] else "CPU"
print(
    f"wheel: {jf.__version__} built with torch {info['torch']} restores beside {torch.__version__},"
    f" numpy {version('numpy')}, Python {sys.version.split()[0]}, {kernels} kernels"
)
