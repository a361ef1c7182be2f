"""What happens to streams on their way: named, or filled in, never silent."""

from __future__ import annotations

import numpy as np
import pytest

from speechbrain_ext.codec.container import BitstreamError
from speechbrain_ext.codec.streaming import StreamDecoder, StreamEncoder
from speechbrain_ext.codec.streaming.packets import (
    HEADER_BYTES,
    PacketReader,
    PacketWriter,
    StreamHeader,
)
from tests.codec.signals import speech
from tests.codec.streaming.streams import (
    STEP,
    cut,
    decoded,
    encoded,
    transform_codec,
    wave_codec,
)

HEADER = StreamHeader(b"abcd", 0, 16000, 4)


@pytest.fixture(scope="module")
def wave():
    return wave_codec()


@pytest.fixture(scope="module")
def signal():
    return speech(1.0, seed=9)


@pytest.fixture(scope="module")
def data(wave, signal):
    return encoded(wave, signal, step=STEP)


def packets(codec, signal, **options):
    """Header, and the packets one by one."""
    encoder = StreamEncoder(codec, **options)
    found = [encoder.push(np.zeros(0))]
    found += [encoder.push(piece) for piece in cut(signal, range(0, 10**6, 64))]
    return [x for x in [*found, encoder.finish()] if x]


def survived(decoder, data):
    """What comes out before the stream is refused, and the error."""
    found = []
    try:
        for piece in cut(data, range(0, len(data), 100)):
            found.append(decoder.push(piece))
        decoder.finish()
    except BitstreamError as error:
        return np.concatenate([*found, error.samples]), error
    return np.concatenate(found), None


def test_whatever_is_changed_is_refused_and_what_came_before_is_right(wave, data):
    rng = np.random.default_rng(0)
    whole = decoded(wave, data)
    for _ in range(25):
        spoiled = bytearray(data)
        spoiled[int(rng.integers(len(data)))] ^= 1 << rng.integers(8)
        decoder = StreamDecoder(wave, name="x.sbxs")
        right, error = survived(decoder, bytes(spoiled))
        assert str(error).startswith("x.sbxs: ")
        sure = max(len(right) - 5 * 256, 0)  # frames that a filter waits for
        assert np.array_equal(right[:sure], whole[:sure])
        with pytest.raises(BitstreamError):  # once damaged, it stays so
            decoder.push(b"")


def test_a_stream_that_breaks_off_says_so(wave, data, signal):
    for size in {
        0,
        1,
        10,
        HEADER_BYTES,
        HEADER_BYTES + 1,
        len(data) // 2,
        len(data) - 1,
    }:
        decoder = StreamDecoder(wave, name="x.sbxs")
        decoder.push(data[:size])
        with pytest.raises(
            BitstreamError, match=r"x\.sbxs: (is empty|its header|ends ea)"
        ):
            decoder.finish()


@pytest.mark.parametrize("seed", range(20))
def test_bytes_of_chance_are_refused(wave, data, seed):
    rng = np.random.default_rng(seed)
    noise = rng.bytes(int(rng.integers(1, 400)))
    for one in (noise, data[:HEADER_BYTES] + noise, data + noise):
        with pytest.raises(BitstreamError):
            decoded(wave, one)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        (b"RIFF....WAVEfmt ", "is no stream of this package"),
        (b"SBXs\x07" + bytes(30), "format version 7, and this reads 1; update"),
        (b"SBXs\x01" + bytes(30), "header is cut or damaged; send it again"),
        (
            StreamHeader(b"abcd", 0, 16000, 4).to_bytes(),
            "was coded by the model 61626364",
        ),
    ],
)
def test_each_fault_of_a_header_is_named(wave, spoiled, message):
    with pytest.raises(BitstreamError, match=message):
        decoded(wave, spoiled)


def test_settings_that_the_model_has_not_are_refused(wave):
    model = wave.digest()[:4]
    for kind, frames in ((2, 4), (7, 4), (0, 0), (0, 5000)):
        header = StreamHeader(model, kind, 16000, frames).to_bytes()
        with pytest.raises(BitstreamError, match="can't have written"):
            decoded(wave, header)


@pytest.mark.parametrize("change", ["lost", "twice", "swapped"])
def test_packets_out_of_their_order_are_refused(wave, signal, change):
    parts = packets(wave, signal, step=STEP)
    order = list(range(len(parts)))
    changed = {
        "lost": order[:3] + order[4:],
        "twice": order[:4] + order[3:],
        "swapped": [*order[:3], 4, 3, *order[5:]],
    }[change]
    with pytest.raises(BitstreamError, match="packet [234] is damaged, or one before"):
        decoded(wave, b"".join(parts[i] for i in changed))


