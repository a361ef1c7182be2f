"""Augmented crops stay finite and repeatable, at the level and ratio that was asked."""

import logging
import math

import numpy as np
import pytest
import soundfile

from speechbrain_ext.data import Augment
from speechbrain_ext.data.manifest import Utterance
from speechbrain_ext.data.noise import (
    Voices,
    coloured_noise,
    draw_piece,
    find_sounds,
    unit_power,
)
from speechbrain_ext.data.rooms import (
    convolve,
    equalize,
    find_responses,
    read_response,
    synthetic_response,
)
from speechbrain_ext.errors import UserError

RATE, LENGTH = 16000, 16000
OFF = {"noise_prob": 0.0, "reverb_prob": 0.0, "eq_prob": 0.0}


def speech(seed=0, level=0.1):
    draw = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(LENGTH) / 900))
    return (level * envelope * draw.standard_normal(LENGTH)).astype(np.float32)


def power(wav):
    return np.mean(np.square(wav, dtype=np.float64))


def write(path, wav, rate=RATE, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, rate, subtype=subtype)
    return path


def tone(hertz, seconds=2.0, rate=RATE):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def loudest_hertz(wav):
    return np.argmax(np.abs(np.fft.rfft(wav))) * RATE / len(wav)


def people(folder, numbers):
    found = {}
    for spk_id, hertz in numbers.items():
        path = write(folder / f"{spk_id}.wav", tone(hertz))
        found[spk_id] = Utterance(spk_id, path, 2.0, RATE, spk_id, "")
    return found


@pytest.mark.parametrize("settings", [{}, {"noise_prob": 1.0}, {"reverb_prob": 1.0}])
def test_each_crop_has_its_own_changes_and_always_the_same(settings):
    settings = {**OFF, "eq_prob": 1.0, **settings}
    wav = speech()
    one, other = Augment(**settings, seed=1), Augment(**settings, seed=1)
    key = {"utt_id": "a", "epoch": 2, "use": 3}
    changed = one(wav, RATE, **key)
    one(wav, RATE, utt_id="b", epoch=1)
    assert np.array_equal(other(wav, RATE, **key), changed)
    assert not np.array_equal(changed, wav)
    for name, value in (("utt_id", "b"), ("epoch", 3), ("use", 4)):
        assert not np.array_equal(one(wav, RATE, **{**key, name: value}), changed)
    assert not np.array_equal(Augment(**settings, seed=2)(wav, RATE, **key), changed)


def test_switched_off_it_changes_nothing_and_else_as_often_as_asked():
    wav = speech()
    assert Augment(**OFF)(wav, RATE, utt_id="a", epoch=0) is wav
    augment = Augment(**{**OFF, "eq_prob": 0.3})
    same = [
        np.array_equal(augment(wav[:500], RATE, utt_id=str(i), epoch=0), wav[:500])
        for i in range(1000)
    ]
    # within 4 standard deviations
    assert np.mean(same) == pytest.approx(0.7, abs=4 * math.sqrt(0.21 / 1000))


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 20.0])
def test_noise_stands_at_the_ratio_that_was_asked(snr_db):
    augment = Augment(**{**OFF, "noise_prob": 1.0}, snr_db=(snr_db, snr_db))
    wav = speech(level=0.02)
    for epoch in range(5):
        noise = augment(wav, RATE, utt_id="a", epoch=epoch) - wav
        ratio_db = 10 * np.log10(power(wav) / power(noise))
        assert ratio_db == pytest.approx(snr_db, abs=0.01)


def test_ratios_fill_the_range():
    augment = Augment(**{**OFF, "noise_prob": 1.0}, snr_db=(5, 20))
    wav = speech(level=0.01)
    noises = [augment(wav, RATE, utt_id=str(i), epoch=0) - wav for i in range(60)]
    ratios = [10 * np.log10(power(wav) / power(noise)) for noise in noises]
    assert 5 <= min(ratios) < 7
    assert 18 < max(ratios) <= 20.01


