"""The CPU's kernels with every instruction set they are compiled for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import test_mlp_kernels as solves
import test_mlp_log_likelihood as likelihoods
import test_variance_laws as laws
import test_weighted_draws as mixtures
import torch

import jpmap_fast as jf
from jpmap_fast import kernels


def every_kernel() -> None:
    """What the tests of the kernels say of each, with whatever this process has chosen."""
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(29, 70, generator=g), torch.randn(45, 70, generator=g)
    found = kernels.linear(x, kernels.pack_linear(w), None, 45)
    exact = x.double() @ w.double().T
    assert (found - exact).norm() <= 1e-6 * exact.norm()
    for dtype in solves.DTYPES:
        f, z = solves.problem(20, dtype=dtype)
        solves.agrees(f, z, solves.TOLERANCE[dtype])
        f, z = solves.problem(3, dtype=dtype)
        likelihoods.agrees(
            likelihoods.masked(f, 0.5), likelihoods.draws(z, 50), solves.TOLERANCE[dtype]
        )
        laws.test_systems_are_those_of_plain_torch_in_float64(dtype, "each", "identity", 6)
        laws.test_draws_are_those_of_plain_torch_in_float64(dtype, "shared")
    for size in mixtures.SIZES:
        mixtures.test_mixtures_are_their_twins("cpu", size, 8, 0.05)
    print(jf.build_info()["cpu_kernels"])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512bf16"])
def test_every_instruction_set_agrees(isa):
    """Each in a process of its own: the choice is made once. One the processor lacks falls back."""
    code = "import test_instruction_sets; test_instruction_sets.every_kernel()"
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JPMAP_ISA": isa, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (isa, "baseline", "neon")
