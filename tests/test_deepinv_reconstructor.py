"""``jf.Reconstructor`` where DeepInverse takes a model."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import jpmap_fast as jf
from jpmap_fast._metrics import psnr

deepinv = pytest.importorskip("deepinv", reason="needs deepinv, the extra [deepinv]")
physics_ = deepinv.physics

from jpmap_fast.deepinv import translation  # noqa: E402

SHAPE = (1, 28, 28)
SIGMA = 10 / 255
QUIET = {"verbose": False, "show_progress_bar": False}


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def digits():
    return jf.mnist_test_digits(12)[0]


@pytest.fixture
def physics():
    g = torch.Generator().manual_seed(0)
    return physics_.Inpainting(
        SHAPE, mask=0.4, rng=g, noise_model=physics_.GaussianNoise(SIGMA, rng=g)
    )


@pytest.fixture
def translations(monkeypatch):
    """The physics that were translated."""
    made = []
    real = translation.translate

    def counted(physics, *arguments):
        made.append(physics)
        return real(physics, *arguments)

    monkeypatch.setattr(translation, "translate", counted)
    return made


def test_it_is_a_reconstructor_and_restores_as_restore_does(digits, physics):
    model = jf.Reconstructor("mnist")
    assert isinstance(model, deepinv.models.Reconstructor)
    y = physics(digits)
    expected = jf.restore(y, physics, "mnist")
    assert torch.equal(model(y, physics), expected.x)
    decoded = jf.Reconstructor("mnist", which="decoded")
    assert torch.equal(decoded(y, physics), expected.decoded)
    assert model.restore(y, physics).status == expected.status
    assert torch.equal(model(y, jf.Inpainting(physics.mask[0]), sigma=SIGMA), expected.x)


def test_sigma_of_the_call_then_of_the_model_then_of_the_physics(digits, physics):
    y = physics(digits)
    for model, options, sigma in (
        (jf.Reconstructor("mnist"), {}, SIGMA),
        (jf.Reconstructor("mnist", sigma=0.2), {}, 0.2),
        (jf.Reconstructor("mnist", sigma=0.2), {"sigma": 0.1}, 0.1),
    ):
        expected = jf.restore(y, physics, "mnist", sigma).x
        torch.testing.assert_close(model(y, physics, **options), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["jpmap", "csgm"])
def test_deepinv_test_measures_it(digits, physics, method):
    """PSNR by DeepInverse's own loop is that of the restorations, far above the measurements."""
    loader = DataLoader(deepinv.datasets.TensorDataset(x=digits), batch_size=5)
    found = deepinv.test(
        jf.Reconstructor("mnist", method),
        loader,
        physics,
        metrics=deepinv.metric.PSNR(),
        online_measurements=True,
        **QUIET,
    )
    assert found["PSNR"] > 17 > found["PSNR no learning"] + 3


def test_trainer_tests_it_on_measurements_made_before(digits, physics, tmp_path):
    y = physics(digits)
    model = jf.Reconstructor("mnist")
    trainer = deepinv.Trainer(
        model,
        physics,
        optimizer=None,
        train_dataloader=None,
        metrics=[deepinv.metric.PSNR(), deepinv.metric.MSE()],
        online_measurements=False,
        plot_convergence_metrics=True,
        save_path=None,
        device="cpu",
        **QUIET,
    )
    loader = DataLoader(deepinv.datasets.TensorDataset(x=digits, y=y), batch_size=4)
    import matplotlib

    matplotlib.use("Agg")
    found = trainer.test(loader, save_path=tmp_path, log_raw_metrics=True)
    expected = psnr(model(y, physics), digits)
    values = torch.tensor(found["PSNR_vals"]).flatten().double()
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-3)
    assert (tmp_path / "convergence_metrics" / "curves.png").exists()


def test_generated_masks_for_each_image(digits, physics, translations):
    generator = physics_.generator.BernoulliSplittingMaskGenerator(SHAPE, split_ratio=0.4)
    loader = DataLoader(deepinv.datasets.TensorDataset(x=digits), batch_size=5)
    found = deepinv.test(
        jf.Reconstructor("mnist"),
        loader,
        physics,
        physics_generator=generator,
        online_measurements=True,
        **QUIET,
    )
    assert found["PSNR"] > 17
    assert len(translations) == 3


def test_metrics_are_lists_by_image(digits, physics):
    y = physics(digits)
    model = jf.Reconstructor("mnist")
    x, metrics = model(y, physics, x_gt=digits, compute_metrics=True)
    assert [len(rows) for rows in metrics.values()] == [12, 12, 12]
    assert [row[-1] for row in metrics["psnr"]] == psnr(x, digits).tolist()
    last = torch.tensor([row[-1] for row in metrics["cost"]])
    torch.testing.assert_close(last, model.restore(y, physics).objective)
    assert "psnr" not in model(y, physics, compute_metrics=True)[1]


def test_what_is_made_from_a_physics_is_kept_while_it_is_the_same(digits, physics, translations):
    model = jf.Reconstructor("mnist")
    y = physics(digits)
    other = physics_.CompressedSensing(50, SHAPE, noise_model=physics_.GaussianNoise(SIGMA))
    for _ in range(2):
        model(y, physics)
        model(y[:3], physics)
        model(other(digits), other)
        physics.A_adjoint(y)
        physics.noise_model.update_parameters(sigma=0.2)
    assert translations == [physics, other]
    known = model._known[other][1].operator
    assert known._kept.peek("factor") is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda physics, mask: physics.update(mask=mask),
        lambda physics, mask: physics.mask.copy_(mask),
        lambda physics, mask: physics.mask.data.copy_(mask),
        lambda physics, mask: physics.mask.numpy().__setitem__(..., mask.numpy()),
        lambda physics, mask: setattr(physics, "mask", mask),
    ],
)
def test_a_changed_mask_is_noticed(digits, physics, translations, change):
    model = jf.Reconstructor("mnist")
    model(physics(digits), physics)
    change(physics, (torch.rand(1, *SHAPE) < 0.5).float())
    y = physics(digits)
    assert torch.equal(model(y, physics), jf.restore(y, physics, "mnist").x)
    assert translations == [physics] * 3


