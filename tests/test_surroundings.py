"""What surrounds a call changes nothing in it, and a call nothing of what surrounds it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from problems import case, small_mlp

import jpmap_fast as jf
from jpmap_fast._surroundings import DrawingFrom, full_precision


def settings() -> list[Any]:
    backends: Any = torch.backends
    return [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]


def flags() -> list[str]:
    """The precision settings of the process."""
    return [setting.fp32_precision for setting in settings()]


@pytest.fixture
def unset():
    """Leaves every setting to the one above it."""
    yield
    for setting in settings():
        setting.fp32_precision = "none"
    torch.backends.fp32_precision = "none"


def test_precision_is_held_while_anybody_computes_and_given_back(unset):
    torch.set_float32_matmul_precision("medium")
    before = flags()
    assert "tf32" in before and "bf16" in before
    inside, leave, seen = threading.Event(), threading.Event(), []

    def longer() -> None:
        with full_precision():
            inside.set()
            leave.wait(10)
            seen.append(flags())

    thread = threading.Thread(target=longer)
    with full_precision():
        thread.start()
        assert inside.wait(10)
    assert set(flags()) <= {"ieee", "none"}  # the other thread is not done
    leave.set()
    thread.join()
    assert set(seen[0]) <= {"ieee", "none"}
    assert flags() == before


def test_a_setting_from_above_stays_one_from_above(unset):
    backends = torch.backends
    backends.fp32_precision = "tf32"
    with full_precision():
        assert backends.cuda.matmul.fp32_precision == "ieee"
    assert backends.cuda.matmul.fp32_precision == "tf32"
    backends.fp32_precision = "none"
    assert backends.cuda.matmul.fp32_precision == "none"


@pytest.mark.parametrize("method", [jf.JPMAP(), jf.JPMAP(starts=5), jf.CSGM(starts=3)], ids=repr)
def test_random_starts_are_drawn_once(method):
    c, prior = case("inpainting"), small_mlp()
    torch.manual_seed(1)
    whole = jf.restore(c.y, c.operator, prior, c.sigma, method=method)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    chunks = jf.restore(c.y, c.operator, prior, c.sigma, method=method, chunk_size=1)
    assert torch.equal(chunks.x, whole.x)
    assert torch.equal(torch.get_rng_state(), after)
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    jf.restore(c.y, c.operator, prior, c.sigma, method=method, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_drawn_where_nothing_is_random():
    c, prior = case("inpainting"), small_mlp()
    before = torch.get_rng_state()
    jf.restore(c.y, c.operator, prior, c.sigma)
    jf.restore(c.y, c.operator, prior, c.sigma, method=jf.JPMAP(starts=5), z0=torch.zeros(4, 3))
    jf.Restorer(c.operator, prior, c.sigma, batch_size=4)(c.y)
    jf.load_prior("mnist")
    jf.load_prior("faces")
    jf.load_denoiser("mnist")
    jf.restore(jf.mnist_test_digits(1)[0], jf.Denoising(), "fashion", 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_numbers_of_other_threads_are_never_rewound():
    c, prior = case("inpainting"), small_mlp()
    seen, stop = [], threading.Event()

    def draw() -> None:
        while not stop.is_set():
            seen.append(float(torch.rand((), dtype=torch.float64)))

    thread = threading.Thread(target=draw)
    thread.start()
    for _ in range(3):
        jf.restore(c.y, c.operator, prior, c.sigma, method=jf.JPMAP(starts=3), chunk_size=1)
        jf.load_denoiser("mnist")
    stop.set()
    thread.join()
    assert len(set(seen)) == len(seen) > 10


def test_drawing_from_a_generator_is_seeding_without_the_shared_state():
    before = torch.get_rng_state()
    with DrawingFrom(torch.Generator().manual_seed(3)):
        mine = jf.ConvVAE((1, 8, 8), 2, (4,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    seeded = jf.ConvVAE((1, 8, 8), 2, (4,))
    for a, b in zip(mine.state_dict().values(), seeded.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_threads_with_masks_of_their_own_share_a_prior():
    """Each thread gets the bits of one thread, whatever masks the others have."""
    prior = jf.load_prior("mnist")
    digits = jf.mnist_test_digits(8)[0]
    generator = torch.Generator().manual_seed(0)
    problems = []
    for i in range(8):
        mask = torch.zeros(784)
        mask[torch.randperm(784, generator=generator)[:160]] = 1
        operator = jf.Inpainting(mask.reshape(28, 28))
        y = operator.measure(digits[: 1 + i % 3], 0.04, generator=generator)
        problems.append((y, operator, jf.restore(y, operator, prior, 0.04).x))
    wrong = []

    def work(mine: int) -> None:
        for turn in range(6):
            y, operator, expected = problems[(mine + turn) % 8]
            if not torch.equal(jf.restore(y, operator, prior, 0.04).x, expected):
                wrong.append(mine)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
