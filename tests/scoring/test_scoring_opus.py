"""Opus beside us: rates without the container, delays undone."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechbrain_ext.scoring.alignment import advance, align, delay_samples
from speechbrain_ext.scoring.opus import (
    decode_opus,
    encode_opus,
    ogg_packets,
    opus_points,
    payload_bytes,
)
from speechbrain_ext.scoring.signal import snr_db
from tests.scoring.test_scoring_signal import voice

RATE = 16000


def tone(delay=0.0, size=4000):
    """A burst of three tones, made anew at the delayed times: no shift involved."""
    time = np.arange(size) - delay
    envelope = np.exp(-(((time - size / 2) / (size / 8)) ** 2))
    return envelope * sum(np.sin(time * w) for w in (0.31, 0.87, 1.9))


@pytest.mark.parametrize("delay", [0.0, 0.25, -0.4, 3.0, 17.37, -120.6])
def test_delay_is_found_and_undone_to_a_fraction_of_a_sample(delay):
    reference, late = tone(), tone(delay)
    aligned, found = align(reference, late)
    assert found == pytest.approx(delay, abs=0.01)
    assert snr_db(reference, aligned) > 40


def test_silence_has_no_delay_and_shifts_keep_length_and_dtype():
    assert delay_samples(np.zeros(100), tone(size=100)) == 0
    wav = tone().astype(np.float32)
    assert advance(wav, 0.5).dtype == np.float32
    assert advance(wav, 0.5).size == wav.size
    assert not advance(wav, 1e6).any()
    assert np.array_equal(advance(wav, -2)[2:], wav[:-2])


def page(segments, body):
    """One Ogg page by hand (RFC 3533, sec. 6)."""
    return (
        struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 0, 1, 0, 0, len(segments))
        + bytes(segments)
        + body
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=700), max_size=6), st.integers(1, 9))
def test_packets_come_back_whole_however_pages_cut_them(packets, per_page):
    lacing, body = [], b"".join(packets)
    for packet in packets:
        lacing += [255] * (len(packet) // 255) + [len(packet) % 255]
    data, place = b"", 0
    for start in range(0, len(lacing), per_page):
        segments = lacing[start : start + per_page]
        data += page(segments, body[place : place + sum(segments)])
        place += sum(segments)
    assert ogg_packets(data) == packets


def test_payload_is_the_file_without_headers_and_pages():
    data = encode_opus(voice(), RATE, 8000)
    packets = ogg_packets(data)
    assert packets[0].startswith(b"OpusHead")
    assert packets[1].startswith(b"OpusTags")
    pages = data.count(b"OggS")
    segments = sum(len(packet) // 255 + 1 for packet in packets)
    assert len(data) == 27 * pages + segments + sum(map(len, packets))
    assert payload_bytes(data) == sum(map(len, packets[2:]))


def test_packet_durations_cover_the_signal():
    # The frame size of an Opus packet stands in its first byte (RFC 6716, sec. 3.1).
    data = encode_opus(voice(2.0), RATE, 12000)
    sizes = {0: 10, 1: 20, 2: 40, 3: 60}
    total = 0
    for packet in ogg_packets(data)[2:]:
        config = packet[0] >> 3
        total += sizes[config % 4] if config < 12 else 10 * (1 + config % 2)
    assert 2000 <= total <= 2200


@pytest.mark.parametrize("cut", [1, 30, 200, -1])
def test_truncated_files_are_refused(cut):
    data = encode_opus(voice(0.5), RATE, 8000)
    with pytest.raises(ValueError, match="Ogg"):
        payload_bytes(data[:cut])


def test_other_ogg_streams_are_not_counted_as_opus():
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(0.5), RATE, format="OGG", subtype="VORBIS")
    with pytest.raises(ValueError, match="OpusHead"):
        payload_bytes(buffer.getvalue())


def test_points_have_the_length_of_the_files_and_rise_with_the_rate():
    wavs = [voice(1.0), voice(1.3, seed=5)[:-7]]
    points = opus_points(wavs, RATE, (6000, 24000))
    assert [point.bitrate for point in points] == [6000, 24000]
    for point in points:
        assert [wav.size for wav in point.wavs] == [wav.size for wav in wavs]
    assert 3 < points[0].kbps < 9 < points[1].kbps < 40
    snrs = [np.mean(list(map(snr_db, wavs, point.wavs))) for point in points]
    assert snrs[1] > snrs[0] + 5


@pytest.mark.parametrize("size", [1, 100])
def test_tiny_files_go_through(size):
    wav = np.full(size, 0.1, dtype=np.float32)
    assert opus_points([wav], RATE, (8000,))[0].wavs[0].shape == (size,)


@pytest.mark.parametrize(
    ("wav", "rate", "bitrate", "message"),
    [
        (np.zeros(100), 22050, 8000, "sample rate is 22050"),
        (np.zeros(100), RATE, 5000, "bitrate is 5000"),
        (np.full(100, np.nan), RATE, 8000, "finite"),
        (np.zeros(0), RATE, 8000, "non-empty"),
    ],
)
def test_impossible_requests_are_named(wav, rate, bitrate, message):
    with pytest.raises(ValueError, match=message):
        encode_opus(wav, rate, bitrate)


def test_decoding_gives_the_rate_and_length_back():
    wav, rate = decode_opus(encode_opus(voice(0.7), RATE, 16000))
    assert rate == RATE
    assert wav.size == round(0.7 * RATE)