def test_changes_within_stacked_physics_are_noticed(digits, translations):
    noise = physics_.GaussianNoise(0.1)
    blur = physics_.Blur(torch.rand(1, 1, 3, 3) / 4, padding="circular", noise_model=noise)
    stacked = blur.stack(physics_.Denoising(physics_.GaussianNoise(0.3)))
    model = jf.Reconstructor("mnist")
    for _ in range(2):
        model(stacked(digits[:2]), stacked)
    assert translations == [stacked]
    blur.update(filter=torch.rand(1, 1, 3, 3) / 4)
    y = stacked(digits[:2])
    assert torch.equal(model(y, stacked), jf.restore(y, stacked, "mnist").x)


class Weighted(physics_.LinearPhysics):
    """What A is made of in places where modules do not look."""

    def __init__(self) -> None:
        super().__init__()
        self.array = np.ones(1, dtype=np.float32)
        self.table = {"w": torch.ones(1)}
        self.others = [physics_.Inpainting(SHAPE, mask=torch.ones(SHAPE))]

    def A(self, x, **kwargs):
        return self.array[0].item() * self.table["w"] * self.others[0].A(x)

    def A_adjoint(self, y, **kwargs):
        return self.A(y)


@pytest.mark.parametrize(
    "change",
    [
        lambda physics: physics.array.__setitem__(0, 2),
        lambda physics: physics.table["w"].fill_(2),
        lambda physics: physics.others[0].mask.fill_(2),
    ],
)
def test_changes_of_plain_attributes_are_noticed(digits, translations, change):
    physics = Weighted()
    model = jf.Reconstructor("mnist", sigma=0.1)
    for _ in range(2):
        model(digits[:2], physics)
    assert translations == [physics]
    change(physics)
    assert torch.equal(model(digits[:2], physics), jf.restore(digits[:2], physics, "mnist", 0.1).x)


def test_functions_are_compared_by_identity(digits, translations):
    physics = physics_.LinearPhysics(A=lambda x: 2 * x, A_adjoint=lambda y: 2 * y)
    model = jf.Reconstructor("mnist", sigma=0.1)
    for _ in range(2):
        model(2 * digits[:2], physics)
    physics.forw = physics.A_adj = lambda x: 3 * x
    x = model(3 * digits[:2], physics)
    assert translations == [physics] * 2
    expected = jf.restore(digits[:2], jf.Denoising(), "mnist", 0.1 / 3).x
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-3)


def test_a_physics_that_is_gone_is_forgotten(digits, physics):
    model = jf.Reconstructor("mnist")
    model(physics(digits), physics)
    short = physics_.Denoising(physics_.GaussianNoise(0.3))
    model(short(digits), short)
    assert len(model._known) == 2
    del short
    assert len(model._known) == 1


def test_copies_and_pickles_restore_the_same(digits, physics):
    model = jf.Reconstructor("mnist")
    y = physics(digits)
    expected = model(y, physics)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert len(other._known) == 0
        assert torch.equal(other(y, physics), expected)


def test_it_follows_to_another_precision(digits, physics):
    model = jf.Reconstructor("mnist").double()
    assert model(physics(digits), physics).dtype == torch.float64


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"prior": "mnist", "which": "z"}, ValueError, "which: expected one of 'x', 'decoded'"),
        ({"prior": "mnist", "method": "magic"}, ValueError, "method: expected one of"),
        ({"prior": 3}, TypeError, "prior: expected an object with encode"),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        jf.Reconstructor(**options)


def test_bad_physics_are_refused(digits):
    model = jf.Reconstructor("mnist")
    with pytest.raises(TypeError, match="expected a deepinv LinearPhysics, got Haze"):
        model(digits, physics_.Haze())
    with pytest.raises(TypeError, match="or a deepinv physics, got str"):
        model(digits, "blur")


def test_example_of_the_guide_restores(tmp_path, monkeypatch):
    path = Path(__file__).parent.parent / "docs" / "guides" / "deepinverse.md"
    block = re.search(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(block[1], path.name, "exec"), namespace)
    assert namespace["restored"].shape == (16, 1, 28, 28)
    assert namespace["scores"]["PSNR"] > namespace["scores"]["PSNR no learning"] + 5


def test_a_mean_is_reconstructed_as_restored(digits, physics):
    y = physics(digits[:3])
    few = jf.AMIS(rounds=(64,), screen=64)
    model = jf.Reconstructor(
        "mnist", few, estimate="mean", generator=torch.Generator().manual_seed(1)
    )
    x, metrics = model(y, physics, digits[:3], compute_metrics=True)
    generator = torch.Generator().manual_seed(1)
    same = jf.restore(y, physics, "mnist", method=few, estimate="mean", generator=generator)
    assert torch.equal(x, same.x) and list(metrics) == ["psnr"]
    with pytest.raises(TypeError, match="method: expected one of amis"):
        jf.Reconstructor("mnist", jf.JPMAP(), estimate="mean")
    with pytest.raises(ValueError, match="latent codes"):
        jf.Reconstructor("photos-grey", estimate="mean")
