import io

import av
import numpy as np
import pytest
import soundfile

from speechbrain_ext.data.audio import (
    AudioError,
    load_audio,
    resample,
    save_audio,
    to_pcm16,
)


def tone(hz, rate, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


def level_db(wav, hz, rate):
    """Level of one frequency, by correlation over the middle half."""
    wav = wav[len(wav) // 4 : -len(wav) // 4]
    window = np.hanning(len(wav))
    carrier = np.exp(-2j * np.pi * hz * np.arange(len(wav)) / rate)
    return 20 * np.log10(2 * abs((wav * window * carrier).sum()) / window.sum() + 1e-12)


def encode_with_av(path, wav, rate, codec, fmt, layout="mono"):
    with av.open(str(path), "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            to_pcm16(wav)[None, :], format="s16", layout=layout
        )
        frame.sample_rate = rate
        packets = stream.encode(frame) + stream.encode(None)
        container.mux(packets)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
def test_resampling_keeps_the_band_and_the_length(rate):
    top = 0.9 * min(rate, 16000) / 2
    for hz in (100.0, 1000.0, top):
        converted = resample(tone(hz, rate), rate, 16000)
        assert len(converted) == 16000
        assert converted.dtype == np.float32
        assert level_db(converted, hz, 16000) == pytest.approx(-6.02, abs=0.1)


@pytest.mark.parametrize("hz", [8400.0, 9000.0, 15000.0])
def test_resampling_keeps_aliases_below_80_db(hz):
    converted = resample(tone(hz, 44100), 44100, 16000)
    alias = abs(16000 - hz) if hz > 8000 else hz
    assert level_db(converted, alias, 16000) < -80


def test_upsampling_makes_no_image_above_the_source_band():
    converted = resample(tone(3000.0, 8000), 8000, 16000)
    assert level_db(converted, 5000.0, 16000) < -80


def test_pcm16_survives_a_round_trip_unchanged(tmp_path):
    samples = np.array([-32768, -1, 0, 1, 32767, 12345], np.int16)
    save_audio(tmp_path / "a.wav", samples, 16000)
    wav, rate = load_audio(tmp_path / "a.wav")
    assert rate == 16000
    assert wav.dtype == np.float32
    np.testing.assert_array_equal(to_pcm16(wav), samples)


def test_the_same_samples_give_the_same_bytes(tmp_path):
    wav = tone(440.0, 16000)
    save_audio(tmp_path / "a.wav", wav, 16000)
    save_audio(tmp_path / "b.wav", wav, 16000)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_too_loud_samples_are_clipped_not_wrapped():
    assert to_pcm16(np.array([1.5, -1.5])).tolist() == [32767, -32768]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_writing_a_non_finite_sample_is_refused(tmp_path, value):
    with pytest.raises(AudioError, match="NaN or Inf"):
        save_audio(tmp_path / "a.wav", np.array([0.0, value]), 16000)
    assert not list(tmp_path.iterdir())


def test_channels_are_averaged(tmp_path):
    left_right = np.stack([np.full(800, 0.5), np.full(800, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", left_right, 8000)
    wav, _ = load_audio(tmp_path / "stereo.wav")
    np.testing.assert_allclose(wav, 0.125, atol=1e-4)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a b.తె.wav"])
def test_soundfile_formats_are_read(tmp_path, name):
    soundfile.write(tmp_path / name, tone(440.0, 16000), 16000)
    wav, rate = load_audio(tmp_path / name)
    assert rate == 16000
    assert level_db(wav[:16000], 440.0, 16000) == pytest.approx(-6.02, abs=0.3)


@pytest.mark.parametrize(
    ("name", "codec", "fmt"),
    [
        ("a:b.m4a", "aac", "ipod"),
        ("a.g722", "g722", "g722"),
        ("a.adpcm.wav", "adpcm_g722", "wav"),
    ],
)
def test_formats_unknown_to_soundfile_are_read_by_pyav(tmp_path, name, codec, fmt):
    encode_with_av(tmp_path / name, tone(440.0, 16000), 16000, codec, fmt)
    wav, rate = load_audio(tmp_path / name)
    assert rate == 16000
    assert len(wav) == pytest.approx(16000, abs=2048)
    assert level_db(wav, 440.0, 16000) == pytest.approx(-6.02, abs=0.3)


def test_bare_gsm_frames_are_read_by_their_extension(tmp_path):
    wav, path = tone(440.0, 8000), tmp_path / "a.gsm"
    soundfile.write(path, wav, 8000, format="RAW", subtype="GSM610")
    decoded, rate = load_audio(path)
    assert rate == 8000
    assert level_db(decoded, 440.0, 8000) == pytest.approx(-6.02, abs=1.0)


def test_loading_converts_to_the_rate_that_is_asked_for(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440.0, 8000), 8000)
    wav, rate = load_audio(tmp_path / "a.wav", 16000)
    assert (len(wav), rate) == (16000, 16000)


def test_an_empty_file_with_a_header_gives_no_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16000)
    assert load_audio(tmp_path / "a.wav")[0].shape == (0,)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m4a"])
def test_what_is_not_audio_is_an_audio_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>404 not found</html>" * 10)
    with pytest.raises(AudioError, match="undecodable") as caught:
        load_audio(tmp_path / name)
    assert name in str(caught.value)
    assert name not in caught.value.reason


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        load_audio(tmp_path / "gone.wav")


def test_a_flac_file_that_breaks_off_is_an_audio_error(tmp_path):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 48000)
    soundfile.write(buffer, noise, 16000, format="FLAC")
    (tmp_path / "a.flac").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(AudioError):
        load_audio(tmp_path / "a.flac")
