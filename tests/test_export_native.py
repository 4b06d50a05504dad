"""What Restorer.export wrote, run by the program of benchmarks/cpp: the bits of Python, or a word.

Compiles packages and the program: ``make cpp``.
"""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from native import build, restore
from problems import case, small_mlp
from torch import Tensor

import jpmap_fast as jf

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.skipif(
        not shutil.which("cmake") or not shutil.which("c++"), reason="needs CMake and a compiler"
    ),
]


@dataclass(frozen=True)
class Exported:
    """A restorer, measurements, and the package of it."""

    restorer: jf.Restorer
    y: Tensor
    package: Path


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("cpp"))


def digits(device: str = "cpu") -> tuple[jf.Restorer, Tensor]:
    """Digits with missing pixels, by what is bundled and default."""
    g = torch.Generator().manual_seed(0)
    mask = (torch.rand(28, 28, generator=g) < 0.2).float()
    y = jf.Inpainting(mask).measure(jf.mnist_test_digits(3)[0], 10 / 255, g).to(device)
    operator, prior = jf.Inpainting(mask.to(device)), jf.load_prior("mnist", device=device)
    return jf.Restorer(operator, prior, 10 / 255, batch_size=3), y


def blurred() -> tuple[jf.Restorer, Tensor]:
    """In float64, by the loop, with a noise level an image."""
    c = case("blur")
    return jf.Restorer(c.operator, small_mlp(), c.sigma, batch_size=len(c.y)), c.y


@pytest.fixture(scope="module", params=[digits, blurred], ids=lambda make: make.__name__)
def exported(request, tmp_path_factory) -> Exported:
    restorer, y = request.param()
    return Exported(restorer, y, restorer.export(tmp_path_factory.mktemp("packages") / "one.pt2"))


def assert_same_bits(found, expected: jf.Result) -> None:
    assert torch.equal(found.x, expected.x.cpu().flatten())
    assert torch.equal(found.objective, expected.objective.cpu().double())
    assert torch.equal(found.converged, expected.converged.cpu())


def test_a_program_has_the_bits_of_python(program, exported, tmp_path):
    found = restore(program, exported.package, exported.y, tmp_path, calls=2)
    assert_same_bits(found, exported.restorer(exported.y))
    assert bool(found.converged.all()) and found.milliseconds > 0


def has_static_library() -> bool:
    asked = ["c++", "-print-file-name=libstdc++.a"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).is_file()


@pytest.mark.skipif(
    not shutil.which("c++") or not has_static_library(), reason="needs the static libstdc++"
)
def test_a_compiler_that_links_the_library_of_c_plus_plus_itself_changes_nothing(
    tmp_path, monkeypatch
):
    compiler = tmp_path / "static" / "g++"
    compiler.parent.mkdir()
    compiler.write_text(
        """#!/bin/sh
for word; do case "$word" in -c | -E | c++-header | --version | -dump*) exec c++ "$@" ;; esac; done
exec c++ -static-libstdc++ "$@"
"""
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    restorer, y = digits()
    with torch._inductor.config.patch({"cpp.cxx": (None, str(compiler))}):
        package = restorer.export(tmp_path / "one.pt2")
    found = restore(build(tmp_path / "cpp"), package, y, tmp_path)
    assert_same_bits(found, restorer(y))


def test_an_image_that_is_not_finite_fails_alone(program, exported, tmp_path):
    y = exported.y.clone()
    y[1].view(-1)[3] = torch.nan
    found, expected = restore(program, exported.package, y, tmp_path), exported.restorer(y)
    x = found.x.reshape(expected.x.shape)
    assert bool(x[1].isnan().all()) and not bool(found.converged[1])
    assert torch.equal(x[0], expected.x[0]) and torch.equal(x[2], expected.x[2])


def test_a_package_is_right_on_a_processor_without_bfloat16(
    program, exported, tmp_path, monkeypatch
):
    monkeypatch.setenv("JPMAP_ISA", "avx2")
    found = restore(program, exported.package, exported.y, tmp_path)
    expected = exported.restorer(exported.y)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.objective, expected.objective.double(), rtol=1e-3, atol=0)


def test_other_measurements_are_refused(program, exported, tmp_path):
    with pytest.raises(RuntimeError, match=r"expected \d+ bytes of measurements, got"):
        restore(program, exported.package, exported.y[1:], tmp_path)
    y = exported.y.clone()
    y[2] *= 255
    with pytest.raises(RuntimeError, match="pixel values in .0, 1.*got others in image 2"):
        restore(program, exported.package, y, tmp_path)


def test_a_package_says_what_it_is(exported):
    about = torch._inductor.aoti_load_package(str(exported.package)).get_metadata()
    assert about["jpmap_fast"] == jf.__version__ and about["torch"] == torch.__version__
    assert about["measurement_shape"].split() == [str(size) for size in exported.y.shape]
    assert about["dtype"] == str(exported.y.dtype).removeprefix("torch.")
    sigma = [float(value) for value in about["sigma"].split()]
    assert sigma == sorted(set(exported.restorer(exported.y).sigma.tolist()))
    assert about["method"].startswith("JPMAP(beta=") and "tensor" not in about["method"]


def test_what_is_no_package_is_refused(program, exported, tmp_path):
    empty = tmp_path / "empty.pt2"
    empty.write_bytes(b"")
    with pytest.raises(RuntimeError, match="expected a package that Restorer.export wrote"):
        restore(program, empty, exported.y, tmp_path)


@pytest.mark.parametrize(
    "name, version, other, said",
    [
        ("jpmap_fast", jf.__version__, "0.0.9", f"{jf.__version__}, got one of 0.0.9"),
        ("torch", torch.__version__, "2.9.1", r"2\.\d+, got one of 2\.9$"),
    ],
)
def test_a_package_of_other_versions_is_refused(
    program, exported, tmp_path, name, version, other, said
):
    older = tmp_path / "older.pt2"
    with zipfile.ZipFile(exported.package) as one, zipfile.ZipFile(older, "w") as another:
        for item in one.infolist():
            content = one.read(item)
            if item.filename.endswith("_metadata.json"):
                it = f'"{name}": "{version}"'.encode()
                assert it in content
                content = content.replace(it, f'"{name}": "{other}"'.encode())
            another.writestr(item, content)
    with pytest.raises(RuntimeError, match=f"expected a package of {name} {said}"):
        restore(program, older, exported.y, tmp_path)


@pytest.mark.cuda
def test_a_program_on_a_gpu_has_the_bits_of_python(program, tmp_path):
    restorer, y = digits("cuda")
    package = restorer.export(tmp_path / "gpu.pt2")
    assert_same_bits(restore(program, package, y, tmp_path), restorer(y))
