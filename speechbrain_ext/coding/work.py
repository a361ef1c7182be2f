"""One recording to a coded file, or back, by a model that is loaded once."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechbrain_ext.codec.container import (
    MAGIC,
    MODEL_BYTES,
    check_limits,
    read_coded,
)
from speechbrain_ext.coding.plan import STREAM, Job
from speechbrain_ext.coding.sound import SoundFormat, write_sound
from speechbrain_ext.data.audio import AudioError, load_channels
from speechbrain_ext.data.check import find_sample_fault
from speechbrain_ext.errors import UserError
from speechbrain_ext.files import atomic_path
from speechbrain_ext.inference import SpeechCodec
from speechbrain_ext.inference.codec import DEFAULT_KBPS


@dataclass(frozen=True)
class Done:
    """What became of a file.

    Attributes
    ----------
    name : str
        Of the input.
    fault : str or None
        Why nothing was written.
    seconds : float
        Of the recording.
    channels, num_bytes : int
        Of the recording, and of the coded file.
    clipped : int
        Samples that were louder than the format can tell.
    data : bytes or None
        What goes to standard output.
    """

    name: str
    fault: str | None = None
    seconds: float = 0.0
    channels: int = 0
    num_bytes: int = 0
    clipped: int = 0
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Task:
    """What is done with each file; small, so that processes can be told.

    Attributes
    ----------
    who : {"encode", "decode"}
    model : str
        Of `SpeechCodec.from_hparams`.
    revision : str or None
    allow : tuple of str
    aim : Mapping
        ``kbps``, ``snr`` or ``codebooks``; empty: the model's own.
    form : SoundFormat
        Of what is decoded.
    """

    who: str
    model: str
    revision: str | None = None
    allow: tuple[str, ...] = ()
    aim: Mapping[str, Any] = field(default_factory=dict)
    form: SoundFormat = SoundFormat()

    def open(self) -> Worker:
        """Load the model.

        Raises
        ------
        UserError
            If there is none, it has no files, or is not of a kind to aim at that.
        """
        try:
            codec = SpeechCodec.from_hparams(
                self.model, device="cpu", revision=self.revision, allow=self.allow
            )
        except UserError as error:
            told = str(error).removeprefix("SpeechCodec: ")
            told = told if told.startswith(self.model) else f"{self.model}: {told}"
            raise UserError(f"{self.who}: --model {told}") from error
        if not codec.has_files:
            kind = type(codec.codec).__name__
            raise UserError(
                f"{self.who}: --model {self.model}: {kind} has no "
                "file format\n  Next: give a codec that has one, as of recipes/codec/"
            )
        if self.who == "decode":
            return Worker(self, codec)
        aim = dict(self.aim) or default_aim(codec)
        _check_aim(self.model, codec, aim)
        return Worker(self, codec, aim)


def default_aim(codec: SpeechCodec) -> dict[str, Any]:
    """Return what is asked of a codec where nobody says: 8 kbps, or all codebooks."""
    if codec.has_codes:
        return {"codebooks": codec.codec.quantizer.num_quantizers}
    return {"kbps": DEFAULT_KBPS}


def _check_aim(model: str, codec: SpeechCodec, aim: Mapping[str, Any]) -> None:
    """Refuse what the model has not, once and not for each file."""
    [(option, value)] = aim.items()
    kind, has = type(codec.codec).__name__, "--kbps R or --snr DB"
    if codec.has_codes:
        most = codec.codec.quantizer.num_quantizers
        has = f"--kbps R or --codebooks 1 to {most}"
    wrong = "snr" if codec.has_codes else "codebooks"
    said = f"encode: --{option} {value:g}: --model {model} ({kind})"
    if option == wrong:
        what = "promises no fidelity" if codec.has_codes else "has no codebooks"
        raise UserError(f"{said} {what}\n  Next: {has}")
    try:
        if option == "kbps" and hasattr(codec.codec, "check_kbps"):
            codec.codec.check_kbps(value)
        nothing = np.zeros(codec.sample_rate // 10, np.float32)
        codec.compress(nothing, codec.sample_rate, **aim)
    except ValueError as error:
        raise UserError(f"{said} can't: {_plain(error)}\n  Next: {has}") from error


class Worker:
    """Makes files, one after the other.

    Arguments
    ---------
    task : Task
    codec : SpeechCodec
    aim : dict or None
        What `encode` aims at.
    """

    def __init__(self, task: Task, codec: SpeechCodec, aim: dict | None = None):
        self.task, self.codec, self.aim = task, codec, aim or {}

    def __call__(self, job: Job) -> Done:
        """Make a file, or say why there is none."""
        make: Callable[[Job], Done]
        make = self._encode if self.task.who == "encode" else self._decode
        try:
            return make(job)
        except AudioError as error:
            return Done(job.name, error.reason)
        except UserError as error:
            return Done(job.name, str(error).removeprefix(f"{job.name}: "))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise  # torch has no class for it
            return Done(job.name, "there is not enough memory for so long a recording")
        except OSError as error:
            where = f"{job.target}: " if error.filename != str(job.source) else ""
            return Done(job.name, f"{where}{(error.strerror or str(error)).lower()}")

    def _encode(self, job: Job) -> Done:
        wave, rate = _read_sound(job)
        if reason := find_sample_fault(wave, rate, needs_speech=False):
            raise AudioError(job.name, reason)
        try:
            check_limits(rate, wave.shape[1], len(wave))
            data = self.codec.compress(wave, rate, **self.aim)
        except ValueError as error:
            raise AudioError(job.name, _plain(error)) from error
        if job.target is not None:
            with atomic_path(job.target) as draft:
                draft.write_bytes(data)
        return Done(
            job.name,
            seconds=wave.shape[1] / rate,
            channels=len(wave),
            num_bytes=len(data),
            data=data if job.target is None else None,
        )

    def _decode(self, job: Job) -> Done:
        data = _read_bytes(job)
        wanted = read_coded(data, job.name).model
        mine = self.codec.digest()[:MODEL_BYTES]
        if wanted != mine:
            raise UserError(
                f"was coded by the model {wanted.hex()}, and --model {self.task.model} "
                f"is {mine.hex()}; give the model that coded it"
            )
        wave, rate = self.codec.decompress(data, job.name)
        clipped = 0
        if self.task.form.depth != "float":
            clipped = int(np.count_nonzero(np.abs(wave) > 1))
        made = write_sound(job.target, wave, rate, self.task.form)
        return Done(
            job.name,
            seconds=wave.shape[1] / rate,
            channels=len(wave),
            num_bytes=len(data),
            clipped=clipped,
            data=made,
        )


def _read_sound(job: Job) -> tuple[np.ndarray, int]:
    if job.name == STREAM:
        import tempfile

        # Decoders want to seek, and a name whose ending may say the format.
        with tempfile.NamedTemporaryFile(suffix=".wav") as stream:
            stream.write(sys.stdin.buffer.read())
            stream.flush()
            return load_channels(stream.name)
    with open(job.source, "rb") as stream:
        head = stream.read(len(MAGIC))
    if not head:
        raise AudioError(job.name, "is empty")
    if head == MAGIC:
        raise AudioError(
            job.name, "is coded already; decode it: speechbrain-ext decode"
        )
    return load_channels(job.source)


def _read_bytes(job: Job) -> bytes:
    """Read a coded file; of what is none, not more than its beginning."""
    stream = sys.stdin.buffer if job.name == STREAM else open(job.source, "rb")
    with stream if job.name != STREAM else io.BytesIO():
        head = stream.read(len(MAGIC))
        return head + stream.read() if head == MAGIC else head


def _plain(error: ValueError) -> str:
    """Leave out the name of the class that complains."""
    who, _, what = str(error).partition(": ")
    return what if what and who.isidentifier() else str(error)
