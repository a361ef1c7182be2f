"""Coded files that something happened to, with and without a checksum that fits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from speechbrain_ext.codec.container import BitstreamError, read_header
from speechbrain_ext.coding.info import describe

#: Magic, version, model, kind: what headers begin with, whatever follows.
_FIXED = 10
_CHECKSUM = 4
#: Numbers that a header may promise: nothing, odd rates, more than anybody has.
_PROMISES = (0, 1, 999, 1000, 8000, 47_999, 191_999, 768_000, 2**20, 2**31, 2**40)


@dataclass(frozen=True)
class Damaged:
    """A file, and whether its checksum was made to fit."""

    data: bytes
    forged: bool
    how: str


def damage(data: bytes, rng: np.random.Generator) -> Damaged:
    """Do something to a file, as disks, networks and hands do; never nothing."""
    ways = (_flip, _cut, _insert, _remove, _noise, _zeros, _swap, _append)
    while True:
        way = ways[rng.integers(len(ways))]
        found = way(data, rng)
        if found != data:
            return Damaged(found, False, way.__name__.strip("_"))


def forge(data: bytes, rng: np.random.Generator) -> Damaged:
    """Do something to what the checksum covers, and make it fit again."""
    ways = (_flip, _cut, _insert, _remove, _noise_behind, _zeros, _swap, _promise)
    way = ways[rng.integers(len(ways))]
    body = data[:-_CHECKSUM]
    # The model stays: what decodes is what is tried.
    found = body[:_FIXED] + way(body if way is _promise else body[_FIXED:], rng)
    return Damaged(signed(found), True, way.__name__.strip("_"))


def signed(body: bytes) -> bytes:
    """Put the checksum behind."""
    return body + zlib.crc32(body).to_bytes(_CHECKSUM, "little")


def number(value: int) -> bytes:
    """Write a number as headers have it (LEB128)."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


#: How decoding a damaged file may end; only a forged one may be decoded.
REFUSED, DECODED = "refused", "decoded"


def judge(codec, damaged: Damaged, original: bytes) -> str:
    """Decode and describe a damaged file; say how it ended, or what went wrong.

    Arguments
    ---------
    codec : WaveCodec or another with ``decompress``
    damaged : Damaged
    original : bytes
        The file that it was.
    """
    try:
        describe(damaged.data, "x")
    except BitstreamError:
        pass
    except Exception as error:
        return f"info: {type(error).__name__}: {error}"
    try:
        wave, rate = codec.decompress(damaged.data, "x")
    except BitstreamError as error:
        return REFUSED if str(error).startswith("x: ") else f"message: {error}"
    except Exception as error:
        return f"decode: {type(error).__name__}: {error}"
    if not damaged.forged and damaged.data != original:
        return "decoded to something"
    told = read_header(damaged.data)
    if wave.shape != (len(told.payloads), told.num_samples) or rate != told.sample_rate:
        return f"decoded to {wave.shape} at {rate} Hz, which is not what it says"
    return DECODED if np.isfinite(wave).all() else "decoded to NaN or Inf"


# -- ways ----------------------------------------------------------------------------


def _flip(data: bytes, rng) -> bytes:
    found = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        found[rng.integers(len(found))] ^= 1 << rng.integers(8)
    return bytes(found)


def _cut(data: bytes, rng) -> bytes:
    return data[: rng.integers(len(data))]


def _insert(data: bytes, rng) -> bytes:
    at = rng.integers(len(data) + 1)
    return data[:at] + rng.bytes(rng.integers(1, 40)) + data[at:]


def _remove(data: bytes, rng) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + data[at + rng.integers(1, 40) :]


def _noise(data: bytes, rng) -> bytes:
    return rng.bytes(rng.integers(0, 2 * len(data)))


def _noise_behind(data: bytes, rng) -> bytes:
    at = rng.integers(min(len(data), 16))
    return data[:at] + rng.bytes(len(data) - at)


def _zeros(data: bytes, rng) -> bytes:
    at, size = rng.integers(len(data)), rng.integers(1, 200)
    fill = bytes([rng.choice([0, 255])])
    return data[:at] + fill * len(data[at : at + size]) + data[at + size :]


def _swap(data: bytes, rng) -> bytes:
    first, second = np.sort(rng.integers(0, len(data), 2))
    return data[second:] + data[first:second] + data[:first]


def _append(data: bytes, rng) -> bytes:
    return data + (data if rng.random() < 0.5 else rng.bytes(rng.integers(1, 40)))


def _promise(body: bytes, rng) -> bytes:
    """A header that promises anything, before the payload as it was."""
    told = read_header(signed(body))
    numbers = [told.sample_rate, told.num_samples, len(told.payloads)]
    numbers += [told.steps[0], 100]
    for _ in range(rng.integers(1, 3)):
        numbers[rng.integers(len(numbers))] = int(rng.choice(_PROMISES))
    if rng.random() < 0.2:
        numbers[2] = 10**6
    payload = body[-min(len(body) // 2, numbers[4]) :] if numbers[4] else b""
    table = [number(n) for n in numbers[3:]] * min(max(numbers[2], 1), 300)
    header = b"".join([*map(number, numbers[:3]), *table])
    return header + payload * min(max(numbers[2], 1), 4)
