"""Weights by a name of the Hugging Face hub, and of a folder: one on this machine is asked."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hub import FakeHub, fake_hub
from PIL import Image
from problems import small_mlp
from safetensors.torch import save
from typer.testing import CliRunner

import jpmap_fast as jf
from jpmap_fast._hub import HubName
from jpmap_fast.cli import app
from jpmap_fast.jobs import RestoreRequest, SampleRequest, run, run_sampling
from jpmap_fast.priors import pinned_name

NAME, FILE = "someone/digits", "prior.safetensors"
NO_COMMIT = "0" * 40


def weights(seed: int = 0) -> bytes:
    """A small prior of digits, as a file."""
    torch.manual_seed(seed)
    prior = jf.MLPVAE((1, 28, 28), 4, (16,)).requires_grad_(False).eval()
    path = Path(os.environ["PYTEST_TMP"]) / "written.safetensors"
    jf.save_prior(prior, path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """What HF_ENDPOINT and HF_HUB_CACHE set, which huggingface_hub reads when it is imported."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub, the extra hub")
    from huggingface_hub import constants

    with fake_hub() as found:
        template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", found.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


def same(one: jf.MLPVAE, other: jf.MLPVAE) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://a/b", ("a/b", None, None)),
        ("hf://a/b@v1", ("a/b", "v1", None)),
        ("hf://a/b@refs%2Fpr%2F1", ("a/b", "refs/pr/1", None)),
        ("hf://a/b/c/d.safetensors", ("a/b", None, "c/d.safetensors")),
        ("hf://a/b@v1/d.safetensors", ("a/b", "v1", "d.safetensors")),
    ],
)
def test_a_name_has_parts_and_is_written_by_them(
    text: str, parts: tuple[str, str | None, str | None]
) -> None:
    name = HubName.of(text)
    assert (name.repository, name.revision, name.file) == parts
    assert str(name) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://a", "expected the text hf://owner/name"),
        ("hf://a/b@", "expected the text hf://owner/name"),
        ("hf:/a/b", "expected the text hf://owner/name"),  # what a Path leaves of one
        ("hf://a/b/pytorch_model.bin", "may hold code"),
        ("hf://a/b/model.pt", "may hold code"),
        ("hf://a/b/../c.safetensors", "a .safetensors file of the repository"),
        ("hf://a/b//c.safetensors", "a .safetensors file of the repository"),
    ],
)
def test_other_forms_and_pickles_are_refused_unasked(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jf.load_prior(text)


def test_a_path_of_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the text hf://owner/name"):
        jf.load_prior(Path("hf://a/b"))


def test_a_prior_of_the_hub_is_the_file_and_its_commit_is_told(
    hub: FakeHub, tmp_path: Path
) -> None:
    commit = hub.commit(NAME, {FILE: weights(), "README.md": b"a card"})
    pinned = f"hf://{NAME}@{commit}/{FILE}"
    with pytest.warns(UserWarning, match=f"hf://{NAME} is now {pinned}; name that"):
        found = jf.load_prior(f"hf://{NAME}")
    (tmp_path / FILE).write_bytes(weights())
    assert same(found, jf.load_prior(tmp_path / FILE))
    assert pinned_name(f"hf://{NAME}") == pinned_name(pinned) == pinned


def test_what_is_pinned_is_neither_asked_for_nor_told_again(hub: FakeHub) -> None:
    commit = hub.commit(NAME, {FILE: weights()})
    pinned = f"hf://{NAME}@{commit}/{FILE}"
    first = jf.load_prior(pinned)
    hub.asked.clear()
    hub.commit(NAME, {FILE: weights(1)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(first, jf.load_prior(pinned))
    assert hub.asked == []


def test_revisions_are_followed_to_their_commits(hub: FakeHub) -> None:
    old = hub.commit(NAME, {FILE: weights()}, "v1")
    new = hub.commit(NAME, {FILE: weights(1)})
    assert pinned_name(f"hf://{NAME}@v1") == f"hf://{NAME}@{old}/{FILE}"
    assert pinned_name(f"hf://{NAME}/{FILE}") == f"hf://{NAME}@{new}/{FILE}"
    assert pinned_name(f"hf://{NAME}@{old}") == f"hf://{NAME}@{old}/{FILE}"
    assert not same(
        jf.load_prior(pinned_name(f"hf://{NAME}@v1")), jf.load_prior(pinned_name(f"hf://{NAME}"))
    )


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("hf://someone/none", FileNotFoundError, "no such repository, or it is private"),
        (f"hf://{NAME}@v9", FileNotFoundError, "no such revision"),
        (f"hf://{NAME}@{NO_COMMIT}/{FILE}", FileNotFoundError, "no such revision"),
        (f"hf://{NAME}/b.safetensors", FileNotFoundError, f"expected {FILE}, there is no"),
        ("hf://some one/digits", ValueError, "no name of a repository"),
    ],
)
def test_what_is_not_there_is_told(
    hub: FakeHub, name: str, kind: type[Exception], message: str
) -> None:
    hub.commit(NAME, {FILE: weights()})
    with pytest.raises(kind, match=message):
        jf.load_prior(name)


def test_a_file_that_a_commit_has_not_is_told(hub: FakeHub) -> None:
    commit = hub.commit(NAME, {FILE: weights()})
    with pytest.raises(FileNotFoundError, match="no such file"):
        jf.load_prior(f"hf://{NAME}@{commit}/b.safetensors")


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({"model.bin": b"x"}, FileNotFoundError, "expected a .safetensors file in it"),
        ({"a.safetensors": b"", "b.safetensors": b""}, ValueError, "got a.safetensors, b.safe"),
        ({FILE: pickle.dumps({"a": 1})}, ValueError, "expected a safetensors file"),
        ({FILE: save({"a": torch.ones(1)})}, ValueError, "foreign"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* is now")
def test_wrong_files_are_refused(
    hub: FakeHub, files: dict[str, bytes], kind: type[Exception], message: str
) -> None:
    hub.commit(NAME, files)
    with pytest.raises(kind, match=message):
        jf.load_prior(f"hf://{NAME}")


def test_a_torch_file_by_another_name_is_not_unpickled(hub: FakeHub, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    commit = hub.commit(NAME, {FILE: (tmp_path / "a.pt").read_bytes()})
    with pytest.raises(ValueError, match="expected a safetensors file"):
        jf.load_prior(f"hf://{NAME}@{commit}/{FILE}")


def test_without_the_hub_what_is_in_the_cache_is_named_and_works(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = hub.commit(NAME, {FILE: weights()})
    pinned = f"hf://{NAME}@{commit}/{FILE}"
    loaded = jf.load_prior(pinned)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"cannot be reached.*without it name {pinned}"):
        jf.load_prior(f"hf://{NAME}")
    assert same(loaded, jf.load_prior(pinned))
    with pytest.raises(ConnectionError, match="cannot be reached"):
        jf.load_prior(f"hf://{NAME}@{NO_COMMIT}/{FILE}")


def test_a_hub_that_does_not_listen_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"cannot be reached, or gave nothing \(ConnectE"):
        jf.load_prior(f"hf://{NAME}")


def test_without_the_package_the_command_that_brings_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'jpmap-fast\[hub\]'"):
        jf.load_prior(f"hf://{NAME}")


def test_a_denoiser_comes_from_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    path = tmp_path / "denoiser.safetensors"
    jf.save_denoiser(jf.LipschitzDenoiser((1, 8, 8), width=4, depth=3), path)
    commit = hub.commit("someone/denoiser", {path.name: path.read_bytes()})
    found = jf.load_denoiser(f"hf://someone/denoiser@{commit}/{path.name}")
    assert torch.equal(found.first, jf.load_denoiser(path).first)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    values = 255 * jf.mnist_test_digits(1)[0][0, 0].numpy()
    Image.fromarray(values.round().astype(np.uint8)).save(path)
    return path


def test_a_job_keeps_to_the_commit_and_goes_on_with_no_other(
    hub: FakeHub, digit: Path, tmp_path: Path
) -> None:
    first = hub.commit(NAME, {FILE: weights()})
    request = RestoreRequest(
        operator="denoising",
        sigma=0.1,
        inputs=(str(digit),),
        prior=f"hf://{NAME}",
        output=str(tmp_path / "out"),
        resume=True,
    )
    run(request)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    pinned = f"hf://{NAME}@{first}/{FILE}"
    assert told["settings"]["prior"] == told["depends_on"]["prior"] == pinned
    hub.commit(NAME, {FILE: weights(1)})
    with pytest.raises(ValueError, match=f"had prior = '{pinned}', now it is"):
        run(request)


def test_draws_keep_to_the_commit(hub: FakeHub, digit: Path, tmp_path: Path) -> None:
    commit = hub.commit(NAME, {FILE: weights()})
    own = {"inputs": (str(digit),), "prior": f"hf://{NAME}", "output": str(tmp_path / "out")}
    run_sampling(
        SampleRequest(restore=RestoreRequest(operator="denoising", sigma=0.1, **own), draws=4)
    )
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["settings"]["prior"] == f"hf://{NAME}@{commit}/{FILE}"


def test_people_elsewhere_do_not_make_the_page_ask_the_hub(hub: FakeHub, digit: Path) -> None:
    from jpmap_fast.app.asked import Asked, prepare
    from jpmap_fast.app.settings import PageSettings

    asked = Asked(picture=digit, operator="denoising", sigma="10", prior=f"hf://{NAME}")
    with pytest.raises(ValueError, match="prior"):
        prepare(asked, digit.parent, PageSettings(folder=digit.parent))
    assert hub.asked == []


def test_the_command_tells_the_commit_and_errors_in_one_line(
    hub: FakeHub, digit: Path, tmp_path: Path
) -> None:
    commit = hub.commit(NAME, {FILE: weights()})
    common = ["restore", str(digit), "--operator", "denoising", "--sigma", "20"]
    out = ["-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*common, *out, "--prior", f"hf://{NAME}"])
    assert found.exit_code == 0, found.output
    assert f"1 restored with hf://{NAME}@{commit}/{FILE}, " in found.output
    assert "Warning" not in found.output
    found = CliRunner().invoke(app, [*common, *out, "--prior", "hf://someone/none"])
    assert found.exit_code == 2
    assert found.output.startswith("Error: hf://someone/none: the hub has no such repository")
    assert found.output.count("\n") == 1


def test_the_endpoint_and_cache_of_the_environment_are_used(
    hub: FakeHub, digit: Path, tmp_path: Path
) -> None:
    """As a user sets them: for a process of its own."""
    commit = hub.commit(NAME, {FILE: weights()})
    own = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "jpmap_fast.cli", "restore", str(digit), "--sigma", "20"]
    command += ["--operator", "denoising", "--prior", f"hf://{NAME}", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"1 restored with hf://{NAME}@{commit}/{FILE}, " in done.stdout
    assert list((tmp_path / "home").rglob(FILE))


def test_a_folder_with_one_file_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    prior = small_mlp(dtype=torch.float32)
    jf.save_prior(prior, folder / FILE)
    (folder / "README.md").write_text("a card")
    assert same(prior, jf.load_prior(folder))
    jf.save_prior(prior, folder / "other.safetensors")
    with pytest.raises(ValueError, match=f"got other.safetensors, {FILE}; give the path of one"):
        jf.load_prior(folder)


def test_a_run_goes_on_with_the_same_file_of_a_folder_alone(digit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / FILE).write_bytes(weights())
    own = {"inputs": (str(digit),), "prior": str(folder), "output": str(tmp_path / "out")}
    request = RestoreRequest(operator="denoising", sigma=0.1, resume=True, **own)
    run(request)
    (folder / FILE).write_bytes(weights(1))
    with pytest.raises(ValueError, match="had prior = "):
        run(request)
