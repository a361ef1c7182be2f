"""Speaker encoders: an embedding is of its own utterance alone, and finite."""

import math

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.ResNet import ResNet

from speechbrain_ext.models import SpeakerEncoder


def stock():
    torch.manual_seed(3)
    return ECAPA_TDNN(
        24,
        channels=[16, 16, 24],
        kernel_sizes=[5, 3, 1],
        dilations=[1, 2, 1],
        attention_channels=8,
        res2net_scale=4,
        se_channels=8,
        lin_neurons=12,
    )


def ecapa(**settings):
    return SpeakerEncoder(Fbank(n_mels=24), stock(), embedding_dim=12, **settings)


def resnet():
    torch.manual_seed(3)
    encoder = ResNet(
        24, channels=[4, 4, 8, 8], block_sizes=[1, 1, 1, 1], lin_neurons=12
    )
    return SpeakerEncoder(Fbank(n_mels=24), encoder, embedding_dim=12)


def learned(encoder):
    """Move the BatchNorm statistics away from 0 and 1, as training does."""
    generator = torch.Generator().manual_seed(5)
    for module in encoder.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
    return encoder.eval()


def noise(*shape, seed=1):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.smoke
@pytest.mark.parametrize("make", [ecapa, resnet])
def test_an_embedding_does_not_depend_on_its_batch_mates(make):
    encoder = learned(make())
    counts = [16000, 9111, 12345, 700, 16000]
    batch = torch.full((5, 16000), 7.0)  # what lies behind the end is not looked at
    for row, count in enumerate(counts):
        batch[row, :count] = noise(count, seed=row)
    with torch.no_grad():
        together = encoder(batch, torch.tensor(counts) / 16000)
        for row, count in enumerate(counts):
            alone = encoder(batch[row : row + 1, :count])
            assert torch.allclose(together[row], alone[0], rtol=0, atol=1e-6)
    assert together.std(dim=0).min() > 1e-4  # and they do differ from each other


def test_stock_lets_the_padding_into_the_embedding():
    """Why `forward` goes by length: the same batch through the encoder at once."""
    encoder = learned(ecapa())
    wav = noise(1, 16000)
    wav[:, 8000:] = 0.0
    with torch.no_grad():
        alone = encoder(wav[:, :8000])
        stock = encoder.encode(encoder.features(wav), torch.tensor([0.5]))
        ours = encoder(wav, torch.tensor([0.5]))
    assert (stock - alone).abs().max() > 1e-3
    assert torch.equal(ours, alone)


def test_features_are_those_of_stock_less_their_mean():
    encoder, wav = ecapa(), noise(2, 16000)
    stock = Fbank(n_mels=24)(wav)
    expected = stock - stock.mean(dim=1, keepdim=True)
    assert torch.equal(encoder.compute_features(wav), expected)
    assert torch.equal(ecapa(mean_norm=False).compute_features(wav), stock)


def test_features_of_a_padded_batch_are_those_of_each_alone_and_zero_behind():
    encoder, wav = ecapa(), noise(2, 16000)
    features = encoder.compute_features(wav, torch.tensor([1.0, 0.5]))
    assert features.shape == (2, 101, 24)
    half = encoder.compute_features(wav[1:, :8000])[0]
    assert torch.allclose(features[1, : len(half)], half, atol=1e-4)
    assert not features[1, len(half) :].any()


@pytest.mark.parametrize("make", [ecapa, resnet])
@pytest.mark.parametrize("count", [0, 1, 159, 161, 640, 1599])
def test_a_short_utterance_is_repeated(make, count):
    encoder, wav = learned(make()), noise(1, count)
    with torch.no_grad():
        found = encoder(wav)
        whole = wav.repeat(1, 1600)[:, :1600] if count else torch.zeros(1, 1600)
        assert torch.equal(found, encoder(whole))
    assert found.isfinite().all()


@pytest.mark.parametrize("make", [ecapa, resnet])
def test_one_frame_of_features_is_repeated(make):
    encoder, features = learned(make()), noise(2, 1, 24)
    with torch.no_grad():
        found = encoder.encode(features, torch.tensor([1.0, 1.0]))
        assert torch.equal(found, encoder.encode(features.expand(-1, 11, -1)))
    assert found.isfinite().all()


