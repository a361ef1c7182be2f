"""What the tensors of a dump say: values, places of NaN and Inf, levels, labels.

Needs the dump alone. Rows are utterances where there are as many rows as utterance ids;
the time axis of audio is its longest one, that of features [batch, time, channel] the
second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from speechbrain_ext.brain.forensics.dump import Dump
from speechbrain_ext.brain.forensics.statistics import tensor_statistics

PERCENTILES = (0.1, 1, 5, 25, 50, 75, 95, 99, 99.9)
NUM_EXTREMES = 10
#: Ranges of NaN and Inf of a row, and labels out of range, that are listed at most.
MAX_LISTED = 50
#: dBFS of the RMS below which an utterance counts as silent.
SILENT_DB = -80.0
#: Linear full scale from which a sample counts as clipped.
CLIPPED = 0.999
#: Label that losses ignore by convention.
IGNORED_LABEL = -100
_AUDIO_NAMES = ("wav", "sig", "audio", "speech", "waveform", "noisy", "clean", "mix")
#: Shorter tensors without a telling name are features and not audio.
_AUDIO_SAMPLES = 2000
_MAX_CHANNELS = 8


def examine_items(
    dump: Dump,
    *,
    sample_rate: int | None = None,
    label_ranges: Mapping[str, int] | None = None,
) -> dict[str, dict[str, Any]]:
    """Examine every tensor and every list of numbers of a dump.

    Arguments
    ---------
    dump : Dump
        Any schema.
    sample_rate : int, optional
        In Hz; with it places in audio are also told in seconds.
    label_ranges : Mapping, optional
        Name of an item -> number of classes.

    Returns
    -------
    dict
        Name -> facts: ``kind`` (``"audio"``, ``"data"``, ``"labels"``) and what
        `tensor_statistics` tells. With the values at hand, floating point has
        ``percentiles`` (text -> value), ``largest`` and ``smallest`` (lists of dicts
        ``value``, ``place``), all of the finite values, ``time_axis`` (int) and
        ``bad`` (see `bad_rows`), audio also ``levels`` (see `level`); labels have
        ``num_classes`` (or None), ``num_out_of_range`` and ``out_of_range`` (list of
        dicts ``value``, ``place``, ``utt_id``). ``values`` says whether they were at
        hand.
    """
    label_ranges = label_ranges or {}
    examined = {}
    for name, item in dump.items.items():
        tensor = _as_tensor(item)
        if tensor is None:
            continue
        facts = {"kind": _kind(name, tensor), **tensor_statistics(tensor)}
        facts["values"] = tensor.layout is torch.strided
        if not facts["values"]:
            pass  # sparse: places in it mean little
        elif facts["kind"] == "labels":
            facts |= _labels(
                tensor, label_ranges.get(name), _valid(dump, name, tensor), dump
            )
        else:
            facts |= _values(name, tensor, dump, facts["kind"], sample_rate)
        examined[name] = facts
    for name, statistics in dump.statistics.items():  # left out for their size
        if name not in examined:
            floating = "nan" in statistics
            kind = "data" if floating else "labels"
            examined[name] = {"kind": kind, **statistics, "values": False}
    return examined


def _as_tensor(item: Any) -> torch.Tensor | None:
    """Tensor of an item that is one, or a list of numbers."""
    if isinstance(item, torch.Tensor):
        return item
    numbers = isinstance(item, list) and item
    if numbers and all(type(value) in (int, float) for value in item):
        try:
            return torch.tensor(item)
        except (RuntimeError, ValueError, OverflowError):  # beyond 64 bits
            return None
    return None


def _kind(name: str, tensor: torch.Tensor) -> str:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return "labels"
    if tensor.is_complex() or tensor.ndim not in (2, 3):
        return "data"
    sides = sorted(tensor.shape[1:])
    if tensor.ndim == 3 and sides[0] > _MAX_CHANNELS:
        return "data"
    last = name.rpartition(".")[2].lower()
    told = any(word in last for word in _AUDIO_NAMES)
    return "audio" if told or sides[-1] >= _AUDIO_SAMPLES else "data"


def row_names(dump: Dump, num_rows: int) -> list[str | None]:
    """Utterance id (or path) of each row, or None where the dump does not say."""
    for names in (dump.utt_ids, dump.paths):
        if names and len(names) == num_rows:
            return list(names)
    return [None] * num_rows


def waveforms(dump: Dump, name: str) -> tuple[np.ndarray, list[int]]:
    """Audio of an item as [batch, time, channel], and its valid samples per row."""
    tensor = dump.items[name].float()
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(2)
    elif _channels_first(tensor):
        tensor = tensor.transpose(1, 2)
    return tensor.numpy(), _valid(dump, name, tensor)


def _channels_first(tensor: torch.Tensor) -> bool:
    """Whether audio is [batch, channel, time]."""
    return tensor.ndim == 3 and tensor.shape[1] < tensor.shape[2]


def _valid(dump: Dump, name: str, tensor: torch.Tensor) -> list[int]:
    """Length of each row along the time axis without its padding."""
    total = tensor.shape[1] if tensor.ndim > 1 else 1
    rows = tensor.shape[0] if tensor.ndim else 1
    lengths = dump.lengths.get(name)
    if lengths is None or lengths.numel() != rows:
        return [total] * rows
    # As SpeechBrain reads relative lengths: rounded.
    return [
        min(total, max(0, round(length * total)))
        for length in lengths.double().nan_to_num(1.0).flatten().tolist()
    ]


def _values(name, tensor, dump, kind, sample_rate) -> dict[str, Any]:
    """Percentiles, extremes, places of NaN and Inf, and levels."""
    rate = sample_rate if kind == "audio" else None
    facts: dict[str, Any] = {}
    if kind == "audio":
        array, valid = waveforms(dump, name)
    else:
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        array = real.float().numpy() if real.dtype != torch.float64 else real.numpy()
        valid = _valid(dump, name, tensor)
    finite = np.isfinite(array)
    if finite.any():
        found = np.percentile(array[finite].astype(np.float64), PERCENTILES)
        facts["percentiles"] = {
            f"{rank:g}": float(value)
            for rank, value in zip(PERCENTILES, found, strict=True)
        }
    facts["time_axis"] = 2 if kind == "audio" and _channels_first(tensor) else 1
    for title in ("largest", "smallest"):
        facts[title] = _extremes(array, title == "largest")
        for entry in facts[title] if kind == "audio" else ():
            place = entry["place"]  # of [batch, time, channel]
            if tensor.ndim == 2:
                del place[2]
            elif facts["time_axis"] == 2:
                place[1:] = place[:0:-1]
    names = row_names(dump, len(array) if array.ndim else 1)
    facts["bad"] = bad_rows(array, names, valid, rate)
    if kind == "audio":
        facts["levels"] = [
            {"row": row, "utt_id": names[row], **level(array[row, : valid[row]])}
            for row in range(len(array))
        ]
        if rate:
            for entry in facts["levels"]:
                entry["seconds"] = entry["samples"] / rate
    return facts


def _extremes(array: np.ndarray, largest: bool) -> list[dict]:
    """Ten largest or smallest finite values with their places, ties by place."""
    finite = np.isfinite(array)
    flat = np.where(finite, array, -np.inf if largest else np.inf).reshape(-1)
    count = min(NUM_EXTREMES, int(finite.sum()))
    if not count:
        return []
    keys = -flat if largest else flat
    # All values up to the tenth, so that ties are settled by place and not by chance.
    limit = np.partition(keys, count - 1)[count - 1]
    chosen = np.flatnonzero(keys <= limit)
    chosen = chosen[np.argsort(keys[chosen], kind="stable")][:count]
    return [
        {
            "value": float(flat[index]),
            "place": [int(i) for i in np.unravel_index(index, array.shape)],
        }
        for index in chosen
    ]


def bad_rows(
    array: np.ndarray,
    names: list[str | None],
    valid: list[int],
    sample_rate: int | None = None,
) -> list[dict[str, Any]]:
    """Say which rows hold NaN or Inf, and where.

    Arguments
    ---------
    array : np.ndarray
        [batch, time, ...], or fewer axes.
    names : list
        Utterance id of each row, or None.
    valid : list of int
        Steps of each row without its padding.
    sample_rate : int, optional
        Steps a second.

    Returns
    -------
    list of dict
        ``row``, ``utt_id``, ``nan``, ``inf`` (counts of elements), ``num_ranges``,
        ``ranges``: up to 50 dicts of neighbouring bad steps: ``start``, ``stop``
        (exclusive), ``what`` (``"NaN"``, ``"Inf"`` or ``"NaN and Inf"``), ``seconds``
        (start and stop, with a sample rate), ``padding`` (true if all of it lies
        behind the end of the utterance).

    Example
    -------
    >>> wav = np.zeros((2, 8)); wav[1, 2:5] = np.nan
    >>> bad_rows(wav, ["a", "b"], [8, 8])[0]["ranges"][0]["start"]
    2
    """
    array = array.reshape(1) if array.ndim == 0 else array
    steps = array.shape[1] if array.ndim > 1 else 1
    found = []
    spoiled = ~np.isfinite(array).all(tuple(range(1, array.ndim)))
    for row in np.flatnonzero(spoiled):
        values = array[row].reshape(steps, -1)
        nan, inf = np.isnan(values), np.isinf(values)
        entry = {
            "row": int(row),
            "utt_id": names[row],
            "nan": int(nan.sum()),
            "inf": int(inf.sum()),
        }
        bad = np.concatenate([[False], (nan | inf).any(1), [False]])
        edges = np.flatnonzero(bad[1:] != bad[:-1]).reshape(-1, 2)
        entry["num_ranges"] = len(edges)
        entry["ranges"] = []
        for start, stop in edges[:MAX_LISTED].tolist():
            kinds = [
                kind
                for kind, where in (("NaN", nan), ("Inf", inf))
                if where[start:stop].any()
            ]
            part = {"start": start, "stop": stop, "what": " and ".join(kinds)}
            if sample_rate:
                part["seconds"] = [start / sample_rate, stop / sample_rate]
            part["padding"] = start >= valid[row]
            entry["ranges"].append(part)
        found.append(entry)
    return found


def level(wav: np.ndarray) -> dict[str, Any]:
    """Level of one utterance.

    Arguments
    ---------
    wav : np.ndarray
        [time] or [time, channel] without padding, linear full scale 1; NaN and Inf are
        left out.

    Returns
    -------
    dict
        ``samples`` (time steps), ``peak`` (linear), ``rms_db`` (dBFS; -inf for digital
        silence), ``silent`` (RMS below -80 dBFS), ``clipped`` (share of samples at
        full scale or beyond), ``dc`` (mean). ``peak`` and the rest are None where
        nothing finite is left.

    Example
    -------
    >>> level(np.full(100, 0.1))["rms_db"]
    -20.0
    """
    samples = len(wav)
    values = wav[np.isfinite(wav)].astype(np.float64)
    if not values.size:
        nothing = dict.fromkeys(("peak", "rms_db", "silent", "clipped", "dc"))
        return {"samples": samples, **nothing}
    peak = float(np.abs(values).max())
    # Scaled by the peak: squares of 1e200 would overflow.
    rms = peak and peak * float(np.sqrt(np.square(values / peak).mean()))
    rms_db = round(20 * math.log10(rms), 6) if rms else -math.inf
    return {
        "samples": samples,
        "peak": peak,
        "rms_db": rms_db,
        "silent": rms_db < SILENT_DB,
        "clipped": float((np.abs(values) >= CLIPPED).mean()),
        "dc": float(values.mean()),
    }


def _labels(tensor, num_classes, valid, dump) -> dict[str, Any]:
    """Labels that no class has: negative, or not below the number of classes."""
    array = tensor.numpy()
    wrong = (array < 0) & (array != IGNORED_LABEL)
    if num_classes is not None:
        wrong |= array >= num_classes
    if array.ndim > 1:  # padding is nobody's label
        steps = np.arange(array.shape[1])
        inside = steps[None, :] < np.asarray(valid)[:, None]
        wrong &= inside.reshape(inside.shape + (1,) * (array.ndim - 2))
    places = np.argwhere(wrong)
    names = row_names(dump, len(array) if array.ndim else 1)
    return {
        "num_classes": num_classes,
        "num_out_of_range": len(places),
        "out_of_range": [
            {
                "value": int(array[tuple(place)]),
                "place": place.tolist(),
                "utt_id": names[place[0]] if len(place) else None,
            }
            for place in places[:MAX_LISTED]
        ],
    }
