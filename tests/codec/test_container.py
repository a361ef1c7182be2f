"""Files of coded speech: whole, or refused with the reason."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from speechbrain_ext.codec.bands import NUM_STEPS
from speechbrain_ext.codec.container import (
    BitstreamError,
    Coded,
    read_coded,
    read_header,
    write_coded,
    write_number,
)
from speechbrain_ext.codec.rate_control import find_crossing

CODED = Coded(b"\1\2\3\4", 1, 44100, 10**6, (700, 0), (bytes(range(200)), b""))


def test_what_was_written_is_read():
    assert read_coded(write_coded(CODED)) == CODED


def test_a_header_takes_few_bytes():
    short = Coded(b"abcd", 0, 16000, 80000, (700,), (b"",))
    assert len(write_coded(short)) <= 24


@pytest.mark.parametrize("seed", range(3))
def test_no_change_of_a_file_is_read_as_another(seed):
    rng, data = np.random.default_rng(seed), write_coded(CODED)
    changed = []
    for _ in range(300):
        spoiled = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            spoiled[place] ^= 1 << rng.integers(0, 8)
        changed.append(bytes(spoiled))
    changed += [data[:size] for size in range(len(data))]
    changed += [rng.integers(0, 256, size, np.uint8).tobytes() for size in range(300)]
    changed += [data + b"\0", data + data]
    for one in changed:
        if one != data:
            with pytest.raises(BitstreamError):
                read_coded(one, "x.sbx")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.sbx: is empty"),
        (b"RIFF....WAVEfmt ", "is not coded speech of this package"),
        (b"SBXw\x09" + bytes(30), "format version 9, and this reads 1; update"),
        (write_coded(CODED)[:-1], "cut or damaged.*get it again"),
    ],
)
def test_each_fault_is_named(data, message):
    with pytest.raises(BitstreamError, match=message):
        read_coded(data, "x.sbx")


def _told(sample_rate=16000, num_samples=80000, channels=1):
    """A file with any header under a true checksum."""
    numbers = b"".join(map(write_number, (sample_rate, num_samples, channels)))
    data = b"SBXw\1abcd\0" + numbers + write_number(700) + write_number(3) + b"xyz"
    return data + zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"channels": 2}, "is damaged"),
        ({"channels": 0}, "channels: 0; a file holds 1 to 256"),
        ({"num_samples": 0}, "samples: 0; a file holds 1 to"),
        ({"sample_rate": 0}, "sample rate: 0; a file holds 1000 to 768000"),
        ({"sample_rate": 191_999}, "above 48000 Hz a file holds multiples of 100"),
        ({"num_samples": 2**40}, "samples: 1099511627776; a file holds 1 to"),
        ({"channels": 10**6}, "channels: 1000000; a file holds 1 to 256"),
        ({"sample_rate": 2**50}, "sample rate: 1125899906842624; a file holds"),
        ({"sample_rate": 2**80}, "sample_rate is no number"),
    ],
)
def test_a_header_that_lies_under_a_true_checksum_is_refused(told, message):
    assert read_coded(_told()).payloads == (b"xyz",)
    with pytest.raises(BitstreamError, match=message):
        read_coded(_told(**told))


@pytest.mark.parametrize(
    "odd", [{"sample_rate": 999}, {"num_samples": 0}, {"payloads": (), "steps": ()}]
)
def test_what_could_not_be_read_is_not_written(odd):
    with pytest.raises(ValueError, match="a file holds"):
        write_coded(replace(CODED, **odd))


@pytest.mark.parametrize("size", [17, 20, 30, 100, 200])
def test_the_header_of_a_cut_file_still_says_what_it_was(size):
    found = read_header(write_coded(CODED)[:size])
    assert (found.model, found.kind) == (CODED.model, CODED.kind)
    assert (found.sample_rate, found.num_samples) == (44100, 10**6)
    assert len(found.payloads) == 2


@pytest.mark.parametrize("first", [0, 1, 500, NUM_STEPS - 1, 5000])
@pytest.mark.parametrize("where", [0, 1, 17, 512, 1022, 1023, 1024])
def test_the_crossing_is_found_wherever_one_begins(first, where):
    asked = []

    def falling(step):
        asked.append(step)
        return 2.0 ** (-step / 64) if step < where else -1.0

    assert find_crossing(falling, 0.0, first) == where
    assert len(asked) == len(set(asked)) <= 24


def test_a_smooth_curve_takes_few_calls():
    asked = []

    def bits(step):
        asked.append(step)
        return 8000 * 2.0 ** ((700 - step) / 90)

    found = find_crossing(bits, 8500, first=640)
    assert bits(found) <= 8500 < bits(found - 1)
    assert len(asked) <= 10
