"""`SpeakerVerifier`: embeddings of speech, and whether two are of one speaker."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_ext.data.audio import AudioError
from speechbrain_ext.data.recording import load_recording, usable_samples
from speechbrain_ext.errors import UserError
from speechbrain_ext.inference.folder import DECISION, ExportFolder, is_export
from speechbrain_ext.inference.source import find_folder
from speechbrain_ext.sharing.weights import read_weights
from speechbrain_ext.tasks.experiment import usable_device
from speechbrain_ext.tasks.speaker.decision import Decision, Threshold
from speechbrain_ext.tasks.speaker.decision_state import KeptDecision
from speechbrain_ext.tasks.speaker.embed import load_embedder
from speechbrain_ext.tasks.speaker.embedder import Embedder


class Verification(NamedTuple):
    """What `SpeakerVerifier.verify_files` finds.

    Attributes
    ----------
    score : float
        Of the two embeddings; the higher, the more alike.
    decision : bool
        Whether the score reaches the threshold: the same speaker.
    threshold : Threshold
        What the score was compared with, and how often that is wrong.
    """

    score: float
    decision: bool
    threshold: Threshold


class SpeakerVerifier:
    """Embeds speech, and compares two recordings.

    Arguments
    ---------
    embedder : Embedder
        With a trained encoder.
    decision : Decision or None
        How to score, and from which score on it is the same speaker; None: only
        embeddings.
    trim : Callable or None
        Applied to every recording; see `load_recording`.

    ``SpeakerVerifier.from_hparams("exp/ecapa_mini").verify_files("a.wav", "b.ogg")``
    is all that is needed to use it.
    """

    def __init__(self, embedder: Embedder, decision: Decision | None = None, trim=None):
        self.embedder = embedder
        self.decision = decision
        self.trim = trim

    @classmethod
    def from_hparams(
        cls,
        source: str | os.PathLike,
        *,
        device: str | None = None,
        backend: str = "chosen",
        trim=None,
        revision: str | None = None,
        allow: Iterable[str] = (),
    ) -> SpeakerVerifier:
        """Load a verifier from where a model was left.

        Arguments
        ---------
        source : str or PathLike
            An export folder, an experiment, or ``user/repo`` on the Hugging Face Hub.
        device : str or None
            Where to compute; None: on a GPU if there is one.
        backend : {"chosen", "cosine"}
            Score as scoring the experiment has chosen, or by raw cosine.
        trim : Callable or None
            See `SpeakerVerifier`.
        revision : str or None
            Branch, tag or commit on the Hub.
        allow : Iterable of str
            Names that the recipe in an export folder may build beyond the list.

        Raises
        ------
        UserError
            If there is no trained encoder, or it is damaged.
        """
        folder = find_folder(source, revision=revision)
        embedder = open_embedder(folder, device, allow=allow)
        if not is_export(folder):
            return cls(embedder, Decision(folder, embedder.checkpoint, backend), trim)
        kept = ExportFolder.open(folder, "speaker")
        decision = KeptDecision(
            folder,
            kept.config.get("decision"),
            lambda: read_weights(kept.file(DECISION)),
            embedder.checkpoint,
            backend,
        )
        return cls(embedder, decision, trim)

    @property
    def sample_rate(self) -> int:
        """What the encoder was trained at, Hz."""
        return self.embedder.sample_rate

    def load(self, path: str | os.PathLike) -> np.ndarray:
        """Read any audio file as the encoder takes it, float32 [time].

        Raises
        ------
        AudioError
            If the file is missing, broken, silent, too short or holds NaN.
        """
        return load_recording(path, self.sample_rate, self.trim)

    def encode_file(self, path: str | os.PathLike) -> np.ndarray:
        """Embed a file of any format; see `load` and `encode`."""
        return self.embed_samples(self.load(path), path)

    def encode(self, wav: np.ndarray, sample_rate: int) -> np.ndarray:
        """Embed samples.

        Arguments
        ---------
        wav : numpy.ndarray
            float in [-1, 1], [time]; tensors on the CPU will do.
        sample_rate : int
            In Hz; other rates than the encoder's are converted.

        Returns
        -------
        numpy.ndarray
            float32 [dim], not normalised.

        Raises
        ------
        ValueError
            If ``wav`` is not [time].
        AudioError
            If it is empty, silent, too short, or holds NaN or Inf.
        """
        wav = np.asarray(wav)
        if wav.ndim != 1:
            raise ValueError(f"encode: wav must be [time], got shape {[*wav.shape]}")
        usable = usable_samples(wav, sample_rate, self.sample_rate, self.trim)
        return self.embed_samples(usable)

    def embed_samples(
        self, wav: np.ndarray, name: str | os.PathLike = "waveform"
    ) -> np.ndarray:
        """Embed what `load` returned, [time]; ``name`` is for the message."""
        vector = self.embedder.embed([wav]).speaker[0]
        if not np.isfinite(vector).all():
            raise AudioError(name, "its embedding holds NaN or Inf")
        return vector

    def score(self, one: np.ndarray, other: np.ndarray) -> float:
        """Score two embeddings, [dim] each; the higher, the more alike.

        Raises
        ------
        UserError
            As `threshold`, or if an embedding is zero: it has no direction.
        """
        score = self._measured().score(one, other)
        if np.isnan(score):
            raise UserError("compare: an embedding is zero or not finite: no score")
        return score

    def threshold(self, far: float | None = None) -> Threshold:
        """Return the threshold for a false alarm rate, or at the equal error rate.

        Raises
        ------
        UserError
            If the experiment was not scored yet, or with other weights; the message
            holds the command.
        """
        return self._measured().threshold(far)

    def _measured(self) -> Decision:
        if self.decision is None:
            raise UserError("compare: this model comes without scores and thresholds")
        return self.decision

    def verify_files(
        self,
        one: str | os.PathLike,
        other: str | os.PathLike,
        *,
        far: float | None = None,
    ) -> Verification:
        """Decide whether the same person speaks in two files.

        Arguments
        ---------
        one, other : str or PathLike
            Audio files of any kind.
        far : float or None
            Largest false alarm rate, in (0, 1); None: the equal error rate.

        Raises
        ------
        AudioError
            If a file can't be used.
        UserError
            See `threshold`.
        """
        threshold = self.threshold(far)
        score = self.score(self.encode_file(one), self.encode_file(other))
        return Verification(score, score >= threshold.value, threshold)


def open_embedder(
    folder: Path,
    device: str | None = None,
    *,
    allow: Iterable[str] = (),
    **settings,
) -> Embedder:
    """Load the encoder of an export folder or of an experiment.

    Arguments
    ---------
    folder : Path
        Which of both is found out.
    device : str or None
        Where to compute; None: on a GPU if there is one.
    allow : Iterable of str
        See `SpeakerVerifier.from_hparams`.
    **settings
        For `Embedder`.

    Raises
    ------
    UserError
        If there is no trained encoder, or it is damaged.
    """
    if not is_export(folder):
        return load_embedder(folder, device, **settings)
    device = usable_device(device)
    kept = ExportFolder.open(folder, "speaker")
    encoder = kept.load_model(device, allow)
    checkpoint = str(kept.config.get("checkpoint_sha256", ""))
    return Embedder(
        encoder, kept.config["sample_rate"], checkpoint, device=device, **settings
    )
