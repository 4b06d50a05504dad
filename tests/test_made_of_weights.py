"""What is made of weights is made anew when they are others, however they were written."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from problems import small_mlp
from small_photos import small_hierarchical_prior, small_patch_prior, small_photo_prior
from torch._subclasses.fake_tensor import FakeTensorMode

import jpmap_fast as jf
from jpmap_fast._made_of_weights import MadeOfWeights, looked_at_once
from jpmap_fast.priors.protocol import make_decoder
from jpmap_fast.residuals import ResidualCovariance


def test_a_value_is_kept_while_its_weights_stay():
    weights = [torch.zeros(3), torch.ones(2)]
    made: MadeOfWeights[object] = MadeOfWeights()
    first = made.get(weights, object)
    assert made.get(weights, object) is first
    weights[1].numpy()[0] = 2
    second = made.get(weights, object)
    assert second is not first and made.get(weights, object) is second
    assert made.get(weights, object, key="other") is not second
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert copied._kept is None


def test_within_a_call_weights_are_looked_at_once():
    weights, foreign = [torch.zeros(3), torch.ones(2)], torch.zeros(4)
    made: MadeOfWeights[object] = MadeOfWeights()
    asked = []

    def all_of_them() -> list[torch.Tensor]:
        asked.append(1)
        return weights

    with looked_at_once(all_of_them):
        first = made.get(weights[:1], object)
        weights[0].add_(1)
        assert made.get(weights[:1], object) is first
        assert made.get([weights[0], foreign], object) is not first
    assert asked == [1]
    assert made.get(weights[:1], object) is not first


def through_data(tensor: torch.Tensor) -> None:
    tensor.data.mul_(0.5).add_(0.01)


def through_numpy(tensor: torch.Tensor) -> None:
    array = tensor.detach().numpy()
    array *= 0.5
    array += 0.01


def of_codes(prior: jf.Prior) -> torch.Tensor:
    operator = jf.Inpainting(torch.arange(30).reshape(6, 5) % 2)
    y = torch.linspace(0, 1, 60, dtype=torch.float64).reshape(2, 1, 6, 5) * operator.mask
    return jf.restore(y, operator, prior, 0.1).x


def of_draws(prior: jf.Prior) -> torch.Tensor:
    y = torch.linspace(0, 1, 60, dtype=torch.float64).reshape(2, 1, 6, 5)
    generator = torch.Generator().manual_seed(0)
    return jf.sample(y, jf.Denoising(), prior, 0.1, draws=8, generator=generator).x


def of_pictures(prior: jf.Prior) -> torch.Tensor:
    y = torch.rand(1, 1, 24, 20, generator=torch.Generator().manual_seed(0))
    return jf.restore(y, jf.Denoising(), prior, 0.1).x


RESTORED = {
    "perceptrons": (small_mlp, of_codes),
    "draws": (small_mlp, of_draws),
    "photographs": (small_photo_prior, of_pictures),
    "hierarchy": (small_hierarchical_prior, of_pictures),
    "patches": (small_patch_prior, of_pictures),
}


@pytest.mark.parametrize("write", [through_data, through_numpy])
@pytest.mark.parametrize("kind", RESTORED)
def test_weights_written_to_in_any_way_are_the_weights(kind, write):
    """Neither counts a version of the tensor."""
    make, restored = RESTORED[kind]
    prior = make()
    before = restored(prior)
    for parameter in prior.parameters():
        write(parameter)
        fresh = make()
        fresh.load_state_dict(copy.deepcopy(prior.state_dict()))
        assert torch.equal(restored(prior), restored(fresh))
    assert not torch.equal(restored(prior), before)


def test_a_covariance_written_to_is_the_covariance():
    residual = ResidualCovariance(torch.full((4,), 0.5), torch.ones(4, 1))
    like = torch.zeros(1)
    residual.over(2.0, (1, 2, 2), like)
    residual.diagonal.numpy()[:] = 0.25
    found = residual.over(2.0, (1, 2, 2), like)
    assert torch.equal(found.diagonal, torch.full((4,), 0.0625))
    assert residual.over(2.0, (1, 2, 2), like) is found


@pytest.mark.cuda
def test_weights_written_to_on_a_gpu_are_the_weights():
    prior = small_mlp(dtype=torch.float32).cuda()
    operator = jf.Denoising()
    y = torch.linspace(0, 1, 60).reshape(2, 1, 6, 5).cuda()
    before = jf.restore(y, operator, prior, 0.1).x
    for parameter in prior.parameters():
        through_data(parameter)
        fresh = copy.deepcopy(prior)
        assert torch.equal(
            jf.restore(y, operator, prior, 0.1).x, jf.restore(y, operator, fresh, 0.1).x
        )
    assert not torch.equal(jf.restore(y, operator, prior, 0.1).x, before)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_restorer_refuses_weights_that_have_been_written_to(device):
    prior = small_mlp(dtype=torch.float32).to(device)
    y = torch.linspace(0, 1, 30, device=device).reshape(1, 1, 6, 5)
    restorer = jf.Restorer(jf.Denoising(), prior, 0.1, batch_size=1)
    sampler = jf.Sampler(jf.Denoising(), prior, 0.1, batch_size=1, draws=2)
    restorer(y)
    sampler(y)
    with torch.no_grad():
        prior.decoder_layers[0].weight.mul_(0.5)
    for prepared in (restorer, sampler):
        with pytest.raises(RuntimeError, match=r"^prior: expected the weights .* make a new Rest"):
            prepared(y)
    copied = copy.deepcopy(restorer)  # made anew, of what the weights are by now
    assert torch.equal(copied(y).x, jf.restore(y, jf.Denoising(), prior, 0.1).x)


def test_what_is_known_by_its_name_is_not_looked_at(monkeypatch):
    def looked(tensors: object) -> list[int]:
        raise AssertionError("nobody can have written to it")

    monkeypatch.setattr("jpmap_fast._made_of_weights.fingerprints", looked)
    y = torch.full((1, 1, 28, 28), 0.5)
    assert jf.restore(y, jf.Denoising(), "mnist", 0.1).path == "compiled"
    with pytest.raises(AssertionError, match="written to"):
        jf.restore(y, jf.Denoising(), jf.load_prior("mnist"), 0.1)


def test_numbers_that_return_are_not_taken_for_those_between():
    """A network that is held packs its weights when it is first asked."""
    prior = small_mlp()
    held, own = make_decoder(prior), copy.deepcopy(prior.state_dict())
    before = of_codes(prior)
    for parameter in prior.parameters():
        parameter.data.mul_(-0.7)
    held.value(torch.ones(1, 3, dtype=torch.float64))
    of_codes(prior)
    prior.load_state_dict(own)
    assert torch.equal(of_codes(prior), before)


class Foreign(jf.MLPVAE):
    """With tensors that have nothing to do with what it decodes."""

    def __init__(self) -> None:
        super().__init__((1, 6, 5), 3, (8,))
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.register_buffer("nowhere", torch.empty(3, device="meta"))
        self.later = torch.nn.LazyLinear(2)


def test_tensors_that_nobody_can_look_at_stand_in_nobodys_way():
    prior = Foreign().eval()
    y = torch.linspace(0, 1, 30).reshape(1, 1, 6, 5)
    before = jf.restore(y, jf.Denoising(), prior, 0.1)
    through_data(prior.decoder_layers[1].weight)
    assert not torch.equal(jf.restore(y, jf.Denoising(), prior, 0.1).x, before.x)
    assert jf.sample(y, jf.Denoising(), prior, 0.1, draws=2).x.isfinite().all()
    assert jf.Restorer(jf.Denoising(), prior, 0.1, batch_size=1)(y).converged.all()


def test_what_a_prior_calls_its_parameters_they_are():
    class Hidden(jf.ModulePrior):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__(lambda x: network.encode(x)[0], network.decode, 0.15, 3, (1, 6, 5))
            self._hidden = [network]

        def parameters(self, recurse: bool = True):
            return self._hidden[0].parameters()

    networks = [small_mlp(), small_mlp()]
    draws = []
    for network in networks:
        prior = Hidden(network).eval()
        of_draws(prior)
        with torch.no_grad():
            network.decoder_layers[0].weight.mul_(0.5)
        draws.append(of_draws(prior))
    assert torch.equal(*draws)
    assert torch.equal(draws[0], of_draws(Hidden(copy.deepcopy(networks[0])).eval()))


class Called(torch.nn.Module):
    """A function as a module that holds no weights of its own."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.function(z)


