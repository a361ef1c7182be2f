"""Noise, rooms and microphones for training crops; each crop's own, and repeatable."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechbrain_ext.data.noise import (
    Sound,
    Voices,
    coloured_noise,
    draw_piece,
    find_sounds,
    unit_power,
)
from speechbrain_ext.data.rooms import (
    convolve,
    equalize,
    find_responses,
    read_response,
    synthetic_response,
)
from speechbrain_ext.data.sampler import generator_for

_MUSAN_KINDS = ("noise", "music", "speech")
_NUM_VOICES = (3, 7)
_COLOURS = (0.0, 2.0)
_NUM_OCTAVES = 8
#: Files to try before generated noise stands in for them.
_MAX_TRIES = 4


class Augment:
    """Adds reverberation, then noise, then a microphone's colour, each by chance.

    Every decision is a pure function of (seed, epoch, utt_id, use) and the files in the
    folders. A crop that is silent or not finite is returned as it is, and no file can
    make a good one so: what is unusable is replaced by what is generated.

    Noise is one of these, equally often: with ``noise_folder`` in the layout of MUSAN
    (Snyder et al., 2015, https://arxiv.org/abs/1510.08484; the folder itself or its
    ``musan`` has ``noise``, ``music`` and ``speech``, of which some may be missing)
    noise, music, or babble of 3 to 7 ``speech`` files; with any other folder its files.
    Without one, noise between white and brown. Where there is no ``speech``, babble is
    mixed of other training speakers.

    Arguments
    ---------
    noise_folder : str or PathLike, optional
        Audio files to draw noise from.
    rir_folder : str or PathLike, optional
        Impulse responses, such as RIRS_NOISES; without one rooms are generated.
    noise_prob, reverb_prob, eq_prob : float
        How likely each of the three is, in [0, 1].
    snr_db : Sequence of float
        Lowest and highest ratio of speech to noise or music, dB.
    babble_snr_db : Sequence of float
        The same for babble; higher, since it hides the very voice that is learned.
    eq_db : float
        Largest gain or loss of an octave, dB (>= 0).
    seed : int
        The experiment's seed.

    Raises
    ------
    UserError
        If a folder is missing or has no readable audio; broken files are named in a
        warning and left out.
    ValueError
        If a setting is out of its range.

    Example
    -------
    >>> wav = np.sin(np.arange(16000, dtype=np.float32) / 9)
    >>> augment = Augment(noise_prob=1.0, seed=3)
    >>> once, twice = (augment(wav, 16000, utt_id="a", epoch=1) for _ in range(2))
    >>> bool((once == twice).all() and (once != wav).any())
    True
    """

    def __init__(
        self,
        noise_folder: str | os.PathLike | None = None,
        rir_folder: str | os.PathLike | None = None,
        *,
        noise_prob: float = 0.5,
        reverb_prob: float = 0.3,
        eq_prob: float = 0.3,
        snr_db: Sequence[float] = (5.0, 20.0),
        babble_snr_db: Sequence[float] = (13.0, 20.0),
        eq_db: float = 4.0,
        seed: int = 0,
    ):
        probabilities = {
            "noise_prob": noise_prob,
            "reverb_prob": reverb_prob,
            "eq_prob": eq_prob,
        }
        faults = [
            f"{name} must be in [0, 1], got {value}"
            for name, value in probabilities.items()
            if not 0 <= value <= 1
        ]
        for name, ends in (("snr_db", snr_db), ("babble_snr_db", babble_snr_db)):
            if len(ends) != 2 or not -100 <= ends[0] <= ends[1] <= 100:
                faults.append(
                    f"{name} must be [lowest, highest] in dB from -100 to 100, got "
                    f"{list(ends)}"
                )
        if not 0 <= eq_db <= 40:
            faults.append(f"eq_db must be in [0, 40], got {eq_db}")
        if faults:
            raise ValueError("Augment: " + "; ".join(faults))
        self.noise_prob, self.reverb_prob, self.eq_prob = probabilities.values()
        self.snr_db, self.babble_snr_db = tuple(snr_db), tuple(babble_snr_db)
        self.eq_db = eq_db
        self.seed = seed
        self.sounds = {} if noise_folder is None else _find_noise(Path(noise_folder))
        self.responses = [] if rir_folder is None else find_responses(rir_folder)

    def __call__(
        self,
        wav: np.ndarray,
        sample_rate: int,
        *,
        utt_id: str,
        epoch: int,
        use: int = 0,
        spk_id: str | None = None,
        voices: Voices | None = None,
    ) -> np.ndarray:
        """Return one crop, changed.

        Arguments
        ---------
        wav : numpy.ndarray
            float32 [time].
        sample_rate : int
            In Hz.
        utt_id : str
            The utterance.
        epoch : int
            Counted from any number.
        use : int
            Which crop of the utterance in this epoch.
        spk_id : str, optional
            Who speaks; does not talk in the babble, too.
        voices : Voices, optional
            Where babble comes from; without, there is none but that of a folder.

        Returns
        -------
        numpy.ndarray
            float32 [time], finite, with samples in [-1, 1], or no larger than the
            largest in ``wav``: it is made softer as a whole, never clipped.
        """
        peak = float(np.abs(wav).max(initial=0))
        if not 0 < peak < np.inf:
            return wav

        def generator(purpose: str) -> np.random.Generator:
            return generator_for(self.seed, epoch, utt_id, f"{purpose} {use}")

        changed = self._reverberated(wav, sample_rate, generator("reverb"))
        changed = self._with_noise(
            changed, sample_rate, generator("noise"), spk_id, voices
        )
        changed = self._equalized(changed, sample_rate, generator("eq"))
        loudest = float(np.abs(changed).max())
        if not loudest < np.inf:
            return wav
        limit = max(1.0, peak)
        if loudest > limit:
            # A rounding below, so that float32 does not end above.
            changed = changed * np.float32(limit / loudest * (1 - 1e-6))
        return changed

    def _reverberated(self, wav, sample_rate, generator):
        if generator.random() >= self.reverb_prob:
            return wav
        response = None
        if self.responses:
            choice = int(generator.integers(len(self.responses)))
            response = read_response(self.responses[choice], sample_rate)
        if response is None:
            response = synthetic_response(generator, sample_rate)
        return convolve(wav, response)

    def _with_noise(self, wav, sample_rate, generator, spk_id, voices):
        if generator.random() >= self.noise_prob:
            return wav
        kinds = [kind for kind in ("noise", "music") if self.sounds.get(kind)]
        kinds = kinds or ["coloured"]
        if voices is not None or self.sounds.get("speech"):
            kinds.append("babble")
        kind = kinds[int(generator.integers(len(kinds)))]
        ends = self.babble_snr_db if kind == "babble" else self.snr_db
        snr_db = generator.uniform(*ends)

        def piece(kind: str) -> np.ndarray | None:
            sounds = self.sounds.get(kind)
            if sounds:
                choice = int(generator.integers(len(sounds)))
                return draw_piece(sounds[choice], generator, len(wav), sample_rate)
            if kind == "speech" and voices is not None:
                return voices.draw(generator, len(wav), sample_rate, spk_id)
            return None

        noise = None
        if kind == "babble":
            number = int(generator.integers(*_NUM_VOICES, endpoint=True))
            talk = [one for _ in range(number) if (one := piece("speech")) is not None]
            noise = unit_power(np.sum(talk, axis=0)) if talk else None
        elif kind != "coloured":
            tries = (piece(kind) for _ in range(_MAX_TRIES))
            noise = next((one for one in tries if one is not None), None)
        if noise is None:
            exponent = generator.uniform(*_COLOURS)
            noise = unit_power(coloured_noise(generator, len(wav), exponent))
        if noise is None:
            return wav
        power = float(np.mean(np.square(wav, dtype=np.float64)))
        return wav + noise * np.float32(np.sqrt(power) * 10 ** (-snr_db / 20))

    def _equalized(self, wav, sample_rate, generator):
        if generator.random() >= self.eq_prob or not self.eq_db:
            return wav
        gains_db = generator.uniform(-self.eq_db, self.eq_db, _NUM_OCTAVES)
        return equalize(wav, gains_db, sample_rate)


def _find_noise(folder: Path) -> dict[str, list[Sound]]:
    """Files by kind; a folder without MUSAN's layout is all noise."""
    for root in (folder / "musan", folder):
        kinds = [kind for kind in _MUSAN_KINDS if (root / kind).is_dir()]
        if kinds:
            return {kind: find_sounds(root / kind, "noise_folder") for kind in kinds}
    return {"noise": find_sounds(folder, "noise_folder")}
