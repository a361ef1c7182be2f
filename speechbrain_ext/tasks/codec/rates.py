"""Bitrates that a user asks for, held against those that the codec has."""

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
    wrong = []
    for rate in rates:
        try:
            codec.check_kbps(rate)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"--{option}:\n  " + "\n  ".join(wrong))
