"""``jpmap-fast info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    cmake: Annotated[
        bool,
        typer.Option("--cmake", help="Only say where CMake finds the package for programs in C++."),
    ] = False,
) -> None:
    """Show the build, the devices, and the names of priors, methods and operators."""
    if cmake:
        typer.echo(Path(__file__).resolve().parent.parent / "cmake")
        return
    import torch

    from jpmap_fast import available_priors, build_info
    from jpmap_fast._versions import versions
    from jpmap_fast.algorithms import ALGORITHMS
    from jpmap_fast.operators.registry import named_operator, operator_names

    _section("versions", versions())
    _section("compiled kernels", {key: str(value) for key, value in build_info().items()})
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    _section("devices", devices)
    _section("bundled priors", {name: _way(name) for name in available_priors()})
    methods = {name: algorithm.__name__ for name, algorithm in ALGORITHMS.items()}
    _section("methods", methods)
    _section("operators", {name: named_operator(name).formula for name in operator_names()})


def _way(prior: str) -> str:
    """How restorations with a prior run on the CPU, and on a GPU if there is one."""
    import torch

    from jpmap_fast import JPMAP, Denoising, load_prior
    from jpmap_fast._prepared import prepare

    found = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        network = load_prior(prior, device=device)
        if network.image_shape is None:
            return "pictures of any size, by the encoder alone"
        blank = torch.zeros(1, *network.image_shape, device=device)
        plan = JPMAP().plan(prepare(blank, Denoising(), network, 0.1).problem)
        found.append(f"{device}: {plan.path}" + (f" ({plan.reason})" if plan.reason else ""))
    return ", ".join(found)


def _section(title: str, lines: dict[str, str]) -> None:
    typer.echo(title)
    width = max((len(key) for key in lines), default=0)
    for key, value in lines.items():
        typer.echo(f"  {key:<{width}}  {value}".rstrip())
