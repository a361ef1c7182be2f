"""What is scored: the test files through a codec, at each of its rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

#: rate_kind of results: what a rate says.
NOMINAL, FILES, PAYLOAD = "nominal", "whole files", "measured payload"


class Point(NamedTuple):
    """A set of files through one codec at one setting.

    Attributes
    ----------
    name : str
        ``ours``; ``fidelity``, ours where a signal-to-noise ratio was asked for; or
        ``opus``.
    kbps : float
    rate_kind : str
        What the rate counts: `NOMINAL`, `FILES` (with their headers) or `PAYLOAD`.
    wavs : list of np.ndarray
        [time] each, in the order of the files.
    more : dict
        What else is said of it: ``nominal_kbps``, ``asked_snr_db``.
    """

    name: str
    kbps: float
    rate_kind: str
    wavs: list[np.ndarray]
    more: Mapping[str, float] = {}


def makes_files(codec) -> bool:
    """Whether rates of a codec are those of its files: it writes any, at any rate."""
    return not hasattr(codec, "kbps_to_quantizers")


def our_points(
    codec: torch.nn.Module,
    wavs: Sequence[np.ndarray],
    sample_rate: int,
    *,
    rates: Sequence[float],
    snrs: Sequence[float],
    device: str | torch.device,
    advance: Callable[[], None],
) -> Iterator[Point]:
    """Code all files at all rates.

    Arguments
    ---------
    codec : torch.nn.Module
        In evaluation mode.
    wavs : sequence of np.ndarray
        [time] each.
    sample_rate : int
        Of them and of the codec, in Hz.
    rates, snrs : sequence of float
        In kbps; in dB, for a codec that can hold one.
    device : str or torch.device
        Where the codec is.
    advance : callable
        Called once per file and rate.
    """
    if makes_files(codec):
        asked = [{"kbps": rate} for rate in rates] + [{"snr": snr} for snr in snrs]
        for aim in asked:
            yield _files(codec, wavs, sample_rate, aim, advance)
        return
    stages = [codec.kbps_to_quantizers(rate) for rate in rates]
    if getattr(codec, "code_model", None) is not None:
        for stage in stages:
            yield _files(codec, wavs, sample_rate, {"codebooks": stage}, advance)
        return
    found: list[list[np.ndarray]] = [[] for _ in rates]
    for wav in wavs:
        for kept, made in zip(found, _nested(codec, wav, stages, device), strict=True):
            kept.append(made)
            advance()
    for stage, made in zip(stages, found, strict=True):
        yield Point("ours", codec.bitrates[stage - 1], NOMINAL, made)


def _files(codec, wavs, sample_rate, aim, advance) -> Point:
    """Write whole files and decode them again."""
    size, made = 0, []
    for wav in wavs:
        data = codec.compress(wav, sample_rate, **aim)
        made.append(codec.decompress(data)[0][0])
        size += len(data)
        advance()
    kbps = 8 * size / 1000 / (sum(map(len, wavs)) / sample_rate)
    if "snr" in aim:
        return Point("fidelity", kbps, FILES, made, {"asked_snr_db": aim["snr"]})
    more = {}
    if "codebooks" in aim:
        more = {"nominal_kbps": codec.bitrates[aim["codebooks"] - 1]}
    return Point("ours", kbps, FILES, made, more)


@torch.no_grad()
def _nested(codec, wav, stages, device) -> list[np.ndarray]:
    """Encode once, decode the first n codes for each n in ``stages``."""
    signal = torch.from_numpy(wav)[None].to(device)
    codes = codec.encode(signal)
    return [
        codec.decode(codes[:, :n], length=len(wav))[0].float().cpu().numpy()
        for n in stages
    ]