@pytest.mark.parametrize("length", [1, 2, 3, 160, LENGTH])
@pytest.mark.parametrize("level", [1e-30, 1e-6, 0.1, 1.0, 1e30])
def test_output_is_finite_of_equal_length_and_in_range(length, level):
    augment = Augment(noise_prob=1.0, reverb_prob=1.0, eq_prob=1.0, snr_db=(-5, 0))
    draw = np.random.default_rng(length)
    wav = (level * draw.uniform(-1, 1, length)).astype(np.float32)
    for epoch in range(3):
        changed = augment(wav, RATE, utt_id="a", epoch=epoch)
        assert changed.dtype == np.float32
        assert changed.shape == wav.shape
        assert np.isfinite(changed).all()
        assert np.abs(changed).max() <= max(1.0, np.abs(wav).max())


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
def test_silence_and_broken_speech_are_left_to_those_who_look_for_them(value):
    augment = Augment(noise_prob=1.0, reverb_prob=1.0, eq_prob=1.0)
    wav = np.zeros(800, np.float32) if value == 0 else speech()[:800]
    wav[7] = value
    assert augment(wav, RATE, utt_id="a", epoch=0) is wav
    empty = np.zeros(0, np.float32)
    assert augment(empty, RATE, utt_id="a", epoch=0) is empty


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_with_frequency_and_has_power_one(exponent):
    draw = np.random.default_rng(1)
    noises = np.stack([coloured_noise(draw, LENGTH, exponent) for _ in range(30)])
    assert power(noises) == pytest.approx(1, rel=0.35 if exponent == 2 else 0.05)
    spectrum = (np.abs(np.fft.rfft(noises)) ** 2).mean(0)
    low, high = spectrum[90:110].mean(), spectrum[2900:3100].mean()
    slope = -np.log(high / low) / np.log(30)
    assert slope == pytest.approx(exponent, abs=0.12)


def test_musans_layout_gives_noise_music_and_babble(tmp_path):
    write(tmp_path / "musan" / "noise" / "free" / "n.wav", tone(1000))
    write(tmp_path / "musan" / "music" / "m.wav", tone(2000))
    for i, hertz in enumerate((3000, 3500)):
        write(tmp_path / "musan" / "speech" / f"{i}.wav", tone(hertz))
    augment = Augment(tmp_path, **{**OFF, "noise_prob": 1.0}, snr_db=(0, 0))
    wav = speech(level=0.02)
    heard = []
    for i in range(60):
        noise = augment(wav, RATE, utt_id=str(i), epoch=0) - wav
        heard.append(loudest_hertz(noise))
        babble = heard[-1] >= 3000
        ratio_db = 10 * np.log10(power(wav) / power(noise))
        assert (13 <= ratio_db <= 20.01) if babble else abs(ratio_db) < 0.01
    counts = [np.sum(np.isin(heard, kind)) for kind in ([1000], [2000], [3000, 3500])]
    assert sum(counts) == 60
    assert min(counts) >= 8


def test_any_other_folder_is_all_noise_also_at_other_rates_and_short(tmp_path):
    write(tmp_path / "deep" / "a.wav", tone(500, 0.1, 8000), 8000)
    augment = Augment(tmp_path, **{**OFF, "noise_prob": 1.0}, snr_db=(0, 0))
    wav = speech(level=0.02)
    noise = augment(wav, RATE, utt_id="a", epoch=0) - wav
    assert loudest_hertz(noise) == pytest.approx(500, abs=2)


def test_babble_is_other_speakers_and_never_the_own_or_a_left_out_one(tmp_path):
    hertz = {"amy": 1000, "bob": 2000, "cyd": 3000}

    class Sampler:
        left_out = frozenset({"cyd"})

    voices = Voices(people(tmp_path, hertz), Sampler())
    draw = np.random.default_rng(0)
    for _ in range(20):
        assert loudest_hertz(voices.draw(draw, LENGTH, RATE, "amy")) == 2000
    Sampler.left_out = frozenset()
    heard = {loudest_hertz(voices.draw(draw, LENGTH, RATE, "amy")) for _ in range(40)}
    assert heard == {2000, 3000}
    Sampler.left_out = frozenset({"bob", "cyd"})
    assert voices.draw(draw, LENGTH, RATE, "amy") is None