WAVES = {
    "silence": torch.zeros(16000),
    "direct current": torch.full((16000,), 0.5),
    "impulse": torch.eye(1, 16000)[0],
    "clipped": noise(16000).sign(),
    "1e-30": 1e-30 * noise(16000),
    "1e6": 1e6 * noise(16000),
}
BROKEN_WAVES = {
    "1e20": 1e20 * noise(16000),
    "3e38": 3e38 * noise(16000).sign(),
    "one sample of 1e30": noise(16000) + 1e30 * torch.eye(1, 16000)[0],
}


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        *((k, t) for k in WAVES for t in (True, False)),
        *((k, False) for k in BROKEN_WAVES),
    ],
)
def test_extreme_audio_has_a_finite_embedding_and_gradient(kind, training):
    encoder = ecapa().train(training)
    wav = (WAVES | BROKEN_WAVES)[kind]
    batch = torch.stack([noise(16000), wav, noise(16000, seed=2)])
    vectors = encoder(batch, torch.tensor([1.0, 1.0, 0.0]))
    assert vectors.isfinite().all()
    vectors.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("kind", BROKEN_WAVES)
def test_a_broken_recording_is_not_levelled_in_training(kind):
    batch = torch.stack([noise(16000), BROKEN_WAVES[kind]])
    assert ecapa().train()(batch)[1].isnan().any()


def test_the_level_of_a_recording_does_not_matter():
    encoder, wav = learned(ecapa()), noise(1, 16000)
    with torch.no_grad():
        usual = encoder(wav)
        for gain in (4.0, 1e15, 1e30):
            assert torch.allclose(encoder(gain * wav), usual, atol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_sample_is_seen_in_its_own_embedding_and_in_no_other(bad):
    encoder, batch = learned(ecapa()), noise(3, 16000)
    with torch.no_grad():
        clean = encoder(batch)
        batch[1, 77] = bad
        found = encoder(batch)
    assert found[1].isnan().any()
    assert torch.allclose(found[::2], clean[::2], rtol=0, atol=1e-6)


def test_a_batch_of_one_in_training_says_what_to_do():
    with pytest.raises(ValueError, match="needs 2 utterances .* got 1: BatchNorm"):
        ecapa().train()(noise(1, 16000))
    assert ecapa().eval()(noise(1, 16000)).shape == (1, 12)


def test_another_shape_is_a_message():
    with pytest.raises(ValueError, match=r"must be \[batch, time\], got \[2, 1, 99\]"):
        ecapa()(noise(2, 1, 99))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floating_types_are_taken(dtype):
    encoder, wav = learned(ecapa()), noise(1, 16000)
    with torch.no_grad():
        assert torch.allclose(encoder(wav.to(dtype)), encoder(wav), atol=5e-2)
        assert encoder(wav.to(dtype)).dtype == torch.float32


def test_features_are_float32_under_autocast():
    encoder, wav = learned(ecapa()), noise(2, 16000)
    full = encoder.compute_features(wav)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        features = encoder.compute_features(wav)
        vectors = encoder(wav)
    assert torch.equal(features, full)
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()


def test_building_leaves_random_stream_statistics_and_mode_alone():
    expected = stock().state_dict()
    stream = torch.get_rng_state()
    encoder = ecapa()
    assert torch.equal(torch.get_rng_state(), stream)
    assert encoder.training
    found = encoder.encoder.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_seconds": 0.0}, "min_seconds must be > 0, got 0"),
        ({"min_seconds": 0.01}, "min_seconds 0.01 is too short for them"),
        ({"embedding_dim": 13}, "is 13, but the encoder returns 12 numbers"),
    ],
)
def test_parts_that_do_not_fit_are_told_when_they_are_built(settings, message):
    parts = ecapa()
    with pytest.raises(ValueError, match=message):
        SpeakerEncoder(
            parts.features, parts.encoder, **{"embedding_dim": 12, **settings}
        )
    with pytest.raises(ValueError, match="do not fit each other"):
        SpeakerEncoder(Fbank(n_mels=40), parts.encoder, embedding_dim=12)
