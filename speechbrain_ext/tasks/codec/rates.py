"""Bitrates and fidelities that a user asks for, held against what a codec has."""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain_ext.errors import UserError


def check_rates(codec, rates: Sequence[float], option: str) -> None:
    """Refuse bitrates that a codec does not have.

    Arguments
    ---------
    codec : TransformCodec, SEANetCodec or WaveCodec
        Has ``check_kbps``.
    rates : Sequence[float]
        In kbps.
    option : str
        Name for the message.

    Raises
    ------
    UserError
        Naming all of them.
    """
    _check(codec.check_kbps, rates, option)


def check_snrs(codec, ratios: Sequence[float], option: str) -> None:
    """Refuse signal-to-noise ratios that a codec can't hold.

    Arguments
    ---------
    codec : TransformCodec, SEANetCodec or WaveCodec
        One with ``check_snr`` holds some.
    ratios : Sequence[float]
        In dB.
    option : str
        Name for the message.

    Raises
    ------
    UserError
        Naming all of them.
    """
    if ratios and not hasattr(codec, "check_snr"):
        raise UserError(
            f"--{option}: {type(codec).__name__} promises no fidelity; leave it out"
        )
    if ratios:
        _check(codec.check_snr, ratios, option)


def _check(check, values, option) -> None:
    wrong = []
    for value in values:
        try:
            check(value)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"--{option}:\n  " + "\n  ".join(wrong))