def test_babble_of_files_without_sound_falls_back_to_noise(tmp_path):
    found = people(tmp_path, {"amy": 1000, "bob": 2000})
    write(found["bob"].wav, np.full(2 * RATE, np.nan), subtype="FLOAT")
    augment = Augment(**{**OFF, "noise_prob": 1.0})
    wav = speech()
    for epoch in range(8):
        changed = augment(
            wav, RATE, utt_id="a", epoch=epoch, spk_id="amy", voices=Voices(found)
        )
        assert np.isfinite(changed).all()
        assert not np.array_equal(changed, wav)


def test_broken_noise_files_are_named_once_and_left_out(tmp_path, caplog):
    write(tmp_path / "good.wav", tone(700))
    write(tmp_path / "nan.wav", np.full(99, np.nan), subtype="FLOAT")
    write(tmp_path / "inf.wav", np.array([0.1, np.inf]), subtype="DOUBLE")
    write(tmp_path / "empty.wav", np.zeros(0))
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "readme.txt").write_text("not audio, and not meant to be")
    with caplog.at_level(logging.WARNING):
        augment = Augment(tmp_path, **{**OFF, "noise_prob": 1.0})
    (record,) = caplog.records
    told = record.getMessage()
    assert "noise_folder: 4 of 5 files are broken" in told
    for name in ("nan.wav", "inf.wav", "empty.wav", "text.wav"):
        assert name in told
    assert [sound.path.name for sound in augment.sounds["noise"]] == ["good.wav"]


def test_silent_and_vanished_noise_is_replaced_by_generated(tmp_path):
    write(tmp_path / "silent.wav", np.zeros(RATE))
    write(tmp_path / "gone.wav", tone(700))
    augment = Augment(tmp_path, **{**OFF, "noise_prob": 1.0}, snr_db=(10, 10))
    (tmp_path / "gone.wav").unlink()
    wav = speech()
    for epoch in range(6):
        noise = augment(wav, RATE, utt_id="a", epoch=epoch) - wav
        assert 10 * np.log10(power(wav) / power(noise)) == pytest.approx(10, abs=0.01)


def test_a_missing_or_useless_folder_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(UserError, match="noise_folder: .*nowhere: no such folder"):
        Augment(tmp_path / "nowhere")
    (tmp_path / "a.wav").write_text("no audio")
    for name in ("noise_folder", "rir_folder"):
        with pytest.raises(UserError, match=f"no readable audio.*\n.*--{name}=null"):
            Augment(**{name: tmp_path})


def test_a_piece_is_the_first_channel_from_anywhere_in_the_file(tmp_path):
    ramp = np.linspace(0.1, 0.9, 4000)
    write(tmp_path / "two.wav", np.stack([ramp, -ramp], 1), subtype="FLOAT")
    (sound,) = find_sounds(tmp_path, "noise_folder")
    draw = np.random.default_rng(0)
    slopes = []
    for _ in range(50):
        piece = draw_piece(sound, draw, 400, RATE)
        assert (piece > 0).all()
        assert power(piece) == pytest.approx(1)
        slopes.append(piece[-1] / piece[0])
    assert min(slopes) < 1.1 < 1.6 < max(slopes)


@pytest.mark.parametrize("value", [0.0, 1e-12, math.nan, math.inf, 1e38])
def test_what_has_no_usable_power_is_no_noise(value):
    found = unit_power(np.full(10, value, np.float32))
    if value == 1e38:  # the square is taken in float64
        assert power(found) == pytest.approx(1)
    else:
        assert found is None
    assert unit_power(np.zeros(0, np.float32)) is None


def test_reverberated_speech_has_the_energy_and_the_place_of_the_dry_one():
    draw = np.random.default_rng(0)
    wav = np.zeros(LENGTH, np.float32)
    wav[1000] = 1.0
    for _ in range(10):
        wet = convolve(wav, synthetic_response(draw, RATE))
        assert power(wet) == pytest.approx(power(wav), rel=1e-4)
        assert np.abs(wet).argmax() == 1000
        assert np.abs(wet[:1000]).max() < 1e-5


