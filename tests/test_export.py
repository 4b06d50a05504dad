"""Restorer.export: what is recorded has the bits of the Restorer, and what cannot be is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import CASE_NAMES, case, small_mlp
from small_photos import small_photo_prior
from torch import Tensor
from torch._inductor import cpp_builder, cpu_vec_isa
from torch.torch_version import TorchVersion

import jpmap_fast as jf
from jpmap_fast.export import type_numbers
from jpmap_fast.export.compiling import as_torch_runs_them, for_any_processor
from jpmap_fast.export.graph import OUTPUTS, RESULT, FixedRestoration, graph_of
from jpmap_fast.export.plain_arguments import plain_call

aten = torch.ops.aten
X = torch.tensor([[-1.5, 0.3, math.nan], [math.inf, -math.inf, 2.0]])
WHOLE = torch.tensor([[1, 2, 3], [-4, 0, 7]])


def program_of(restorer: jf.Restorer) -> Any:
    with torch.no_grad(), as_torch_runs_them():
        return graph_of(FixedRestoration(restorer._run, True), restorer._y.clone())


def assert_recorded(restorer: jf.Restorer, y: Tensor) -> None:
    program = program_of(restorer)
    expected, found = restorer(y), program.module()(y)
    for name, value in zip(OUTPUTS, found, strict=True):
        if name in RESULT:
            assert value.dtype == getattr(expected, name).dtype, name
            assert torch.equal(value.nan_to_num(), getattr(expected, name).nan_to_num()), name
    assert found[-1].all()


# In c10, and in the schema of torch.export.
NUMBERS = [
    (torch.float64, 7, 8),
    (torch.int64, 4, 5),
    (torch.bool, 11, 12),
    (torch.strided, 0, 7),
    (torch.contiguous_format, 0, 1),
    (torch.preserve_format, 1, 4),
    (torch.channels_last, 2, 2),
]


@pytest.mark.parametrize("version, column", [("2.11.0+cu130", 0), ("2.12.0", 1)])
def test_types_have_the_numbers_that_torch_reads(version, column, monkeypatch):
    def written() -> list[int]:
        found: dict[Any, int] = {}
        for table in type_numbers.TABLES.values():
            found.update(table)
        return [int(found[value]) for value, *_ in NUMBERS]

    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    before = written()
    with type_numbers.as_torch_reads_them():
        assert written() == [numbers[column] for _, *numbers in NUMBERS]
    assert written() == before == [schema for *_, schema in NUMBERS]


def test_the_compiler_is_told_of_no_processor_inside_and_as_before_afterwards():
    before = cpu_vec_isa.valid_vec_isa_list, cpp_builder._get_optimization_cflags("g++")
    with for_any_processor():
        assert not cpu_vec_isa.pick_vec_isa()
        assert not any("native" in flag for flag in cpp_builder._get_optimization_cflags("g++")[0])
    assert (cpu_vec_isa.valid_vec_isa_list, cpp_builder._get_optimization_cflags("g++")) == before


@pytest.mark.parametrize("name", CASE_NAMES)
def test_what_is_recorded_has_the_bits_of_a_call(name, tmp_path):
    c = case(name)
    restorer = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y))
    if restorer._run.problem.operator.stays_on_device:
        assert_recorded(restorer, c.y)
        return
    with pytest.raises(ValueError, match="since A is known by its action alone"):
        restorer.export(tmp_path / "a.pt2")


@pytest.mark.parametrize(
    "method", [jf.CSGM(starts=3), jf.JPMAP(n2=0), jf.JPMAP(starts=1)], ids=lambda m: repr(m)[:20]
)
def test_methods(method):
    c = case("inpainting")
    restorer = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y), method=method)
    assert_recorded(restorer, c.y)


def test_jpmap_is_one_call_whatever_threads_there_are():
    c = case("denoising", batch=16)
    program = program_of(jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=16))
    ours = [n.target for n in program.graph.nodes if "jpmap" in str(n.target)]
    assert ours == [torch.ops.jpmap.mlp_jpmap.default]


@pytest.mark.parametrize("operator", [jf.Denoising(), jf.SuperResolution(2)], ids=repr)
def test_photographs(operator):
    prior = small_photo_prior(3)
    generator = torch.Generator().manual_seed(0)
    y = operator.measure(torch.rand(2, 3, 16, 16, generator=generator), 0.1, generator)
    method = jf.EncoderContinuation(steps=3)  # more of them are more of the same graph
    made = jf.Restorer(operator, prior, 0.1, batch_size=2, image_shape=(3, 16, 16), method=method)
    assert_recorded(made, y)


def test_images_out_of_range_or_not_finite_are_told():
    c = case("denoising")
    program = program_of(jf.Restorer(c.operator, small_mlp(), 0.05, batch_size=4)).module()
    y = c.y.clamp(0, 1)
    y[1] *= 255
    y[2].view(-1)[0] = torch.inf
    found = dict(zip(OUTPUTS, program(y), strict=True))
    assert found["in_range"].tolist() == [True, False, True, True]
    assert bool(found["x"][2].isnan().all()) and not bool(found["converged"][2])


def test_a_restorer_is_the_same_after_it_was_recorded():
    c = case("inpainting")
    restorer = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y))
    before = restorer(c.y)
    program_of(restorer)
    assert torch.equal(restorer(c.y).x, before.x)
    fresh = jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y))
    assert torch.equal(fresh(c.y).x, before.x)


@pytest.mark.parametrize(
    "target, args",
    [
        (aten.isfinite.default, [X]),
        (aten.mul.Tensor, [X, 0.5]),
        (aten.div.Tensor, [X, 28.0]),
        (aten.lt.Scalar, [X, math.inf]),
        (aten.ge.Scalar, [X, 2]),
        (aten.eq.Scalar, [WHOLE, 3]),
        (aten.sub.Tensor, [X, X.flip(0)]),
        (aten.sub.Tensor, [X, 1.6]),
        (aten.sub.Tensor, [WHOLE, WHOLE.flip(0)]),
        (aten.add.Tensor, [WHOLE, WHOLE > 1]),
        (aten.add.Tensor, [WHOLE, 3]),
        (aten.add.Tensor, [X, WHOLE]),
        (aten.rsub.Scalar, [X, 1]),
        (aten.clamp_min.default, [X, 1]),
        (aten.where.ScalarOther, [WHOLE > 1, X, 0]),
        (aten.where.ScalarSelf, [WHOLE > 1, math.nan, X]),
        (aten.where.Scalar, [WHOLE > 1, 0, 1]),
        (aten.where.Scalar, [WHOLE > 1, 0.0, math.inf]),
        (aten.nan_to_num.default, [X, math.inf, math.inf, math.inf]),
        (aten.nan_to_num.default, [X, 0.0, 0.0, 0.0]),
        (aten.full_like.default, [X, math.nan]),
        (aten.full.default, [[2, 3], math.inf]),
    ],
    ids=str,
)
def test_plain_calls_have_the_bits_of_calls(target, args):
    found, expected = plain_call(target, args, {}), target(*args)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_calls_that_no_package_holds_are_refused():
    with pytest.raises(ValueError, match="avg_pool2d.* empty list of stride"):
        plain_call(aten.avg_pool2d.default, [torch.zeros(1, 1, 4, 4), [2, 2], []], {})
    with pytest.raises(ValueError, match="clamp.* which no package holds"):
        plain_call(aten.clamp.default, [X, 0.0, math.inf], {})


def refused(tmp_path: Path, match: str, name: str = "a.pt2", **options: Any) -> None:
    c = case("denoising")
    prior = options.pop("prior", small_mlp())
    restorer = jf.Restorer(
        options.pop("operator", c.operator), prior, 0.1, batch_size=len(c.y), **options
    )
    with pytest.raises(ValueError, match=match):
        restorer.export(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_no_package_holds_is_refused_before_it_is_compiled(tmp_path):
    refused(tmp_path, r"path: expected a name that ends in .pt2, got 'a.pt'", name="a.pt")
    refused(tmp_path, "got JPMAP.*'adam'.*goes on until", method=jf.JPMAP(z_solver="adam"))
    refused(tmp_path, "path: expected a folder that is there", name="nowhere/a.pt2")
    pictures = {"prior": small_photo_prior(1), "image_shape": (1, 6, 5)}
    reflected = jf.Blur(jf.box_kernel(3), "reflect")
    refused(tmp_path, "systems are solved by iterations", operator=reflected, **pictures)
    refused(tmp_path, "got AlternateConvexSearch", method="alternate-convex-search")
    refused(
        tmp_path,
        "plain torch, since fused=False",
        method=jf.JPMAP(z_solver=jf.GaussNewton(fused=False)),
    )


def test_the_header_and_the_configuration_for_cmake_are_in_the_package():
    folder = Path(jf.__file__).parent
    assert (folder / "include/jpmap_fast/restorer.h").is_file()
    assert (folder / "cmake/jpmap_fast-config.cmake").is_file()
    header = (folder / "include/jpmap_fast/restorer.h").read_text(encoding="utf-8")
    # The order of what a package returns.
    fields = [f"found[{number}]" for number in range(len(RESULT))]
    assert ", ".join(fields) in " ".join(header.split())
    assert re.findall(r"^  at::Tensor (\w+);", header, re.MULTILINE) == list(RESULT)
    assert f"found.at({len(RESULT)})" in header
