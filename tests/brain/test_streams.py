"""All random streams are put back, also from a file."""

import random

import numpy as np
import pytest
import torch

from speechbrain_ext.brain.memory.streams import RandomStreams


def draw():
    """Numbers from every stream, a Gaussian and a half-used one among them."""
    return (
        torch.rand(3).tolist(),
        torch.randn(17).tolist(),
        np.random.randn(3).tolist(),  # an odd number: one Gaussian stays for the next
        np.random.randint(0, 1000, 5).tolist(),
        random.random(),
        random.gauss(0, 1),
        random.sample(range(100), 5),
    )


@pytest.fixture(autouse=True)
def _seeded():
    np.random.seed(3)
    random.seed(4)
    torch.manual_seed(5)


@pytest.mark.parametrize("warm_up", [0, 1, 2])
@pytest.mark.parametrize("takes", [1, 2, 3])
def test_all_streams_are_put_back(warm_up, takes):
    for _ in range(warm_up):
        draw()
    streams = RandomStreams()
    for _ in range(takes):
        streams.take()
    first = draw()
    streams.restore()
    assert draw() == first
    streams.restore()
    assert draw() == first


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_a_gaussian_kept_for_later_is_not_overlooked(draws):
    """NumPy gives the second of two Gaussians without moving its generator."""
    streams = RandomStreams()
    streams.take()
    np.random.randn(draws)
    streams.take()
    np.random.randn()
    streams.take()
    reference = np.random.get_state()
    after = np.random.randn(4)
    streams.restore()
    assert str(np.random.get_state()) == str(reference)
    assert (np.random.randn(4) == after).all()


def test_a_stream_seeded_anew_is_taken_anew():
    streams = RandomStreams()
    streams.take()
    np.random.seed(99)
    streams.take()
    first = np.random.rand()
    streams.restore()
    assert np.random.rand() == first == np.random.RandomState(99).rand()


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_another_bit_generator_of_numpy_is_put_back_too(kind):
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(kind(7))
    try:
        streams = RandomStreams()
        streams.take()
        first = np.random.rand(3).tolist()
        streams.restore()
        assert np.random.rand(3).tolist() == first
        streams.load_state_dict(streams.state_dict())
        streams.restore()
        assert np.random.rand(3).tolist() == first
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize("warm_up", [0, 1])
def test_streams_go_through_a_file_that_needs_no_trust(tmp_path, warm_up):
    for _ in range(warm_up):
        draw()
    streams = RandomStreams()
    streams.take()
    torch.save(streams.state_dict(), tmp_path / "random.pt")
    first = draw()
    other = RandomStreams()
    other.load_state_dict(torch.load(tmp_path / "random.pt", weights_only=True))
    other.restore()
    assert draw() == first


def test_what_is_missing_is_named():
    streams = RandomStreams()
    with pytest.raises(RuntimeError, match="call take"):
        streams.state_dict()
    with pytest.raises(ValueError, match="lacks numpy, python"):
        streams.load_state_dict({"torch_cpu": None, "torch_cuda": []})