def test_a_missing_fresh_packet_is_named(wave, signal):
    parts = packets(wave, signal, step=STEP, restart_every=1)
    with pytest.raises(
        BitstreamError, match="packet 2 is missing: packet 3 came instea"
    ):
        decoded(wave, b"".join(parts[:3] + parts[4:]))


@pytest.mark.parametrize("seed", range(5))
def test_bits_of_chance_under_true_checksums_are_a_wave_or_refused(wave, data, seed):
    rng = np.random.default_rng(seed)
    for codec, kind, step in (
        (wave, 0, 700),
        (wave, 1, 1 << 16),
        (transform_codec(), 2, 3),
    ):
        header = StreamHeader(codec.digest()[:4], kind, 16000, 4)
        writer = PacketWriter(header)
        forged = header.to_bytes()
        for number in range(4):
            payload = rng.bytes(int(rng.integers(0, 60)))
            samples = 4000 if number == 3 else None
            forged += writer.write(
                payload, step=step, fresh=not number, samples=samples
            )
        try:
            found = decoded(codec, forged)
        except BitstreamError:
            continue
        assert np.isfinite(found).all()


def test_a_size_that_no_packet_has_is_not_waited_for():
    reader = PacketReader(HEADER, 100, "x")
    with pytest.raises(BitstreamError, match="says that it has 16383 bytes"):
        reader.push(b"\xff\x7f")
    with pytest.raises(BitstreamError, match="has no size"):
        PacketReader(HEADER, 100, "x").push(b"\xff" * 4)


@pytest.mark.parametrize("codec", ["wave", "codes"])
@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_what_was_lost_is_made_up_and_told(wave, signal, codec, damage):
    codec = wave if codec == "wave" else transform_codec()
    signal = signal[: 16000 if codec is wave else 4000]
    options = {"restart_every": 2, "packet_frames": 2}
    options |= {"step": STEP} if codec is wave else {"codebooks": 4}
    parts = packets(codec, signal, **options)
    whole = decoded(codec, b"".join(parts))
    decoder = StreamDecoder(codec, conceal=True)
    found = []
    for number, part in enumerate(parts, -1):  # the header first
        if number == 5:  # not fresh: 5 alone is lost; 6 is
            if damage == "lost":
                continue
            part = part[:-1] + bytes([part[-1] ^ 1])
        found.append(decoder.push(part))
    found = np.concatenate([*found, decoder.finish()])
    hop = 256 if codec is wave else 64
    seconds = 2 * hop / 16000
    assert [tuple(c) for c in decoder.concealed] == [(5 * seconds, seconds)]
    assert len(found) == len(whole)
    # Networks look some frames around, and blocks overlap.
    reach = (1 + decoder.latency_samples // hop) * hop
    start, stop = 10 * hop - reach, 12 * hop + reach
    assert np.array_equal(found[:start], whole[:start])
    assert np.abs(found[stop:] - whole[stop:]).max() < 1e-6
    assert np.abs(found[start:stop] - whole[start:stop]).max() > 1e-4
    assert np.abs(found).max() < 1.5 * np.abs(whole).max()


def test_what_follows_a_lost_packet_waits_for_one_that_is_fresh(wave, signal):
    parts = packets(wave, signal, step=STEP, restart_every=4, packet_frames=2)
    decoder = StreamDecoder(wave, conceal=True)
    kept = [part for number, part in enumerate(parts, -1) if number != 5]
    found = [
        decoder.push(part) for part in [*kept[:5], kept[3], *kept[5:]]
    ]  # one twice
    assert [tuple(c) for c in decoder.concealed] == [(5 * 0.032, 3 * 0.032)]
    assert len(np.concatenate(found)) == len(signal)


def test_a_lost_end_is_an_end(wave, signal):
    parts = packets(wave, signal, step=STEP, restart_every=4)
    decoder = StreamDecoder(wave, conceal=True)
    found = [decoder.push(part) for part in parts[:-1]]
    found = np.concatenate([*found, decoder.finish()])
    assert decoder.ended
    assert len(signal) - 6 * 256 <= len(found) <= len(signal)


def test_a_hole_without_end_is_not_filled(wave, signal):
    parts = packets(wave, signal, step=STEP, restart_every=1)
    header = StreamHeader.of(parts[0])
    writer = PacketWriter(header)
    writer._number = 100_000
    decoder = StreamDecoder(wave, conceal=True)
    decoder.push(parts[0])
    with pytest.raises(BitstreamError, match="a hole of more than 60 s is not filled"):
        decoder.push(writer.write(b"", step=3, fresh=True))