def test_a_program_has_the_weights_of_when_it_was_exported():
    prior, z = small_mlp(), torch.ones(2, 3, dtype=torch.float64)
    decode = Called(lambda z: make_decoder(prior, z[:0]).value(z))
    with torch.no_grad():
        before = make_decoder(prior).value(z)
        for parameter in prior.parameters():
            parameter.mul_(0.5)
        program = torch.export.export(decode, (z,), strict=False).module()
        assert torch.equal(program(z), make_decoder(prior).value(z))
        assert not torch.equal(program(z), before)
        # What was made there is of no numbers, and nobody's elsewhere.
        assert torch.equal(
            make_decoder(prior).value(z), make_decoder(copy.deepcopy(prior)).value(z)
        )


def test_an_export_in_another_thread_blinds_nobody():
    prior = small_mlp()
    before = of_codes(prior)
    inside, done = threading.Event(), threading.Event()

    def export() -> None:
        with FakeTensorMode():
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=export)
    thread.start()
    try:
        assert inside.wait(30)
        through_data(prior.decoder_layers[0].weight)
        found = of_codes(prior)
    finally:
        done.set()
        thread.join()
    assert not torch.equal(found, before)
    assert torch.equal(found, of_codes(copy.deepcopy(prior)))


def test_compiled_code_looks_too():
    prior, z = small_mlp(), torch.ones(2, 3, dtype=torch.float64)
    decode = Called(lambda z: make_decoder(prior, z[:0]).value(z))
    compiled = torch.compile(decode, backend="eager")
    with torch.no_grad():
        for write in (through_data, through_numpy, lambda tensor: tensor.mul_(0.5)):
            for parameter in prior.parameters():
                write(parameter)
            assert torch.equal(compiled(z), make_decoder(prior).value(z))


def test_while_a_graph_records_versions_alone_are_looked_at(monkeypatch):
    weights = [torch.zeros(3)]
    made: MadeOfWeights[object] = MadeOfWeights()
    first = made.get(weights, object)
    with monkeypatch.context() as recording:
        recording.setattr("jpmap_fast._made_of_weights._recording", lambda weights: True)
        assert made.get(weights, object) is first
        weights[0].add_(1)
        inside = made.get(weights, object)
        assert inside is not first
        assert made.get(weights, object) is not inside  # a graph's memory is nobody else's
    assert made.get(weights, object) not in (first, inside)
