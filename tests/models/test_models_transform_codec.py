"""TransformCodec: exact lengths, nested rates, and what must not break it."""

import math

import pytest
import torch

from speechbrain_ext.models import TransformCodec
from speechbrain_ext.quantization import ResidualVectorQuantizer


def make_codec(**options) -> TransformCodec:
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(
        24, num_quantizers=8, codebook_size=16, group_sizes=[8, 8, 8]
    )
    return TransformCodec(
        rvq, hop_samples=32, width=16, encoder_blocks=1, decoder_blocks=1, **options
    )


def speechlike(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Harmonics of a gliding pitch under a slow envelope, rms near 0.1."""
    time = torch.arange(num_samples) / 16000
    phase = 2 * math.pi * (120 + 10 * seed) * (time + 0.1 * time**2)
    wav = sum(torch.sin(k * phase + k * seed) / k for k in range(1, 12))
    return 0.1 * wav * (0.6 + 0.4 * torch.sin(9 * time + seed))


@pytest.fixture(scope="module")
def codec() -> TransformCodec:
    model = make_codec()
    model.initialize([speechlike(16000, seed) for seed in range(3)])
    with torch.no_grad():  # as if trained: the corrections are no longer zero
        for stack in (model.encoder, model.decoder):
            stack.leave.weight.normal_(0, 1e-2)
    return model.eval()


def snr_db(wav, decoded):
    with torch.no_grad():
        noise = (wav - decoded).square().sum()
        return 10 * math.log10(wav.square().sum() / noise)


@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 1000])
def test_as_many_samples_come_back_as_went_in(codec, samples):
    wav = speechlike(samples)[None]
    codes = codec.encode(wav)
    assert codes.shape == (1, 8, math.ceil(samples / 32) + 1)
    assert codec.decode(codes, length=samples).shape == wav.shape
    assert codec(wav).wav.shape == wav.shape


def test_forward_in_evaluation_is_decode_of_encode(codec):
    wav = speechlike(3000)[None]
    decoded = codec.decode(codec.encode(wav), length=3000)
    torch.testing.assert_close(codec(wav).wav, decoded, rtol=0, atol=1e-6)


def test_initialized_codec_beats_its_start_without_a_gradient_step(codec):
    wav = speechlike(8000, seed=7)[None]
    assert snr_db(wav, codec(wav).wav) > 10
    assert snr_db(wav, make_codec().eval()(wav).wav) < 3


def test_more_rate_is_more_snr_and_lower_rates_are_prefixes(codec):
    wav = speechlike(8000, seed=5)[None]
    codes = codec.encode(wav)
    snrs = []
    for kbps in (2.0, 4.0, 8.0, 16.0):
        number = codec.kbps_to_quantizers(kbps)
        assert torch.equal(codec.encode(wav, kbps=kbps), codes[:, :number])
        snrs.append(snr_db(wav, codec.decode(codes[:, :number], length=8000)))
    assert snrs == sorted(snrs)


def test_rates_are_counted_in_bits_of_codes(codec):
    assert codec.frame_rate == 500
    assert codec.bitrates == tuple(2.0 * n for n in range(1, 9))
    assert codec.kbps_to_quantizers(None) == 8
    assert codec.kbps_to_quantizers(5.9) == 2
    assert codec.kbps_to_quantizers(6.0) == 3


@pytest.mark.parametrize("kbps", [1.9, 16.1, 0.0, -1.0, math.nan])
def test_impossible_rate_names_the_range(codec, kbps):
    with pytest.raises(ValueError, match="between 2 and 16"):
        codec.kbps_to_quantizers(kbps)


def test_padded_items_are_coded_as_if_alone(codec):
    waves = [speechlike(n, seed) for seed, n in enumerate((1000, 31, 640))]
    lengths = torch.tensor([len(wav) for wav in waves])
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    batch[1, 31:] = 1.0  # what lies beyond the end must not matter
    together = codec(batch, lengths=lengths).wav
    decoded = codec.decode(codec.encode(batch, lengths=lengths), length=lengths)
    for item, wav in enumerate(waves):
        alone = codec(wav[None]).wav[0]
        torch.testing.assert_close(together[item, : len(wav)], alone, rtol=0, atol=1e-5)
        assert not together[item, len(wav) :].any()
    torch.testing.assert_close(decoded, together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_input_shows_in_its_item_only(codec, bad):
    wav = torch.stack([speechlike(2000, seed) for seed in range(3)])
    clean = codec(wav).wav
    wav[1, 700] = bad
    result = codec(wav).wav
    assert result[1].isnan().any()
    torch.testing.assert_close(result[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("level", [0.0, 1e-20, 1.0, 100.0])
def test_gradients_are_finite_from_silence_to_overload(level):
    codec = make_codec()
    codec.initialize([speechlike(16000)])
    codec.train()
    wav = level * speechlike(1600)[None]
    result = codec(wav)
    ((result.wav - wav).square().mean() + result.rvq.loss).backward()
    grads = [p.grad for p in codec.parameters() if p.grad is not None]
    assert len(grads) > 10
    assert all(grad.isfinite().all() for grad in grads)


def test_new_corrections_are_zero_but_learn():
    codec = make_codec()
    codec.initialize([speechlike(16000)])
    wav = speechlike(1600)[None]
    linear = codec.mdct(wav) @ codec.basis / codec.level
    torch.testing.assert_close(codec.analyze(wav), linear)
    loss = (codec(wav).wav - wav).square().mean()
    loss.backward()
    assert codec.encoder.leave.weight.grad.abs().sum() > 0
    assert codec.decoder.leave.weight.grad.abs().sum() > 0


def test_initialize_is_deterministic_and_saved():
    waves = [speechlike(8000, seed) for seed in range(2)]
    first, second = make_codec(), make_codec()
    first.initialize(waves, seed=3)
    torch.manual_seed(99)  # the global stream plays no part
    second.initialize(waves, seed=3)
    third = make_codec()
    third.load_state_dict(first.state_dict())
    wav = speechlike(4000, seed=4)[None]
    codes = first.eval().encode(wav)
    assert torch.equal(second.eval().encode(wav), codes)
    assert torch.equal(third.eval().encode(wav), codes)
    assert torch.equal(third.decode(codes), first.decode(codes))


def test_initialize_ignores_broken_samples_and_refuses_silence():
    wav = speechlike(8000)
    broken = wav.clone()
    broken[:50] = math.nan
    codec = make_codec()
    codec.initialize([broken, wav])
    assert all(b.isfinite().all() for b in codec.buffers() if b.is_floating_point())
    with pytest.raises(ValueError, match="empty or silent"):
        make_codec().initialize([torch.zeros(4000)])
    with pytest.raises(ValueError, match="empty or silent"):
        make_codec().initialize([])


def test_autocast_keeps_codes_of_the_untrained_codec():
    codec = make_codec()
    codec.initialize([speechlike(16000)])
    codec.eval()
    wav = speechlike(3000, seed=2)[None]
    codes = codec.encode(wav)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(wav), codes)
        assert codec(wav).wav.dtype == torch.float32


def test_latent_wider_than_a_frame_is_refused():
    with pytest.raises(ValueError, match="dim 64 is more than the 32"):
        TransformCodec(ResidualVectorQuantizer(64, 2, 4), hop_samples=32)
