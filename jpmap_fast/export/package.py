"""Packages of AOTInductor: a restoration for C++, with its weights and what it expects."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._inductor
from torch import Tensor

from jpmap_fast._files import written_whole
from jpmap_fast._result import Result
from jpmap_fast._run import Run
from jpmap_fast._surroundings import full_precision
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.export.compiling import as_torch_runs_them, for_any_processor, options, quietly
from jpmap_fast.export.graph import OUTPUTS, RESULT, FixedRestoration, graph_of
from jpmap_fast.export.type_numbers import as_torch_reads_them

# Told before each phase, of which any may take a minute.
_LOG = logging.getLogger(__name__)

_HELD = (
    "export: expected a restoration by work that is known before: 'jpmap' as it comes or 'csgm' "
    "with a prior of perceptrons and GaussNewton, or 'encoder'"
)


def export_run(
    run: Run,
    call: Callable[[Tensor], Result],
    path: str | os.PathLike[str],
    *,
    low_latency: bool,
) -> Path:
    """Write a package of a prepared restoration; see ``Restorer.export``.

    Args:
        run: of the restoration, of the batch that the package takes.
        call: what the package has to give, of measurements.
        path: of the package.
        low_latency: see ``kernels.mlp.mlp_restore``.

    Raises:
        ValueError: another ending than ``.pt2``, no such folder, or a restoration that no package
            holds. RuntimeError: it does not compile or run, or has other bits.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"path: expected a name that ends in .pt2, got {path.name!r}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"path: expected a folder that is there, got {str(path.parent)!r}")
    _check_holds(run)
    settings = options(_metadata(run))
    y, module = _probe(run), FixedRestoration(run, low_latency)
    with quietly(), as_torch_runs_them(), as_torch_reads_them(), for_any_processor():
        _LOG.info("records the graph")
        try:
            program = graph_of(module, y)
        except Exception as error:
            raise ValueError(f"{_HELD}, got what cannot be recorded: {_said(error)}") from error
        with written_whole(path) as part:
            _LOG.info("compiles %d nodes", len(program.graph.nodes))
            try:
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(part), inductor_configs=settings
                )
            except Exception as error:
                raise RuntimeError(
                    "export: expected AOTInductor to compile the restoration, with the C++ "
                    f"compiler g++ or the one that CXX names, got {_said(error)}"
                ) from error
            _LOG.info("compares the bits of the package")
            _check_bits(part, call, y)
    return path


def _check_holds(run: Run) -> None:
    """Raise ValueError unless nothing of the work depends on what is asked on the way."""
    algorithm = run.algorithm
    if not algorithm.runs_fixed:
        raise ValueError(f"{_HELD}, got {_method(algorithm)}, which goes on until it is done")
    plan = algorithm.plan(run.problem)
    if plan.path not in ("", "compiled"):
        raise ValueError(f"{_HELD}, got descents in plain torch, since {plan.reason}")
    if not run.problem.operator.stays_on_device:
        operator = run.problem.operator.operator
        raise ValueError(f"{_HELD}, got {operator!r}, whose systems are solved by iterations")


def _metadata(run: Run) -> dict[str, str]:
    """What a package says of itself; several numbers or names have blanks between them."""
    problem, y = run.problem, run.problem.y
    made_by = {name: version for name, version in versions().items() if name != "python"}
    return {
        **made_by,
        "device": y.device.type,
        "dtype": str(y.dtype).removeprefix("torch."),
        "measurement_shape": _listed(y.shape),
        "image_shape": _listed(problem.image_shape),
        "outputs": _listed(OUTPUTS),
        "sigma": _listed(_one_or_all(problem.sigma)),
        "operator": repr(problem.operator.operator),
        "prior": type(problem.prior).__name__,
        "method": _method(run.algorithm),
    }


def _listed(values: Any) -> str:
    return " ".join(str(value) for value in values)


def _one_or_all(values: Tensor) -> list[float]:
    """Numbers of images; one of them where all are alike."""
    found: list[float] = values.tolist()
    return found[:1] if len(set(found)) == 1 else found


def _method(algorithm: Algorithm) -> str:
    """An algorithm with its settings, those of images as numbers."""
    given = {name: getattr(algorithm, name) for name in algorithm.image_settings}
    listed = {name: _one_or_all(value) for name, value in given.items() if value is not None}
    plain = {name: found[0] if len(found) == 1 else found for name, found in listed.items()}
    return repr(replace(algorithm, **plain))  # type: ignore[type-var]


def _probe(run: Run) -> Tensor:
    """Measurements with noise of random images, to record with and to compare."""
    problem = run.problem
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(problem.batch, *problem.image_shape, generator=generator).to(problem.y)
    y = problem.operator.A(x)
    noise = torch.randn(y.shape, generator=generator).to(y)
    return (y + problem.sigma.reshape(-1, *[1] * (y.dim() - 1)) * noise).contiguous()


def _check_bits(path: Path, call: Callable[[Tensor], Result], y: Tensor) -> None:
    """Raise RuntimeError unless a package has the bits of what it was made of."""
    expected = call(y)
    with full_precision():
        try:
            found = torch._inductor.aoti_load_package(str(path))(y)
        except Exception as error:
            said = _said(error)
            raise RuntimeError(f"export: expected a package that runs, got {said}") from error
    named = dict(zip(OUTPUTS, found, strict=True))
    unlike = [name for name in RESULT if not _same(named[name], getattr(expected, name))]
    if unlike or not bool(named["in_range"].all()):
        names = ", ".join(unlike or ["in_range"])
        raise RuntimeError(f"export: expected the bits of the Restorer, got others in {names}")


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype
    return alike and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a word'}"
