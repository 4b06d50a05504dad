"""The work of ``jpmap-fast restore``: read, degrade if asked to, restore, write."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.algorithms import ALGORITHMS, Algorithm
from jpmap_fast.cli._common import pick_device
from jpmap_fast.cli._inputs import Inputs, read_inputs, read_mask, read_matrix
from jpmap_fast.cli._kernels import read_kernel
from jpmap_fast.cli._outputs import png_names, write_arrays, write_json, write_png
from jpmap_fast.cli._restore_options import OperatorName, RestoreOptions
from jpmap_fast.masks import random_masks
from jpmap_fast.metrics import psnr
from jpmap_fast.operators import Operator
from jpmap_fast.versions import versions


@dataclass(frozen=True)
class _Done:
    """What there is to write.

    Attributes:
        operator: as it was on the CPU.
        y: measurements.
        algorithm: what ran.
        result: its answer.
        seconds: wall time of ``restore``.
        psnr: of x and of G(z) in dB, [N] each, when the clean images are known.
    """

    operator: Operator
    y: Tensor
    algorithm: Algorithm
    result: jf.Result
    seconds: float
    psnr: dict[str, Tensor]


def run(options: RestoreOptions, progress: bool) -> list[tuple[str, str]]:
    """Do what the options say; (name, reason) of every input that failed."""
    algorithm = _algorithm(options)
    device = pick_device(options.device)
    sigma = options.sigma / 255
    prior = jf.load_prior(options.prior)
    if isinstance(prior, torch.nn.Module):
        prior = prior.to(device)
    shape = tuple(prior.image_shape)
    inputs = read_inputs(
        options.inputs,
        shape if options.simulate else _measured_shape(options, shape),
        key=options.key,
        sigma=sigma,
        vectors=options.operator is OperatorName.compressed_sensing,
        clean=options.simulate,
    )
    if not inputs.names:
        return inputs.failures or [(str(options.inputs[0]), "no images found")]
    generator = torch.Generator().manual_seed(options.seed)
    operator = _operator(options, len(inputs.names), shape, generator)
    y = inputs.values
    if options.simulate:
        y = operator.measure(inputs.values, sigma, generator=generator)
    targets = _targets(options, inputs)
    begin = time.perf_counter()
    result = jf.restore(
        y.to(device),
        operator.to(device),
        prior,
        sigma,
        method=algorithm,
        generator=generator,
        progress=progress,
    )
    seconds = time.perf_counter() - begin
    quality = {}
    if options.simulate:
        for name, images in (("psnr", result.x), ("psnr_decoded", result.decoded)):
            quality[name] = psnr(images.cpu(), inputs.values.to(images.dtype))
    done = _Done(operator, y, algorithm, result, seconds, quality)
    return _write(options, inputs, targets, done)


def _algorithm(options: RestoreOptions) -> Algorithm:
    name = options.method
    if name not in ALGORITHMS:
        raise ValueError(f"--method: expected one of {', '.join(ALGORITHMS)}, got {name!r}")
    settings: dict[str, Any] = {}
    if options.starts is not None:
        settings["restarts" if name == "csgm" else "starts"] = options.starts
    if options.alpha is not None:
        settings["alpha"] = options.alpha
    return ALGORITHMS[name](**settings)


def _measured_shape(options: RestoreOptions, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of measurements that are images."""
    if options.factor is None:
        return image_shape
    small = jf.SuperResolution(options.factor).bind(image_shape)
    return small.measurement_shape(image_shape, torch.zeros(()))


def _operator(
    options: RestoreOptions,
    count: int,
    image_shape: tuple[int, ...],
    generator: torch.Generator,
) -> Operator:
    if options.mask is not None:
        return jf.Inpainting(read_mask(options.mask))
    if options.missing is not None:
        return jf.Inpainting(random_masks(count, image_shape, options.missing, generator))
    if options.matrix is not None:
        return jf.CompressedSensing(read_matrix(options.matrix), image_shape)
    if options.measurements is not None:
        return jf.CompressedSensing.gaussian(options.measurements, image_shape, generator=generator)
    kernel = None if options.kernel is None else read_kernel(options.kernel)
    if options.factor is not None:
        return jf.SuperResolution(options.factor, kernel)
    return jf.Denoising() if kernel is None else jf.Blur(kernel)


def _targets(options: RestoreOptions, inputs: Inputs) -> list[Path]:
    """The PNG file of each image, where images came as files; makes the output folder.

    Raises:
        ValueError: an input would be overwritten.
    """
    output = options.output
    targets = [output / name for name in png_names(inputs.names)] if inputs.files else []
    folders = {(path if path.is_dir() else path.parent).resolve() for path in options.inputs}
    clash = [target for target in targets if target.exists()]
    if output.resolve() in folders and clash:
        raise ValueError(
            f"--output: {clash[0]} is in the folder of the inputs and would be overwritten; "
            "choose another folder"
        )
    output.mkdir(parents=True, exist_ok=True)
    return targets


def _write(
    options: RestoreOptions, inputs: Inputs, targets: list[Path], done: _Done
) -> list[tuple[str, str]]:
    """Write everything and say so; (name, reason) of what failed."""
    output, result = options.output, done.result
    write_arrays(output / "restored.npz", result, inputs.names)
    if options.simulate:
        _write_measured(output / "measured.npz", done)
    finite = torch.isfinite(result.x.flatten(1)).all(dim=1).cpu()
    failures = list(inputs.failures)
    rows = []
    for i, name in enumerate(inputs.names):
        row: dict[str, Any] = {
            "name": name,
            "status": result.status[i],
            "converged": bool(result.converged[i]),
            "objective": float(result.objective[i]),
            "iterations": int(result.iterations[i]),
            **{measure: float(values[i]) for measure, values in done.psnr.items()},
        }
        if not finite[i]:
            failures.append((name, result.status[i]))
        elif targets:
            write_png(targets[i], result.x[i])
            row["file"] = targets[i].name
        rows.append(row)
    restored = int(finite.sum())
    converged = int(result.converged.sum())
    means = {name: float(values[finite].mean()) for name, values in done.psnr.items()}
    summary = {
        "restored": restored,
        "converged": converged,
        "failed": len(failures),
        "seconds": done.seconds,
        **{f"mean_{name}": value for name, value in means.items()},
        "settings": {
            **{field.name: _plain(getattr(options, field.name)) for field in fields(options)},
            "sigma_unit": "1/255",
            "algorithm": repr(done.algorithm),
        },
        "versions": versions(),
        "images": rows,
        "failures": [{"name": name, "reason": reason} for name, reason in failures],
    }
    write_json(output / "summary.json", summary)
    told = f"{restored} restored, {converged} converged, {len(failures)} failed"
    if restored and means:
        told += f"; mean PSNR {means['psnr']:.2f} dB (G(z): {means['psnr_decoded']:.2f} dB)"
    typer.echo(f"{told}; {done.seconds:.2f} s. Written to {output}")
    return failures


def _write_measured(path: Path, done: _Done) -> None:
    """Y with the mask, matrix or kernel it was made with: an INPUT for another run."""
    arrays = {"y": done.y.cpu().numpy()}
    if isinstance(done.operator, jf.Inpainting):
        arrays["mask"] = done.operator.mask.cpu().numpy()
    if isinstance(done.operator, jf.CompressedSensing):
        arrays["A"] = done.operator.matrix.cpu().numpy()
    if isinstance(done.operator, (jf.Blur, jf.SuperResolution)):
        arrays["kernel"] = done.operator.kernel.cpu().numpy()
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes a flag among the keywords


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