def test_convolution_is_numpys_scaled_to_the_energy_before():
    draw = np.random.default_rng(0)
    wav = draw.standard_normal(700).astype(np.float32)
    response = draw.standard_normal(90).astype(np.float32)
    expected = np.convolve(wav, response)[:700]
    expected *= np.sqrt(power(wav) / power(expected))
    assert np.allclose(convolve(wav, response), expected, atol=1e-4)
    assert convolve(wav, np.zeros(5, np.float32)) is wav


def test_synthetic_rooms_decay_by_60_db_within_their_time():
    draw = np.random.default_rng(3)
    decays, ratios = [], []
    for _ in range(40):
        tail = synthetic_response(draw, RATE)[1:].astype(np.float64)
        # Schroeder's backward integral between 0.1 s and 70 % of the response
        left = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1])
        first, last = round(0.06 * RATE), round(0.7 * len(tail))
        slope = (left[last] - left[first]) / (last - first) * RATE
        decays.append(-60 / slope)
        ratios.append(-10 * np.log10(np.sum(tail**2)))
    assert 0.1 < min(decays) < 0.3
    assert 0.5 < max(decays) < 0.95
    assert -0.01 <= min(ratios) < 2
    assert 10 < max(ratios) <= 12.01


def test_impulse_responses_of_files_start_at_their_strongest_sample(tmp_path):
    response = np.zeros((9000, 8))
    response[400] = 0.5
    response[1200, 0] = -0.25
    response[700, 1] = 0.9  # another channel
    write(tmp_path / "simulated_rirs" / "room.wav", response, subtype="FLOAT")
    write(tmp_path / "pointsource_noises" / "n.wav", tone(100))
    write(tmp_path / "real_rirs_isotropic_noises" / "type1_noise_x.wav", tone(100))
    (sound,) = find_responses(tmp_path)
    read = read_response(sound, RATE)
    assert np.flatnonzero(read).tolist() == [0, 800]
    assert read[[0, 800]].tolist() == [1, -0.5]
    augment = Augment(rir_folder=tmp_path, **{**OFF, "reverb_prob": 1.0})
    wav = np.zeros(LENGTH, np.float32)
    wav[100] = 0.5
    wet = augment(wav, RATE, utt_id="a", epoch=0)
    assert wet[900] / wet[100] == pytest.approx(-0.5, abs=1e-4)
    # at half the rate the echo comes after as many seconds
    assert np.abs(read_response(sound, RATE // 2)).argsort()[-2] in (1, 400)


def test_a_silent_or_vanished_response_is_replaced_by_a_generated_room(tmp_path):
    path = write(tmp_path / "silent.wav", np.zeros(100))
    augment = Augment(rir_folder=tmp_path, **{**OFF, "reverb_prob": 1.0})
    wav = speech()
    first = augment(wav, RATE, utt_id="a", epoch=0)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, wav)
    path.unlink()
    assert np.array_equal(augment(wav, RATE, utt_id="a", epoch=0), first)


def test_an_equalizer_follows_its_curve_and_keeps_the_energy():
    gains_db = np.array([3.0, -4, 2, 0, 1, -2, 3, 4])
    wav = speech()
    changed = equalize(wav, gains_db, RATE)
    assert power(changed) == pytest.approx(power(wav), rel=1e-4)
    levels = []
    for octave in (1, 2, 3, 4):
        hertz = RATE / 2 / 2**octave
        both = tone(hertz, 1.0) + tone(hertz / 2, 1.0)
        spectrum = np.abs(np.fft.rfft(equalize(both, gains_db, RATE)))
        ratio = spectrum[round(hertz)] / spectrum[round(hertz / 2)]
        levels.append(20 * np.log10(ratio))
    assert levels == pytest.approx(-np.diff(gains_db)[1:5], abs=0.2)


def test_impossible_settings_are_refused_all_at_once():
    with pytest.raises(ValueError, match="noise_prob .*snr_db .*eq_db must be"):
        Augment(noise_prob=1.2, snr_db=(20, 5), eq_db=-1)
    with pytest.raises(ValueError, match="babble_snr_db"):
        Augment(babble_snr_db=(math.nan, 3))
