"""Files of codecs with codes: any rate, length and number of channels."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch

from speechbrain_ext.codec.container import BitstreamError, read_coded
from speechbrain_ext.models import SEANetCodec, TransformCodec
from speechbrain_ext.models.code_files import learn_codes
from speechbrain_ext.quantization import (
    AdaptiveResidualVectorQuantizer,
    ResidualVectorQuantizer,
)
from tests.codec.damage import forged, spoiled, with_random_payloads
from tests.codec.signals import speech


def make(kind: str):
    torch.manual_seed(0)
    if kind == "adaptive":
        rvq = AdaptiveResidualVectorQuantizer(
            48, 8, 16, group_sizes=[8, 16, 24], depth=4, kmeans_iterations=2
        )
    else:
        rvq = ResidualVectorQuantizer(48, 8, 16, kmeans_iterations=2)
    if kind == "seanet":
        return SEANetCodec(rvq, channels=2, strides=(4, 4, 10)).eval()
    return TransformCodec(rvq, hop_samples=160, width=8, decoder_blocks=1).eval()


def waves(count: int = 3) -> list[np.ndarray]:
    return [speech(seed=n).astype(np.float32) for n in range(count)]


@pytest.fixture(scope="module")
def codecs():
    found = {}
    for kind in ("adaptive", "plain", "seanet"):
        codec = make(kind)
        codec.initialize([torch.from_numpy(wave) for wave in waves()])
        learn_codes(codec, waves(), steps=20)
        found[kind] = codec.eval()
    return found


@pytest.fixture(scope="module")
def codec(codecs):
    return codecs["adaptive"]


@pytest.fixture(scope="module")
def data(codec):
    return codec.compress(speech(seed=9), 16000, codebooks=8)


@pytest.mark.parametrize("kind", ["adaptive", "plain", "seanet"])
@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_samples_come_back_at_their_rate_and_number(codecs, kind, sample_rate):
    wave = np.stack([speech(seed=n)[:5003] for n in range(2)])
    codec = codecs[kind]
    found, rate = codec.decompress(codec.compress(wave, sample_rate, codebooks=5))
    assert (found.shape, rate, found.dtype) == (wave.shape, sample_rate, np.float32)


@pytest.mark.parametrize("kind", ["plain", "seanet"])
def test_what_is_decoded_is_what_the_codes_say(codecs, kind):
    codec, wave = codecs[kind], torch.from_numpy(waves(1)[0])
    codes = codec.encode(wave[None])[:, :5]
    expected = codec.decode(codes, length=len(wave))[0].numpy()
    found, _ = codec.decompress(codec.compress(wave.numpy(), 16000, codebooks=5))
    assert np.array_equal(found[0], expected)


def test_choosing_codes_by_their_bits_costs_little_quality(codec):
    wave = speech(seed=9)
    codes = codec.encode(torch.from_numpy(wave.astype(np.float32))[None])
    nearest = codec.decode(codes, length=len(wave))[0].numpy()
    found = codec.decompress(codec.compress(wave, 16000, codebooks=8))[0][0]
    errors = [np.square(wave - one).sum() for one in (found, nearest)]
    assert 10 * np.log10(errors[0] / errors[1]) < 0.5


@pytest.mark.parametrize("seconds", [1 / 16000, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("kbps", [1.5, 3.0, 64.0])
def test_a_file_is_no_larger_than_asked_and_has_the_most_codebooks(
    codec, seconds, kbps
):
    wave = speech(seed=9)[: max(round(16000 * seconds), 1)]
    data = codec.compress(wave, 16000, kbps=kbps)
    number = read_coded(data).steps[0]
    assert len(data) <= 125 * kbps * len(wave) / 16000 or number == 1
    if number < 8 and seconds == 1:
        more = codec.compress(wave, 16000, codebooks=number + 1)
        assert len(more) > 125 * kbps - 12


def test_first_codebooks_are_a_file_of_their_own(codec):
    wave = speech(seed=9)
    sizes = [len(codec.compress(wave, 16000, codebooks=n)) for n in (1, 4, 8)]
    assert sizes == sorted(sizes)


def test_threads_do_not_change_a_sample(codec, data):
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(codec.decompress(data)[0])
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)


def test_what_was_learned_travels_with_the_weights(codec, data):
    other = make("adaptive")
    assert other.code_model is None
    other.load_state_dict(codec.state_dict())
    assert np.array_equal(other.decompress(data)[0], codec.decompress(data)[0])
    assert other.digest() == codec.digest() == copy.deepcopy(codec).digest()


def test_weights_of_before_load_and_make_files_of_nominal_size(codec):
    old = {k: v for k, v in codec.state_dict().items() if "code_model" not in k}
    for other in (make("adaptive"), copy.deepcopy(codec)):
        other.load_state_dict(old)
        assert other.code_model is None
        wave = speech(seed=9)
        data = other.compress(wave, 16000, codebooks=8)
        nominal = 101 * 8 * 4 / 8
        assert nominal <= len(data) <= nominal + 30
        assert other.decompress(data)[0].shape == (1, len(wave))
        assert len(codec.compress(wave, 16000, codebooks=8)) < 0.9 * len(data)


@pytest.mark.parametrize(
    "part", ["basis", "quantizer.stages.bank.codebooks", "code_model.second_bias"]
)
def test_another_model_refuses_the_file(codec, data, part):
    other = copy.deepcopy(codec)
    other.digest()  # what is remembered must not hide what changes
    other.get_buffer(part).add_(1)
    with pytest.raises(BitstreamError, match="x.sbx: was coded by the model"):
        other.decompress(data, "x.sbx")


def test_statistics_of_training_are_no_other_model(codec, data):
    other = copy.deepcopy(codec)
    other.quantizer.stages.bank.ema_counts.add_(1)
    assert other.digest() == codec.digest()


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_refused(codec, data, seed):
    for one in spoiled(data, seed):
        with pytest.raises(BitstreamError):
            codec.decompress(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 0},
        {"kind": 7},
        {"steps": (0,)},
        {"steps": (9,)},
        {"num_samples": 10**9},
    ],
)
def test_headers_that_lie_under_a_true_checksum_are_refused(codec, data, changes):
    with pytest.raises(BitstreamError, match="is damaged"):
        codec.decompress(forged(data, **changes))


def test_bits_under_a_true_checksum_make_a_recording_or_are_refused(codec, data):
    for one in with_random_payloads(data):
        with contextlib.suppress(BitstreamError):
            assert np.isfinite(codec.decompress(one)[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give kbps or codebooks"),
        ({"kbps": 8, "codebooks": 2}, "give kbps or codebooks"),
        ({"snr": 20}, "can't hold an SNR"),
        ({"kbps": 0}, "positive"),
        ({"kbps": float("nan")}, "positive"),
        ({"codebooks": 0}, "between 1 and 8"),
        ({"codebooks": 9}, "between 1 and 8"),
    ],
)
def test_rates_that_make_no_sense_are_refused(codec, options, message):
    with pytest.raises(ValueError, match=message):
        codec.compress(np.zeros(100), 16000, **options)


@pytest.mark.parametrize("wave", [np.zeros(0), np.full(9, np.inf), np.zeros((1, 2, 3))])
def test_what_is_no_recording_is_refused(codec, wave):
    with pytest.raises(ValueError, match="wave must be finite, .* got"):
        codec.compress(wave, 16000, kbps=8)


def test_silence_takes_next_to_nothing_and_stays_finite(codec):
    found, _ = codec.decompress(codec.compress(np.zeros(4000), 16000, codebooks=8))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 0.05


def test_nothing_to_learn_from_is_refused(codec):
    with pytest.raises(ValueError, match="no waves to learn codes from"):
        learn_codes(copy.deepcopy(codec), [])
