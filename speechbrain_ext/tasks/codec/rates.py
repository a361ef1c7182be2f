"""Bitrates that a user asks for, held against those that the codec has."""

from __future__ import annotations

from collections.abc import Sequence

from speechbrain_ext.errors import UserError


def quantizers_of(codec, rates: Sequence[float], option: str) -> list[int]:
    """Return the number of quantizers for each bitrate.

    Arguments
    ---------
    codec : TransformCodec or SEANetCodec
        Has ``kbps_to_quantizers``.
    rates : Sequence[float]
        In kbps.
    option : str
        Name for the message.

    Raises
    ------
    UserError
        Naming all rates that the codec does not have.
    """
    numbers, wrong = [], []
    for rate in rates:
        try:
            numbers.append(codec.kbps_to_quantizers(rate))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"--{option}:\n  " + "\n  ".join(wrong))
    return numbers
