"""Files of coded speech, spoiled: by accident, and with a true checksum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from speechbrain_ext.codec.container import read_coded, write_coded


def spoiled(data: bytes, seed: int, count: int = 25) -> Iterator[bytes]:
    """Yield files with a bit flipped, files cut short, and random bytes."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        yield bytes(flipped)
        yield data[: rng.integers(len(data))]
        yield rng.bytes(rng.integers(1, 200))


def forged(data: bytes, **changes) -> bytes:
    """Return a file whose header says something else, under a true checksum."""
    coded = read_coded(data)
    return write_coded(coded.__class__(**{**vars(coded), **changes}))


def with_random_payloads(data: bytes, count: int = 10) -> Iterator[bytes]:
    """Yield files of one channel whose payload is noise, under true checksums."""
    size = len(read_coded(data).payloads[0])
    for seed in range(count):
        yield forged(data, payloads=(np.random.default_rng(seed).bytes(size),))
