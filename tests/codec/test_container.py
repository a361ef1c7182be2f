"""Files of coded speech: whole, or refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from speechbrain_ext.codec.bands import NUM_STEPS
from speechbrain_ext.codec.container import (
    BitstreamError,
    Coded,
    read_coded,
    write_coded,
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


def test_a_header_that_lies_under_a_true_checksum_is_refused():
    lying = Coded(b"abcd", 0, 0, 80000, (700,), (b"xyz",))
    with pytest.raises(BitstreamError, match="does not fit"):
        read_coded(write_coded(lying))
    huge = Coded(b"abcd", 0, 16000, 10**15, (700,), (b"xyz",))
    with pytest.raises(BitstreamError, match="samples: 1000000000000000 is more than"):
        read_coded(write_coded(huge))


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
