"""TransformCodec: exact lengths, nested rates, and what must not break it."""

import math

import pytest
import torch

from speechbrain_ext.models import TransformCodec
from speechbrain_ext.quantization import (
    AdaptiveResidualVectorQuantizer,
    ResidualVectorQuantizer,
)


def make_rvq(kind: str = "plain", num_quantizers: int = 8):
    options = {"dim": 24, "num_quantizers": num_quantizers, "codebook_size": 16}
    options |= {"group_sizes": [4, 8, 12]}
    if kind == "plain":
        return ResidualVectorQuantizer(**options)
    return AdaptiveResidualVectorQuantizer(**options, depth=6, noise_shaping=0.3)


def make_codec(kind: str = "plain", **options) -> TransformCodec:
    torch.manual_seed(0)
    settings = {"hop_samples": 32, "width": 16, "decoder_blocks": 1} | options
    return TransformCodec(make_rvq(kind), **settings)


def speechlike(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Harmonics of a gliding pitch under a slow envelope, rms near 0.1."""
    time = torch.arange(num_samples) / 16000
    phase = 2 * math.pi * (120 + 10 * seed) * (time + 0.1 * time**2)
    wav = sum(torch.sin(k * phase + k * seed) / k for k in range(1, 12))
    return 0.1 * wav * (0.6 + 0.4 * torch.sin(9 * time + seed))


@pytest.fixture(scope="module", params=["plain", "adaptive"])
def codec(request) -> TransformCodec:
    model = make_codec(request.param)
    model.initialize([speechlike(16000, seed) for seed in range(3)])
    with torch.no_grad():  # as if trained: the correction is no longer zero
        model.decoder.leave.weight.normal_(0, 1e-2)
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


@pytest.mark.parametrize("kind", ["plain", "adaptive"])
@pytest.mark.parametrize("level", [0.0, 1e-20, 1.0, 100.0])
def test_gradients_are_finite_from_silence_to_overload(level, kind):
    codec = make_codec(kind)
    codec.initialize([speechlike(16000)])
    codec.train()
    wav = level * speechlike(1600)[None]
    result = codec(wav)
    ((result.wav - wav).square().mean() + result.rvq.loss).backward()
    grads = [p.grad for p in codec.parameters() if p.grad is not None]
    assert len(grads) > 10
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("kind", ["plain", "adaptive"])
def test_new_correction_is_zero_but_learns(kind):
    codec = make_codec(kind, noise_fill=0.0)
    linear = make_codec(kind, decoder_blocks=0)
    for model in (codec, linear):
        model.initialize([speechlike(16000)])
    wav = speechlike(1600)[None]
    codes = linear.eval().encode(wav)
    assert torch.equal(codec.eval().encode(wav), codes)
    torch.testing.assert_close(codec.decode(codes), linear.decode(codes))
    codec.train()
    (codec(wav).wav - wav).square().mean().backward()
    assert codec.decoder.leave.weight.grad.abs().sum() > 0


def test_without_groups_pca_beats_plain_bands():
    # All energy in the upper half of the band, which 24 of 32 low bins cut.
    wav = 0.1 * torch.sin(torch.arange(16000) * 2.6)
    snrs = []
    for basis in ("bands", "pca"):
        codec = make_codec(basis=basis).eval()
        codec.initialize([wav])
        snrs.append(snr_db(wav[None, :4000], codec(wav[None, :4000]).wav))
    assert snrs[1] > snrs[0] + 10


def test_adaptive_codes_are_worth_more_where_loudness_varies():
    time = torch.arange(16000) / 16000
    envelope = (torch.sin(2 * math.pi * 3 * time) > 0.5).float() + 0.01
    waves = [envelope * speechlike(16000, seed) for seed in range(4)]
    snrs = {}
    for kind in ("plain", "adaptive"):
        codec = make_codec(kind).eval()
        codec.initialize(waves[:3])
        snrs[kind] = snr_db(waves[3][None], codec(waves[3][None], 3).wav)
    assert snrs["adaptive"] > snrs["plain"] + 1.5


def test_quality_follows_the_level_down_to_minus_ten_db(codec):
    wav = speechlike(8000, seed=6)[None]
    loud = snr_db(wav, codec(wav).wav)
    soft = snr_db(0.3 * wav, codec(0.3 * wav).wav)
    assert soft > loud - 8


@pytest.mark.parametrize("kind", ["plain", "adaptive"])
def test_initialize_is_deterministic_and_saved(kind):
    waves = [speechlike(8000, seed) for seed in range(2)]
    first, second = make_codec(kind), make_codec(kind)
    first.initialize(waves, seed=3)
    torch.manual_seed(99)  # the global stream plays no part
    second.initialize(waves, seed=3)
    third = make_codec(kind)
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


def test_unknown_basis_lists_the_known_ones():
    with pytest.raises(ValueError, match="'dct'; one of pca, bands"):
        make_codec(basis="dct")
