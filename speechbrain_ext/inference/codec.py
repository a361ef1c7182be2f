"""`SpeechCodec`: a trained codec, from waveforms to codes or files, and back."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import torch

from speechbrain_ext.data.audio import AudioError, resample
from speechbrain_ext.data.check import find_sample_fault
from speechbrain_ext.inference.folder import ExportFolder, is_export
from speechbrain_ext.inference.source import opened_folder
from speechbrain_ext.tasks.codec.weights import load_codec
from speechbrain_ext.tasks.experiment import usable_device

#: What a codec that takes any rate is asked for where nobody says.
DEFAULT_KBPS = 8.0


class SpeechCodec:
    """Turns speech into codes or files, and these into speech.

    ``SpeechCodec.from_hparams("exp/transform").reconstruct(wav, 16000, kbps=8)`` is all
    that is needed to use it. `compress` and `decompress` make files and read them;
    `encode` and `decode` are for codecs that have codes.

    Arguments
    ---------
    codec : torch.nn.Module
        `TransformCodec`, `SEANetCodec` or `WaveCodec`, in evaluation mode.
    device : str
        Where it is.

    Example
    -------
    >>> from speechbrain_ext.models import TransformCodec
    >>> from speechbrain_ext.quantization import ResidualVectorQuantizer
    >>> rvq = ResidualVectorQuantizer(8, num_quantizers=4, codebook_size=16)
    >>> codec = SpeechCodec(TransformCodec(rvq, hop_samples=160, width=8).eval())
    >>> codec.bitrates
    (0.4, 0.8, 1.2, 1.6)
    >>> codes = codec.encode(np.zeros(8000), 8000, kbps=0.8)
    >>> codes.shape, codec.decode(codes).shape
    ((2, 101), (16000,))
    """

    def __init__(self, codec: torch.nn.Module, device: str = "cpu"):
        self.codec = codec
        self.device = device

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike,
        *,
        device: str | None = None,
        revision: str | None = None,
        allow: Iterable[str] = (),
    ) -> SpeechCodec:
        """Load a codec from where a model was left.

        Arguments
        ---------
        source : str or PathLike
            An export folder, an experiment, a bundle with a result, or ``user/repo`` on
            the Hugging Face Hub.
        device : str or None
            Where to compute; None: on a GPU if there is one.
        revision : str or None
            Branch, tag or commit on the Hub.
        allow : Iterable of str
            Names that the recipe in an export folder may build beyond the list.

        Raises
        ------
        UserError
            If there is no trained codec, or it is damaged.
        """
        device = usable_device(device)
        allow = tuple(allow)
        with opened_folder(source, revision=revision, allow=allow) as folder:
            if is_export(folder):
                codec = ExportFolder.open(folder, "codec").load_model(device, allow)
            else:
                codec, _ = load_codec(folder, device, stage="SpeechCodec")
        return cls(codec, device)

    @property
    def sample_rate(self) -> int:
        """What the codec was trained at, and what comes out, Hz."""
        return self.codec.sample_rate

    @property
    def has_codes(self) -> bool:
        """Whether `encode`, `decode` and `bitrates` are there."""
        return hasattr(self.codec, "quantizer")

    @property
    def has_files(self) -> bool:
        """Whether `compress`, `decompress` and `digest` are there."""
        return hasattr(self.codec, "compress")

    @property
    def bitrates(self) -> tuple[float, ...]:
        """Rates in kbps that there are: of the first 1, 2, ... rows of codes.

        Raises
        ------
        TypeError
            If the codec has no codes; it then takes any rate.
        """
        self._need_codes("bitrates")
        return self.codec.bitrates

    def encode(
        self, wav: np.ndarray, sample_rate: int, kbps: float | None = None
    ) -> np.ndarray:
        """Turn samples into codes.

        Arguments
        ---------
        wav : numpy.ndarray
            float in [-1, 1], [time] or [batch, time], at least one sample; tensors on
            the CPU will do. Silence is speech like any other.
        sample_rate : int
            In Hz; other rates than the codec's are converted.
        kbps : float or None
            Highest rate allowed, one of `bitrates` or between them; None: the highest.

        Returns
        -------
        numpy.ndarray
            int64, [num_quantizers, frames] or [batch, num_quantizers, frames]. The
            first n rows are the codes of a lower rate.

        Raises
        ------
        ValueError
            If ``wav`` has another shape, or the codec has no such rate.
        AudioError
            If it is empty, holds NaN or Inf, or is far out of [-1, 1].
        TypeError
            If the codec has no codes.
        """
        self._need_codes("encode")
        return self._encode(self._usable(wav, sample_rate), np.ndim(wav), kbps)

    def decode(self, codes: np.ndarray, length: int | None = None) -> np.ndarray:
        """Turn codes into samples.

        Arguments
        ---------
        codes : numpy.ndarray
            Integers, as `encode` returns them; fewer rows are a lower rate.
        length : int or None
            Samples wanted; None: as many as the frames hold: what went in, and up to a
            frame more.

        Returns
        -------
        numpy.ndarray
            float32, [time] or [batch, time], at `sample_rate`.

        Raises
        ------
        ValueError
            If the codes are not such that this codec can have made them, or hold fewer
            samples than ``length``.
        TypeError
            If the codec has no codes.
        """
        self._need_codes("decode")
        codes = np.asarray(codes)
        most = self.codec.quantizer.num_quantizers
        if (
            codes.ndim not in (2, 3)
            or codes.dtype.kind not in "iu"
            or not 1 <= codes.shape[-2] <= most
            or not codes.size
        ):
            raise ValueError(
                f"SpeechCodec: codes must be integers [1 to {most}, frames], alone or "
                f"in a batch, got {codes.dtype} {list(codes.shape)}"
            )
        low, high = int(codes.min()), int(codes.max())
        size = self.codec.quantizer.codebook_size
        if low < 0 or high >= size:
            raise ValueError(
                f"SpeechCodec: codes must lie in 0 to {size - 1}, got {low} to {high}"
            )
        stacked = codes if codes.ndim == 3 else codes[None]
        given = torch.from_numpy(stacked.astype(np.int64)).to(self.device)
        with torch.inference_mode():
            wav = self.codec.decode(given, length=length).float().cpu().numpy()
        return wav if codes.ndim == 3 else wav[0]

    def reconstruct(
        self, wav: np.ndarray, sample_rate: int, kbps: float | None = None
    ) -> np.ndarray:
        """Encode and decode.

        Arguments
        ---------
        wav, sample_rate, kbps
            As `encode` takes them. Of a codec without codes, ``kbps`` is that of the
            files of `compress`; None: 8.

        Returns
        -------
        numpy.ndarray
            float32, at the codec's `sample_rate`; as many samples as went in, or as
            the conversion to that rate makes of them.
        """
        usable = self._usable(wav, sample_rate)
        if not self.has_codes:
            rate = DEFAULT_KBPS if kbps is None else kbps
            found, _ = self.decompress(
                self.compress(usable, self.sample_rate, kbps=rate)
            )
            return found if np.ndim(wav) == 2 else found[0]
        codes = self._encode(usable, np.ndim(wav), kbps)
        return self.decode(codes, length=usable.shape[1])

    def compress(
        self,
        wav: np.ndarray,
        sample_rate: int,
        *,
        kbps: float | None = None,
        snr: float | None = None,
        codebooks: int | None = None,
    ) -> bytes:
        """Code a recording as the bytes of a file.

        Arguments
        ---------
        wav : numpy.ndarray
            float in [-1, 1], [time] or [channels, time].
        sample_rate : int
            In Hz.
        kbps, snr, codebooks : float, float, int, or None
            Exactly one is given: most kilobits per second of a channel; least
            signal-to-noise ratio in dB; codebooks of a codec that has them.

        Returns
        -------
        bytes
            See `speechbrain_ext.codec.container`.

        Raises
        ------
        ValueError
            If the codec has no such aim, or there is nothing to code.
        TypeError
            If the codec has no files.
        """
        self._need_files("compress")
        with torch.inference_mode():
            return self.codec.compress(
                wav, sample_rate, kbps=kbps, snr=snr, codebooks=codebooks
            )

    def decompress(self, data: bytes, name: str = "input") -> tuple[np.ndarray, int]:
        """Make a recording of the bytes of a file.

        Arguments
        ---------
        data : bytes
            What `compress` returned.
        name : str
            Of the file, for messages.

        Returns
        -------
        (numpy.ndarray, int)
            float32 [channels, time], as many samples as went in, and their rate in Hz.

        Raises
        ------
        BitstreamError
            If the bytes are damaged, or of another model.
        TypeError
            If the codec has no files.
        """
        self._need_files("decompress")
        with torch.inference_mode():
            return self.codec.decompress(data, name)

    def digest(self) -> bytes:
        """SHA-256 of what both sides of a file must share; its beginning is in it."""
        self._need_files("digest")
        return self.codec.digest()

    def _need_codes(self, what: str) -> None:
        if not self.has_codes:
            raise TypeError(
                f"SpeechCodec: {type(self.codec).__name__} has no codes and no fixed "
                f"rates, so no {what}; use compress(wav, sample_rate, kbps=8) and "
                "decompress(data), or reconstruct"
            )

    def _need_files(self, what: str) -> None:
        if not self.has_files:
            raise TypeError(
                f"SpeechCodec: {type(self.codec).__name__} has no file format, so no "
                f"{what}; use encode and decode"
            )

    def _encode(self, usable: np.ndarray, ndim: int, kbps: float | None) -> np.ndarray:
        given = torch.from_numpy(usable).to(self.device)
        with torch.inference_mode():
            codes = self.codec.encode(given, kbps).cpu().numpy()
        return codes[0] if ndim == 1 else codes

    def _usable(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Check samples and bring them to the codec's rate, float32 [batch, time]."""
        wav = np.asarray(wav)
        if wav.ndim not in (1, 2) or wav.dtype.kind != "f":
            raise ValueError(
                "SpeechCodec: wav must be float samples [time] or [batch, time], got "
                f"{wav.dtype} {list(wav.shape)}"
            )
        reason = find_sample_fault(wav, sample_rate, needs_speech=False)
        if reason is not None:
            raise AudioError("waveform", reason)
        items = [
            resample(item, sample_rate, self.sample_rate)
            for item in wav.reshape(-1, wav.shape[-1])
        ]
        return np.ascontiguousarray(np.stack(items), dtype=np.float32)
