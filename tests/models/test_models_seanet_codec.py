"""SEANetCodec: the interface of all codecs, and that it learns."""

import math

import pytest
import torch

from speechbrain_ext.models import SEANetCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer


def make_codec(**options) -> SEANetCodec:
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(16, 4, 16, init_frames=256)
    settings = {"channels": 4, "strides": (2, 4, 5)} | options
    return SEANetCodec(rvq, **settings)


@pytest.mark.parametrize("strides", [(2, 4, 5, 8), (3,), (2, 4, 5)])
@pytest.mark.parametrize("samples", [1, 319, 320, 641])
def test_as_many_samples_come_back_as_went_in(strides, samples):
    codec = make_codec(channels=2, strides=strides).eval()
    wav = torch.randn(2, samples)
    codes = codec.encode(wav)
    assert codec.hop_samples == math.prod(strides)
    assert codes.shape == (2, 4, math.ceil(samples / codec.hop_samples))
    assert codec.decode(codes, length=samples).shape == wav.shape
    assert codec(wav).wav.shape == wav.shape


def test_default_is_fifty_frames_per_second_at_16_khz():
    codec = SEANetCodec(ResidualVectorQuantizer(8, 2, 256), channels=2)
    assert codec.frame_rate == 50
    assert codec.bitrates == (0.4, 0.8)


def test_forward_in_evaluation_is_decode_of_encode():
    codec = make_codec(lstm_layers=1).eval()
    wav = torch.randn(1, 500)
    decoded = codec.decode(codec.encode(wav), length=500)
    torch.testing.assert_close(codec(wav).wav, decoded, rtol=0, atol=1e-6)


def test_non_finite_input_shows_in_its_item_only():
    codec = make_codec().eval()
    wav = torch.randn(2, 400)
    clean = codec(wav).wav
    wav[0, 200] = math.nan
    result = codec(wav).wav
    assert result[0].isnan().any()
    torch.testing.assert_close(result[1], clean[1])


@pytest.mark.parametrize("lstm_layers", [0, 1])
def test_a_few_steps_lower_the_loss(lstm_layers):
    codec = make_codec(lstm_layers=lstm_layers).train()
    optimizer = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    wav = 0.3 * torch.sin(torch.arange(1600) * 0.1).expand(4, -1)
    losses = []
    for _ in range(30):
        result = codec(wav)
        loss = (result.wav - wav).square().mean() + result.rvq.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert codec.quantizer.initialized
    assert min(losses[-5:]) < 0.7 * losses[0]


def test_gradient_is_finite_on_silence():
    codec = make_codec().train()
    codec(torch.zeros(1, 800)).wav.square().mean().backward()
    grads = [p.grad for p in codec.parameters() if p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


def test_initialize_closes_the_wait_for_frames():
    codec = make_codec()
    codec.initialize([torch.randn(4000), torch.randn(3000)])
    assert codec.quantizer.initialized


def test_bad_shape_and_length_are_refused():
    codec = make_codec().eval()
    with pytest.raises(ValueError, match="wav must be"):
        codec.encode(torch.zeros(1, 0))
    with pytest.raises(ValueError, match="1 frames hold 40 samples, 41"):
        codec.decode(codec.encode(torch.zeros(1, 9)), length=41)
